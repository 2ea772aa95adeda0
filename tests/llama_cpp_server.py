"""A real llama.cpp server behind the gateway: `make llama-cpp`.

    python -m tests.llama_cpp_server PYTHON        PYTHON has llama-cpp-python[server] installed

Starts llama.cpp's server on a GGUF file of the state directory and `headrace serve` before it, with a key, a budget and
the answer cache, and speaks to it as the official clients of three protocols do. Each step says what it did; the last
one takes the backend away. Leaves no process behind.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai

from headrace.models.store import default_home, resolve

MODEL = "smollm2-135m-instruct"
LIMIT_S = 120.0
KEY = "sk-llama-cpp-behind-headrace"
SETTINGS = """\
host = "127.0.0.1"
port = {port}

[backends.llama]
kind = "llama-cpp-python"
url = "http://127.0.0.1:{backend_port}/v1"

[backends.llama.models.smollm2]
context_length = 2048
max_output_tokens = 64
prices = {{input = 1.0, output = 2.0}}

[routes.chat]
candidates = ["llama/smollm2"]

[answer_cache]

[[keys]]
name = "laptop"
secret = "env:LAPTOP_KEY"

[[budgets]]
subject = "key:laptop"
window = "day"
tokens = 20000
"""
PARIS: Any = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]


def did(what: str) -> None:
    """Say what has worked."""
    print(f"did {what}", flush=True)


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], log: Path, port: int, environ: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A server for as long as the block runs, from when it listens."""
    with log.open("wb") as told, subprocess.Popen(command, stdout=told, stderr=told, env=environ) as process:
        try:
            ends_s = time.monotonic() + LIMIT_S
            while not listens(port):
                if process.poll() is not None or time.monotonic() > ends_s:
                    raise RuntimeError(f"{command[0]} did not start: {log.read_text()[-2000:]}")
                time.sleep(0.2)
            yield process
        finally:
            process.terminate()


def listens(port: int) -> bool:
    """Whether somebody does at a port of this machine."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False


def speak_openai(url: str) -> None:
    """Chat, whole and streamed, text after text, and a response."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    whole = client.chat.completions.with_raw_response.create(
        model="chat",
        messages=PARIS,
        max_tokens=24,
        temperature=0.7,
    )
    answer = whole.parse()
    assert answer.choices[0].message.content and answer.usage is not None and answer.usage.completion_tokens > 0
    assert whole.headers["x-headrace-backend"] == "llama"
    assert float(whole.headers["x-headrace-cost"]) > 0
    did(f"chat: {answer.choices[0].message.content.strip()!r} for {whole.headers['x-headrace-cost']}")
    pieces = list(client.chat.completions.create(model="chat", messages=PARIS, max_tokens=24, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert any(piece.choices and piece.choices[0].finish_reason for piece in pieces)
    did(f"chat streamed in {len(pieces)} chunks")
    text = client.completions.create(model="chat", prompt="One, two, three,", max_tokens=8).choices[0].text
    assert text
    did(f"completion: {text!r}")
    said = client.responses.create(model="chat", input="Say hello.", max_output_tokens=24, store=False)
    assert said.output_text
    did(f"response: {said.output_text.strip()!r}")
    for kind in ("", "exact"):
        again = client.chat.completions.with_raw_response.create(
            model="chat",
            messages=PARIS,
            max_tokens=24,
            temperature=0,
        )
        assert again.headers.get("x-headrace-cache", "") == kind
    did("the same answer given again")
    try:
        client.chat.completions.create(model="nobody", messages=PARIS)
    except openai.NotFoundError as error:
        assert error.code == "model_not_found"
    did("an unknown model refused")


def speak_anthropic(url: str) -> None:
    """A message, whole and streamed, from a backend that never heard of them."""
    client = anthropic.Anthropic(base_url=url, api_key=KEY, max_retries=0)
    message = client.messages.create(model="chat", messages=PARIS, max_tokens=24)
    assert message.content[0].type == "text" and message.content[0].text
    did(f"message: {message.content[0].text.strip()!r}")
    with client.messages.stream(model="chat", messages=PARIS, max_tokens=24) as stream:
        assert "".join(stream.text_stream)
    did("message streamed")


def miss_backend(url: str) -> None:
    """The backend is gone: an error that says so, and says that trying again may help."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0)
    try:
        client.chat.completions.create(model="chat", messages=PARIS, max_tokens=24, temperature=0.7)
    except openai.InternalServerError as error:
        assert error.status_code in {502, 503}, error
        did(f"a backend that is gone: {error.status_code} {error.code}")
    else:
        raise AssertionError("a backend that is gone answered")


def main() -> None:
    """Run all of it."""
    python, path = sys.argv[1], resolve(MODEL, default_home(os.environ))
    port, backend_port = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        file = home / "headrace.toml"
        file.write_text(SETTINGS.format(port=port, backend_port=backend_port), "utf-8")
        environ = os.environ | {"HEADRACE_HOME": str(home / "state"), "LAPTOP_KEY": KEY}
        server = [python, "-m", "llama_cpp.server", "--model", str(path), "--model_alias", "smollm2"]
        server += ["--n_ctx", "2048", "--host", "127.0.0.1", "--port", str(backend_port)]
        gateway = [sys.executable, "-m", "headrace", "serve", "--config", str(file)]
        url = f"http://127.0.0.1:{port}"
        with running(gateway, home / "gateway.log", port, environ):
            with running(server, home / "llama.log", backend_port, environ):
                speak_openai(url)
                speak_anthropic(url)
            miss_backend(url)


if __name__ == "__main__":
    main()
