"""What can be typed: sentences instead of tracebacks, exit codes, JSON, and a start that imports little."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace import __version__
from headrace.cli.main import app
from headrace.cli.serve import greeting

HEAVY = {"numpy", "rich", "msgspec", "uvicorn", "starlette", "jinja2", "tokenizers", "sqlite3", "torch"}


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A state directory and a working directory of this test's own."""
    for name in ("HEADRACE_CONFIG", "HEADRACE_PORT", "HEADRACE_HOST", "HEADRACE_KEYS", "HEADRACE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    yield


def type_in(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_help_imports_no_engine_no_server_and_nothing_heavy() -> None:
    code = (
        "import sys\nfrom headrace.cli.main import app\ntry:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "print('|'.join(sorted(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(result.stdout.splitlines()[-1].split("|"))
    assert "Usage:" in result.stdout
    assert {name.split(".")[0] for name in modules} & HEAVY == set()
    assert not any(name.startswith(("headrace.engine", "headrace.server", "headrace.kernels")) for name in modules)


@pytest.mark.parametrize(
    "command", ["serve", "generate", "chat", "embed", "pull", "models", "doctor", "keys", "version"]
)
def test_every_command_explains_itself(command: str) -> None:
    code, out, _ = type_in(command, "--help")
    assert code == 0 and f"{command} [OPTIONS]" in out


def test_the_version_is_printed() -> None:
    assert type_in("version") == type_in("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("variables", "typed", "place"),
    [
        ({}, ("nope",), "the command line"),
        ({"HEADRACE_MODEL": "nope"}, (), "the environment"),
        ({}, (), "headrace.toml:2"),
    ],
)
def test_a_model_that_is_not_there_is_told_where_it_was_written(
    variables: dict[str, str], typed: tuple[str, ...], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    Path("headrace.toml").write_text('port = 0\nmodel = "nope"\n', "utf-8")
    code, _, err = type_in("serve", *typed)
    assert code == 1 and err.startswith(f"headrace: {place}: model: No model is called nope; known are ")


def test_a_set_of_policies_that_does_not_ship_is_named() -> None:
    code, _, err = type_in("policy", "show", "nope")
    assert (code, err) == (1, "headrace: no set 'nope' ships; known are default, agents.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("serve", "--port", "99999"), "headrace: port: 99999 (from the command line) is not a whole number"),
        (("serve", "--config", "nowhere.toml"), "headrace: config: there is no file nowhere.toml"),
        (("serve", "--host", "0.0.0.0"), "headrace: host: 0.0.0.0 can be reached from other machines"),
        (("serve", "--max-batch-tokens", "8"), "headrace: max_sequences: 64 is not in [1, 7]"),
        (("serve", "--port", "0"), "run `headrace pull smollm2-135m-instruct` first"),
        (("serve", "--port", "0", "smolm2"), "did you mean smollm2?"),
        (("generate", "hi"), "run `headrace pull smollm2-135m-instruct` first"),
        (("generate", "hi", "--temperature", "nan"), "temperature: nan is not in"),
        (("generate", "hi", "--max-tokens", "0"), "max_tokens: 0 is not in"),
        (("generate", "hi", "--logprobs", "21", "--json"), "logprobs: 21 is not in [0, 20]"),
        (("generate", "hi", "--logprobs", "2"), "logprobs: they are part of the JSON document only; add --json"),
        (("generate", "hi", "--json-schema", "nowhere.json"), "json_schema: nowhere.json cannot be read"),
        (("embed", ""), "texts[0]: is empty; give at least one character"),
        (("embed", "-"), "texts: standard input holds none; give at least one line"),
        (("embed", "hi", "--dimensions", "0"), "dimensions: 0 is not in [1, "),
        (("embed", "hi", "--npy", "nowhere/x.npy"), "nowhere; make it first"),
        (("embed", "hi"), "run `headrace pull all-minilm-l6-v2` first"),
        (("embed", "hi", "--model", "smollm2"), "run `headrace pull smollm2-135m-instruct` first"),
        (("keys", "add", "a", "--share", "0"), "share: 0.0 (the new key) is not in (0, 1000]"),
        (("keys", "add", "a", "--priority", "5000"), "priority: 5000 (the new key) is not in [-1000, 1000]"),
        (("chat", "--top-p", "2"), "top_p: 2.0 is not in"),
        (("keys", "add", "a", "--scope", "all"), "must be some of generate, metrics, admin"),
        (("keys", "remove", "a"), "There is no keys file"),
        (("pull", "no-such-model"), "no model in the catalog"),
    ],
)
def test_an_expected_error_is_one_sentence_on_stderr_and_exit_code_1(arguments: tuple[str, ...], sentence: str) -> None:
    code, out, err = type_in(*arguments)
    assert code == 1 and out == ""
    assert sentence in err and err.startswith("headrace: ")
    assert "Traceback" not in err


def test_a_misspelt_option_is_a_usage_error_with_exit_code_2() -> None:
    code, _, err = type_in("serve", "--prot", "1")
    assert code == 2 and "--port" in err


def test_the_resolved_settings_are_printed_and_nothing_starts() -> None:
    code, out, _ = type_in("serve", "--print-config", "--threads", "3")
    assert code == 0 and "threads = 3  # from the command line" in out and 'host = "127.0.0.1"  # default' in out


def test_models_lists_the_catalog_for_people_and_for_programs(tmp_path: Path) -> None:
    _, out, _ = type_in("models")
    assert "smollm2-135m-instruct" in out and "not installed" in out and "Apache-2.0" in out
    _, out, _ = type_in("models", "--json")
    listed = json.loads(out)
    assert listed["home"] == str(tmp_path / "home")
    offered = [("smollm2-135m-instruct", False), ("gemma3-270m", False), ("all-minilm-l6-v2", False)]
    assert [(row["name"], row["installed"]) for row in listed["models"]] == offered
    assert "Gemma terms" in out and "not instruction-tuned" in out


def test_a_pulled_file_is_listed_with_what_the_database_knows(tmp_path: Path) -> None:
    (tmp_path / "toy.gguf").write_bytes(b"GGUF" + bytes(100))
    code, out, _ = type_in("pull", str(tmp_path / "toy.gguf"), "--json")
    pulled = json.loads(out)
    assert code == 0 and pulled["name"] == "toy" and pulled["size"] == 104 and not pulled["already_installed"]
    _, out, _ = type_in("models", "--json")
    row = json.loads(out)["models"][0]
    assert (row["name"], row["path"], row["sha256"]) == ("toy", pulled["path"], pulled["sha256"])
    assert row["source"] == str(tmp_path / "toy.gguf") and row["pulled_at"] > 0


def test_keys_are_issued_listed_and_taken_back() -> None:
    _, key, told = type_in("keys", "add", "laptop", "--tenant", "anna")
    assert key.startswith("hr_") and "not shown again" in told
    _, out, _ = type_in("keys", "list", "--json")
    (entry,) = json.loads(out)
    assert (entry["name"], entry["tenant"], entry["scopes"]) == ("laptop", "anna", ["generate"])
    assert type_in("keys", "remove", "laptop")[0] == 0
    assert "No keys" in type_in("keys", "list")[1]


def test_the_greeting_can_be_copied_and_names_a_key_only_where_one_is_needed() -> None:
    text = greeting("http://127.0.0.1:8000", "m", needs_key=False)
    assert "curl http://127.0.0.1:8000/v1/chat/completions" in text and "Bearer" not in text
    body = text.partition("-d '")[2].partition("'\n")[0]
    assert json.loads(body)["model"] == "m"
    assert "Console: http://h/console\n" in greeting("http://h", "m", needs_key=False, has_console=True)
    assert "/console" not in text
    assert "Bearer YOUR-KEY" in greeting("http://h", "m", needs_key=True)
    assert "Loaded when asked for" not in text
    assert "Loaded when asked for: b, c\n" in greeting("http://h", "m", ("b", "c"), needs_key=False)
