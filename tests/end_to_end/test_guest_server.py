"""`headrace serve A B C` as a process of its own: models come and go, files are shared, a killed start harms nobody."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.gguf_files import TinyLlama, write_tiny_llama
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.models.load import load_model

PROGRAM = [sys.executable, "-c", "from headrace.cli.main import main; main()"]
BOUND_S = 120.0
NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [write_tiny_llama(folder / f"{name}.gguf", TinyLlama(seed=seed)) for seed, name in enumerate(NAMES)]


@contextlib.contextmanager
def serving(home: Path, *arguments: str | Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server on a free port; ends by a signal and says nothing on the way."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
    environ |= {"HEADRACE_HOME": str(home)}
    command = [*PROGRAM, "serve", *map(str, arguments), "--port", "0", "--threads", "1", "--log-level", "warning"]
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environ) as process,
    ):
        assert process.stdout is not None
        found = re.search(r" on (http://\S+)", process.stdout.readline())
        assert found is not None
        threading.Thread(target=process.stdout.read, daemon=True).start()
        try:
            yield process, found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(BOUND_S) == 0
            errors.seek(0)
            unlogged = [line for line in errors if not line.startswith("{")]
            assert not unlogged, "".join(unlogged)  # such as the kernels' own tale of what was never let go


def call(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=BOUND_S) as reply:
        return json.load(reply)


def complete(url: str, model: str, prompt: str = "a mill") -> str:
    body = {"model": model, "prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True}
    text: str = call(f"{url}/v1/completions", body)["choices"][0]["text"]
    return text


def type_in(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def maps(process: subprocess.Popen[str], kind: str = "maps") -> str:
    return Path(f"/proc/{process.pid}/{kind}").read_text("utf-8")


def test_three_models_take_turns_where_two_fit_and_each_says_what_it_says_alone(
    models: list[Path], tmp_path: Path
) -> None:
    alone = {}
    for path in models:
        with serving(tmp_path, path, "--kv-type", "fp16") as (_, url):
            alone[path.stem] = complete(url, path.stem)
    assert len(set(alone.values())) == 3
    with serving(tmp_path, *models, "--kv-type", "fp16", "--kv-memory", "1MB", "--memory", "1.2MB") as (process, url):
        listed = call(f"{url}/v1/models")["data"]
        assert [(one["id"], one["loaded"]) for one in listed] == [("one", True), ("two", False), ("three", False)]
        held = []

        def client(shift: int) -> None:
            for turn in range(9):
                name = NAMES[(turn + shift) % 3]
                assert complete(url, name) == alone[name]
                held.append(call(f"{url}/models")["bytes_held"])

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(client, range(3)))
        assert max(held) <= 1_200_000 < 3 * call(f"{url}/models/load", {"model": "one"})["model"]["bytes_held"]
        for name in NAMES:
            assert call(f"{url}/models/unload", {"model": name})["success"] is True
        assert ".pack" not in maps(process)
        assert complete(url, "two") == alone["two"]
        assert maps(process).count(".pack") == 1


def test_what_is_in_memory_can_be_seen_and_changed_from_the_command_line(models: list[Path], tmp_path: Path) -> None:
    with serving(tmp_path, *models[:2]) as (_, url):
        code, out, _ = type_in("models", "ps", "--url", url)
        assert code == 0
        assert [line.split()[:2] for line in out.splitlines()[1:3]] == [["one", "ready"], ["two", "absent"]]
        code, out, _ = type_in("models", "load", "two", "--url", url)
        assert (code, out.split()[:3]) == (0, ["two", "is", "ready,"])
        code, out, _ = type_in("models", "unload", "two", "--no-wait", "--url", url, "--json")
        assert (code, json.loads(out)["state"]) == (0, "absent")
        code, _, err = type_in("models", "load", "none", "--url", url)
        assert code == 1 and "served: one, two" in err
        with pytest.raises(urllib.error.HTTPError) as caught:
            call(f"{url}/models/unload", {"model": "two", "force": True})
        assert caught.value.code == 400
    code, _, err = type_in("models", "ps", "--url", url)
    assert code == 1 and "No Headrace server answers" in err and "headrace serve" in err


def test_the_command_line_finds_the_server_of_the_settings_and_needs_a_key_where_there_are_keys(
    models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("HEADRACE_API_KEY", "HEADRACE_HOST", "HEADRACE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    keys = {}
    for scope in ("generate", "admin"):
        code, out, _ = type_in("keys", "add", scope, "--scope", scope, "--home", str(tmp_path), "--json")
        assert code == 0
        keys[scope] = json.loads(out)["key"]
    with serving(tmp_path, models[0]) as (_, url):
        monkeypatch.setenv("HEADRACE_PORT", url.rpartition(":")[2])
        code, _, err = type_in("models", "ps")
        assert code == 1 and "Give a key of scope admin with --key or HEADRACE_API_KEY" in err
        code, _, err = type_in("models", "ps", "--key", keys["generate"])
        assert code == 1 and "lacks the scope 'admin'" in err
        monkeypatch.setenv("HEADRACE_API_KEY", keys["admin"])
        code, out, _ = type_in("models", "ps", "--json")
        assert code == 0 and [one["id"] for one in json.loads(out)["data"]] == ["one"]
    code, _, err = type_in("models", "ps", "--url", "nowhere")
    assert code == 1 and "url: 'nowhere' is no address" in err


def test_a_broken_guest_is_refused_at_the_start_by_file_and_field(models: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(models[1].read_bytes()[:-1000])
    strange = write_tiny_llama(tmp_path / "strange.gguf", architecture="walrus")
    for path, said in ((broken, "truncated|ends|bytes"), (strange, "walrus.*llama")):
        command = [*PROGRAM, "serve", str(models[0]), str(path), "--port", "0", "--home", str(tmp_path / "home")]
        result = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert str(path) in result.stderr and re.search(said, result.stderr), result.stderr


def test_a_model_that_can_never_fit_is_refused_at_the_start_with_the_sum(models: list[Path], tmp_path: Path) -> None:
    command = [*PROGRAM, "serve", *map(str, models[:2]), "--port", "0", "--home", str(tmp_path / "home")]
    command += ["--memory", "100kB", "--kv-memory", "1MB"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert result.returncode == 1
    assert re.search(
        r"weights \S+ MB \+ pages \S+ MB = \S+ MB, but the budget is 0.1 MB; raise --memory", result.stderr
    )


def test_two_processes_share_the_weights(smollm2_path: Path, tmp_path: Path) -> None:
    with serving(tmp_path, smollm2_path) as (process, url):
        complete(url, smollm2_path.stem)
        ours = load_model(smollm2_path, cache_dir=tmp_path / "packed", touches=True)
        entries = re.split(r"\n(?=[0-9a-f]+-[0-9a-f]+ )", maps(process, "smaps"))
        (entry,) = [entry for entry in entries if ".pack" in entry.partition("\n")[0]]
        sizes = {key: 1024 * int(value) for key, value in re.findall(r"^(\w+): +(\d+) kB", entry, flags=re.MULTILINE)}
        assert sizes["Shared_Clean"] > 0.9 * ours.weights_bytes
        assert sizes["Private_Clean"] + sizes["Private_Dirty"] < 0.1 * ours.weights_bytes


def test_a_process_killed_while_it_loads_leaves_nothing_that_harms_the_next(smollm2_path: Path, tmp_path: Path) -> None:
    packed = tmp_path / "packed"
    command = [*PROGRAM, "serve", str(smollm2_path), "--port", "0", "--home", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        ends = time.monotonic() + BOUND_S
        while not list(packed.glob("*.pack.*.partial")):
            assert process.poll() is None and time.monotonic() < ends
        process.kill()
    with serving(tmp_path, smollm2_path) as (_, url):
        assert complete(url, smollm2_path.stem, "The capital of France is").startswith(" Paris")
    assert list(packed.glob("*.partial")) == []
