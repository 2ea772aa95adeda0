"""`headrace bench` as it is typed, against a server in a process of its own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from headrace.cli.bench import Places, read_key
from headrace.cli.main import app
from headrace.core.errors import InvalidRequest

PROGRAM = [sys.executable, "-c", "from headrace.cli.main import main; main()"]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server that answers well at once."""
    command = [sys.executable, "-m", "tests.upstreams"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3], text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().removeprefix("Serving ").strip()
        process.terminate()  # SIGINT means nothing to what a background job of a shell starts


def bench(*options: str, **environ: str) -> Any:
    return CliRunner().invoke(app, ["bench", *options], env={"HEADRACE_API_KEY": None, **environ})


def test_a_run_is_told_written_and_drawn(url: str, tmp_path: Path) -> None:
    file, page = tmp_path / "run.json", tmp_path / "run.html"
    options = ["--concurrency", "1,4", "--requests", "12", "--warmup", "2", "--model", "m", "--points"]
    ran = bench("run", url, *options, "--slo", "ttft=60", "--json", str(file), "--report", str(page))
    assert ran.exit_code == 0, ran.output
    made = json.loads(file.read_text("utf-8"))
    assert [one["name"] for one in made["stages"]] == ["concurrency 1", "concurrency 4"]
    assert [(one["num_ok"], one["num_warm"], one["good_share"]) for one in made["stages"]] == [(12, 2, 1.0)] * 2
    assert all(one["tokens_are_counted"] and one["output_tokens"] == 3 for one in made["stages"])
    assert len(made["points"]) == 28 and made["config"]["model"] == "m"
    assert "concurrency 4" in ran.output and page.read_text("utf-8").startswith("<!doctype html>")
    again = tmp_path / "again.html"
    assert bench("report", str(file), "--report", str(again)).exit_code == 0
    assert again.read_text("utf-8") == page.read_text("utf-8")
    beside = bench("report", str(file), str(file), "--json", str(tmp_path / "both.json"))
    assert beside.exit_code == 0, beside.output
    ratios = {row["ratio"] for row in json.loads((tmp_path / "both.json").read_text("utf-8"))["rows"]}
    assert ratios <= {1.0, None}  # None: a gap of 0


def test_the_key_goes_into_the_header_and_nowhere_else(url: str, tmp_path: Path) -> None:
    file, page, key = tmp_path / "run.json", tmp_path / "run.html", tmp_path / "key"
    key.write_text("sk-very-secret\n", "utf-8")
    options = ["--rate", "100", "--requests", "3", "--model", "m", "--key-file", str(key)]
    ran = bench("run", url, *options, "--json", str(file), "--report", str(page), "--points")
    assert ran.exit_code == 0, ran.output
    assert "sk-very-secret" not in ran.output + file.read_text("utf-8") + page.read_text("utf-8")


def test_a_key_is_read_from_its_file_else_from_the_environment(tmp_path: Path) -> None:
    def places(file: Path | None) -> Places:
        return Places(json=None, has_points=False, report=None, key_env="KEY", key_file=file, ca_file=None)

    file = tmp_path / "key"
    file.write_text("sk-file\n", "utf-8")
    assert read_key(places(file), {"KEY": "sk-env"}) == "sk-file"
    assert read_key(places(None), {"KEY": "sk-env"}) == "sk-env"
    with pytest.raises(InvalidRequest, match="variable KEY is not set; export it"):
        read_key(places(None), {})
    assert read_key(replace(places(None), key_env="HEADRACE_API_KEY"), {}) is None
    with pytest.raises(InvalidRequest, match="none"):
        read_key(places(tmp_path / "none"), {})


def test_our_own_server_is_measured_with_its_counts(tmp_path: Path) -> None:
    script, file = tmp_path / "script.json", tmp_path / "run.json"
    script.write_text(json.dumps({"turns": [{"text": "Hello there.", "cached_tokens": 4}]}), "utf-8")
    command = [sys.executable, "-m", "tests.scripted", "--script", str(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3], text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("Serving ").strip()
        options = ["--rate", "50", "--requests", "6", "--turns", "2", "--price-output", "1000000"]
        ran = bench("run", url, *options, "--json", str(file))
        process.send_signal(signal.SIGTERM)
    assert ran.exit_code == 0, ran.output
    made = json.loads(file.read_text("utf-8"))
    (stage,) = made["stages"]
    assert made["config"]["model"] == "scripted" and made["config"]["workload"]["tokens_per_word"] > 0
    assert stage["num_ok"] == 12 and stage["tokens_are_counted"] and stage["cached_tokens"] == 4
    assert stage["cost"] == pytest.approx(12 * stage["output_tokens"])


def test_requests_of_a_file_keep_the_models_that_they_name(url: str, tmp_path: Path) -> None:
    work, file = tmp_path / "mine.jsonl", tmp_path / "run.json"
    lines = [{"model": name, "messages": [{"role": "user", "content": "Hi"}]} for name in ("one", "two")]
    work.write_text("\n".join(map(json.dumps, lines)), "utf-8")
    options = ["--concurrency", "1", "--requests", "4", "--workload", str(work), "--json", str(file)]
    for more, told in (([], "one, two"), (["--model", "three"], "three")):
        ran = bench("run", url, *options, *more)
        assert ran.exit_code == 0, ran.output
        made = json.loads(file.read_text("utf-8"))
        assert made["config"]["model"] == told and made["stages"][0]["num_ok"] == 4


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--rate"),
        (["--rate", "1", "--points"], "--json"),
        (["--rate", "1", "--report", "/no/such/folder/x.html"], "folder is not there"),
        (["--rate", "1", "--extra", "[]", "--model", "m"], "is no object"),
        (["--rate", "1", "--endpoint", "messages"], "chat or completions"),
        (["--rate", "1", "--workload", "/no/such/file", "--model", "m"], "cannot be read (No such file or directory)"),
    ],
)
def test_mistakes_are_told_before_anything_is_sent(url: str, options: list[str], said: str) -> None:
    ran = bench("run", url, *options)
    assert ran.exit_code == 1 and said in ran.output


def test_a_run_in_which_nothing_succeeds_fails_and_says_why(url: str) -> None:
    refused = bench("run", "http://127.0.0.1:1", "--rate", "1", "--requests", "1")
    assert refused.exit_code == 1 and "it was refused" in refused.output
    none = bench("run", url, "--rate", "1", "--requests", "1")  # it lists no models
    assert none.exit_code == 1 and "--model" in none.output


def test_whoever_watches_a_terminal_sees_what_is_over_and_what_runs(url: str) -> None:
    ours, theirs = os.openpty()
    command = [*PROGRAM, "bench", "run", url, "--concurrency", "1,2", "--requests", "3", "--model", "m\x1b[2Jm"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # the end of a terminal
            while data := os.read(ours, 65536):
                seen += data
    os.close(ours)
    assert process.returncode == 0
    assert b"mm at" not in seen and b"m[2Jm at http://" in seen  # a name moves no cursor
    assert b"STAGE" in seen and b"concurrency 1" in seen and b"under way" in seen


def test_a_key_that_goes_out_in_the_clear_is_told(tmp_path: Path) -> None:
    options = ["--rate", "1", "--model", "m", "--extra", "[]"]
    ran = bench("run", "http://far.example", *options, HEADRACE_API_KEY="sk-very-secret")
    assert "without TLS" in ran.output and "sk-very-secret" not in ran.output
    assert "without TLS" not in bench("run", "https://far.example", *options, HEADRACE_API_KEY="sk-1").output


def test_interrupting_a_run_keeps_what_it_has(tmp_path: Path) -> None:
    work, file = tmp_path / "mine.jsonl", tmp_path / "run.json"
    work.write_text('{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}', "utf-8")
    options = ["--concurrency", "2", "--duration", "3600", "--workload", str(work), "--json", str(file)]
    with socket.create_server(("127.0.0.1", 0)) as mute:
        command = [*PROGRAM, "bench", "run", f"http://127.0.0.1:{mute.getsockname()[1]}", *options]
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # It is asked twice, and answers nothing.
        with subprocess.Popen(command, **pipes) as process, mute.accept()[0], mute.accept()[0]:
            process.send_signal(signal.SIGINT)
            out, _ = process.communicate()
    assert process.returncode == 1, out  # not one request succeeded
    (stage,) = json.loads(file.read_text("utf-8"))["stages"]
    assert stage["is_stopped"] and "(stopped)" in out and stage["errors"] == {"unfinished": 2}
