"""A witness as a process of its own, asked over HTTP, killed, and started again; and a log mirrored over HTTP."""

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from tests.doubles_http import ScriptedBackend, answer, make_app
from tests.doubles_log import item
from tests.loopback import listening
from typer.testing import CliRunner

from headrace.cli.log import OpenLog, open_log, read_log_keys, trust_file
from headrace.cli.log_reading import LogUrl
from headrace.cli.main import app
from headrace.memory.log_files import WITNESSED
from headrace.models.store import Layout
from headrace.server.config import ServerConfig
from headrace.trust.log.merkle import hash_leaf
from headrace.trust.log.proof import parse_proof
from headrace.trust.log.settings import LogSettings, WitnessSettings

LIMIT_S = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextlib.asynccontextmanager
async def witness(folder: Path, trust: Path, port: int) -> AsyncIterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "headrace", "witness", "serve", str(folder), "--trust", str(trust)]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE)  # noqa: ASYNC220
    try:
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                break
            assert process.poll() is None, "the witness ended"
            await asyncio.sleep(0.02)
        yield process
    finally:
        process.terminate()
        process.wait(LIMIT_S)
        assert process.stdout is not None
        process.stdout.close()


async def witnessed(log: OpenLog, start: int, stop: int) -> int:
    """Log some items, and wait until a witness has cosigned them; the index of the last."""
    for number in range(start, stop):
        log.notary.submit(item(number))
    index = await log.notary.merged(f"rec_{stop - 1}")
    async with asyncio.timeout(LIMIT_S):
        while (seen := log.notary.witnessed) is None or seen.checkpoint.size <= index:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return index


def test_a_log_is_witnessed_by_another_process_also_after_that_was_killed(tmp_path: Path) -> None:
    layout, port = Layout(tmp_path / "home"), free_port()
    layout.home.mkdir()
    words = ["witness", "key", str(tmp_path / "w"), "--name", "w.example/1"]
    vkey = CliRunner().invoke(app, words).output.split()[1]
    asked = WitnessSettings(name="w1", url=f"http://127.0.0.1:{port}", vkey=vkey)
    settings = LogSettings(
        origin="example.com/answers", batch_s=0.005, witnesses=(asked,), quorum=1, witness_every_s=0.02
    )
    trusted = trust_file(settings, read_log_keys(settings, layout), nodes=())
    trust = tmp_path / "trust"
    trust.write_text(trusted.encode())

    async def talk() -> None:
        async with open_log(settings, layout) as log:
            async with witness(tmp_path / "w", trust, port) as process:
                await witnessed(log, 0, 5)
                process.send_signal(signal.SIGKILL)
                process.wait(LIMIT_S)
            for number in range(5, 10):  # nobody cosigns, and the log goes on
                log.notary.submit(item(number))
            assert await log.notary.merged("rec_9") == 9
            async with witness(tmp_path / "w", trust, port):
                index = await witnessed(log, 10, 300)
                opened = parse_proof(await log.notary.prove(index)).verify(hash_leaf(item(299).entry), trusted)
                assert opened.is_witnessed and set(opened.witnesses) == {"w1"}

    asyncio.run(talk())


def test_a_log_is_mirrored_and_audited_over_http_while_it_grows(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "home")
    layout.home.mkdir()
    settings = LogSettings(origin="example.com/answers", batch_s=0.005)

    async def run(*words: str) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, app, list(words))
        assert done.exit_code == 0, done.output
        return done.stdout

    async def talk() -> None:
        async with open_log(settings, layout) as log:
            backend = make_app(ScriptedBackend(answer("Hi")), ServerConfig(port=0), public_log=log.public)
            trust = tmp_path / "trust"
            trust.write_text(trust_file(settings, log.keys, nodes=()).encode())
            async with listening(backend) as (_, port):
                url, copy = f"http://127.0.0.1:{port}/log", str(tmp_path / "copy")
                for start, stop in ((0, 300), (300, 310)):
                    for number in range(start, stop):
                        log.notary.submit(item(number))
                    await log.notary.merged(f"rec_{stop - 1}")
                    told = await run("log", "mirror", url, copy, "--trust", str(trust))
                    assert f"{stop} entries, {stop - start} of them new" in told
                    assert f"{stop} entries" in await run("log", "audit", url, "--trust", str(trust))
                assert "310 entries" in await run("log", "audit", copy, "--trust", str(trust))
                assert await asyncio.to_thread(LogUrl(url).read, WITNESSED) is None
                proof = parse_proof((await run("log", "prove", "305", url)).encode())
                assert proof.verify(hash_leaf(item(305).entry), trust_file(settings, log.keys, nodes=()))

    asyncio.run(talk())
