"""The program as a gateway: started from a file, told that the file has changed, stopped while it streams."""

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from tests.doubles_http import Client, Reply
from tests.unit.server.test_tls import Pair, get, make_pair
from tests.upstreams import SSE, Step, Upstream, chunk, frame, head, upstream

from headrace.cli.assembly import assemble
from headrace.cli.config import compose
from headrace.cli.serve import Start, open_app
from headrace.cli.surroundings import look_around

PROGRAM = [sys.executable, "-c", "from headrace.cli.main import main; main()"]
SECRET = "sk-of-the-program"


def file_of(up: Upstream, name: str) -> str:
    return (
        f'port = 0\n[backends.{name}]\nkind = "openai-compatible"\nurl = "{up.url}/v1"\nsecret = "env:PROGRAM_KEY"\n'
        f'models = ["small"]\n[routes.chat]\ncandidates = ["{name}/small"]\n'
    )


async def ask(port: int, *, stream: bool = False) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "hi"}], "stream": stream}).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = ["POST /v1/chat/completions HTTP/1.1", f"host: localhost:{port}", "connection: close"]
    writer.write("\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode() + body)
    return reader, writer


async def whole(port: int) -> bytes:
    reader, writer = await ask(port)
    data = await reader.read()
    writer.close()
    return data


def slow_answer() -> list[Any]:
    start = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "small"}

    def delta(value: dict[str, Any], reason: str | None = None) -> bytes:
        return chunk(frame({**start, "choices": [{"index": 0, "delta": value, "finish_reason": reason}]}))

    opening = head(200, SSE, ("transfer-encoding", "chunked")) + b"\r\n"
    end = [delta({}, "stop"), chunk(frame("[DONE]")), b"0\r\n\r\n"]
    return [opening, delta({"content": "first "}), Step.HANG, delta({"content": "last"}), *end]


def test_a_program_reads_its_file_again_and_drops_no_stream(tmp_path: Path) -> None:
    async def main() -> None:
        async with upstream() as first, upstream() as second:
            file = tmp_path / "headrace.toml"
            file.write_text(file_of(first, "first"), "utf-8")
            environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
            environ |= {"HEADRACE_HOME": str(tmp_path / "home"), "PROGRAM_KEY": SECRET}
            pipe = asyncio.subprocess.PIPE
            program = await asyncio.create_subprocess_exec(
                *PROGRAM, "serve", "--config", str(file), env=environ, stdout=pipe, stderr=pipe
            )
            assert program.stdout is not None and program.stderr is not None
            said: list[str] = []

            async def until(text: str) -> None:
                assert program.stderr is not None
                while True:
                    line = (await program.stderr.readline()).decode()
                    assert line, said
                    said.append(line)
                    if text in line:
                        return

            try:
                greeting = (await program.stdout.readline()).decode()
                found = re.search(r"Serving chat on http://127\.0\.0\.1:(\d+)", greeting)
                assert found, greeting
                port = int(found[1])
                assert (
                    b" 200 OK" in await whole(port) and first.received[0].header("authorization") == f"Bearer {SECRET}"
                )
                first.script.append(slow_answer())
                reader, writer = await ask(port, stream=True)
                head_and_first = await reader.readuntil(b"first ")
                file.write_text(file_of(second, "second"), "utf-8")
                program.send_signal(signal.SIGHUP)
                await until("the settings were read again")
                assert b"x-headrace-backend: second" in await whole(port)
                file.write_text(file_of(second, "second").replace("openai-compatible", "opnai"), "utf-8")
                program.send_signal(signal.SIGHUP)
                await until(f"{file}:3: backends.second.kind: 'opnai' is no kind of backend; did you mean openai?")
                assert b" 200 OK" in await whole(port)
                # It is told to stop while the first stream still runs, which may end.
                program.send_signal(signal.SIGTERM)
                first.go.set()
                rest = await reader.read()
                writer.close()
                assert b"x-headrace-backend: first" in head_and_first and b"last" in rest and b"[DONE]" in rest
                assert await program.wait() == 0
                said.append((await program.stderr.read()).decode() + (await program.stdout.read()).decode())
            finally:
                if program.returncode is None:
                    program.kill()
                    await program.wait()
            assert SECRET not in "".join(said) and "Traceback" not in "".join(said)

    asyncio.run(main())


def test_a_program_with_tls_takes_a_newer_certificate_at_a_signal(tmp_path: Path) -> None:
    first, second = make_pair(tmp_path, "a"), make_pair(tmp_path, "b")
    old = Pair(tmp_path / "old.crt", first.key)
    old.certificate.write_bytes(first.certificate.read_bytes())

    async def main() -> None:
        file = tmp_path / "headrace.toml"
        tls = f'[tls]\ncertificate = "{first.certificate}"\nkey = "{first.key}"\n'
        file.write_text(f'port = 0\nmodel = "none"\n{tls}', "utf-8")
        environ = {name: value for name, value in os.environ.items() if not name.startswith("HEADRACE_")}
        environ |= {"HEADRACE_HOME": str(tmp_path / "home")}
        pipe = asyncio.subprocess.PIPE
        program = await asyncio.create_subprocess_exec(
            *PROGRAM, "serve", "--config", str(file), env=environ, stdout=pipe, stderr=pipe
        )
        assert program.stdout is not None and program.stderr is not None
        try:
            found = re.search(r"on https://127\.0\.0\.1:(\d+)", (await program.stdout.readline()).decode())
            assert found
            port = int(found[1])
            assert (await get(port, old)).startswith(b"HTTP/1.1 200")
            first.certificate.write_bytes(second.certificate.read_bytes())
            first.key.write_bytes(second.key.read_bytes())
            program.send_signal(signal.SIGHUP)
            while b"the settings were read again" not in (line := await program.stderr.readline()):
                assert line  # the program has ended
            assert (await get(port, second)).startswith(b"HTTP/1.1 200")
            program.send_signal(signal.SIGTERM)
            assert await program.wait() == 0
        finally:
            if program.returncode is None:
                program.kill()
                await program.wait()

    asyncio.run(main())


def test_the_engine_of_the_process_answers_for_a_backend_that_is_down(tmp_path: Path, smollm2_path: Path) -> None:
    async def main() -> None:
        async with upstream() as up:
            name = smollm2_path.stem
            text = file_of(up, "near").replace("port = 0", f'port = 0\nmodel = "{smollm2_path}"\nthreads = 1')
            text = text.replace('candidates = ["near/small"]', f'candidates = ["near/small", "local/{name}"]')
            file = tmp_path / "headrace.toml"
            file.write_text(f'{text}policies = ["ordered"]\n[[keys]]\nname = "k"\nsecret = "env:CALLER_KEY"\n', "utf-8")
            environ = {"HEADRACE_HOME": str(tmp_path / "home"), "PROGRAM_KEY": SECRET, "CALLER_KEY": "caller"}
            resolved = compose({}, environ, file)
            around = look_around(resolved, environ)
            assembled = assemble(resolved.settings, with_guests=True)
            start = Start(lambda: compose({}, environ, file), resolved.settings, environ, around, assembled)
            async with open_app(start) as (app, _):
                app.lifecycle.mark_ready()

                async def answer(model: str) -> Reply:
                    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
                    headers = {"authorization": "Bearer caller"}
                    return await Client(app, "POST", "/v1/chat/completions", json.dumps(body).encode(), headers).run()

                assert (await answer("chat")).headers["x-headrace-backend"] == "near"
                up.refuse()
                up.drop()
                reply = await answer("chat")
                assert reply.status == 200 and reply.headers["x-headrace-backend"] == "local"
                assert reply.json()["usage"]["completion_tokens"] > 0
                for model in (name, f"local/{name}"):
                    assert (await answer(model)).headers["x-headrace-backend"] == "local"
                assert (await answer("small")).status in {502, 503}

    asyncio.run(main())
