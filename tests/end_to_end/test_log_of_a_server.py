"""A server that records: what it answered is in its log, which a mirror and an audit find whole, while it runs and
after."""

import asyncio
import json
from pathlib import Path

from tests.served import Served, near, serving
from tests.upstreams import upstream
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.memory.log_files import LogFolder
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.merkle import hash_leaf
from headrace.trust.log.proof import LogProof, parse_proof
from headrace.trust.log.reading import Reader
from headrace.trust.log.trust_file import parse_trust_file

RECORDS = """
[records]
mode = "enforce"
[log]
origin = "example.com/answers"
batch = "5ms"
"""


async def run(*words: str) -> str:
    done = await asyncio.to_thread(CliRunner().invoke, app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


def size_in(proof: LogProof) -> int:
    return Checkpoint.decode(proof.checkpoint.text).size


async def size_of(served: Served) -> int:
    reply = await served.ask("GET", "/log/checkpoint")
    assert reply.status == 200
    return int(reply.body.split(b"\n")[1])


def test_every_answer_of_a_server_is_in_its_log_and_the_log_holds(tmp_path: Path) -> None:
    config = ["--config", str(tmp_path / "headrace.toml"), "--home", str(tmp_path / "home")]

    async def talk() -> None:
        async with upstream() as up, serving(tmp_path, near(up, RECORDS)) as served:
            begun = await size_of(served)  # the delegation of the record key is there before any record
            ids = []
            for _ in range(5):
                reply = await served.chat()
                assert reply.status == 200
                ids.append(reply.headers["x-headrace-record"])
            async with asyncio.timeout(30):
                while await size_of(served) < begun + 5:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            trust = tmp_path / "trust"
            trust.write_text(await run("log", "trust-file", *config))
            proof = parse_proof((await run("log", "prove", ids[3], *config)).encode())
            entry = Reader(LogFolder(tmp_path / "home" / "log"), size_in(proof)).entry(proof.index)
            proof.verify(hash_leaf(entry), parse_trust_file(trust.read_bytes()))
            await audit(trust)
        await audit(trust)  # and after it ended

    async def audit(trust: Path) -> None:
        words = ["log", "audit", "--trust", str(trust), "--all-signatures", "--json", *config]
        told = json.loads(await run(*words))
        assert told["is_clean"] and told["size"] >= 6 and told["num_signatures"] == told["size"]

    asyncio.run(talk())
