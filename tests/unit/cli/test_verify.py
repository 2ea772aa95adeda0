"""`headrace verify` as somebody types it: what it says, what it leaves with, on files alone and without a network."""

import asyncio
import base64
import hashlib
import json
import random
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.doubles_gateway import ANSWER, ScriptedUpstream, bench, shape
from tests.doubles_records import Desk, desk
from typer.testing import CliRunner, Result

from headrace.api.openai import Caller, decode_chat
from headrace.cli.main import app
from headrace.core.gateway import Ask, EventReply
from headrace.core.request import Principal
from headrace.core.transcript import COMMENT, transcript_digest

REQUEST = b'{"model":"smart","messages":[{"role":"user","content":"hi"}],"max_tokens":9}'
WHOLE = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "smart",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello world"}, "finish_reason": "stop"}],
    }
).encode()
PIECES = ({"content": "hello"}, None), ({"content": " world"}, "stop")
STREAM = b"".join(
    b"data: %b\n\n"
    % json.dumps(
        {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
    ).encode()
    for delta, reason in PIECES
)
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class Files:
    """A folder with an answer, its record, its request and a trust file."""

    folder: Path
    at: Desk

    def verify(self, name: str, *words: str, record: bool = True) -> Result:
        """What the program says of a file."""
        given = ["verify", str(self.folder / name), "--trust", str(self.folder / "trust.txt"), *words]
        if record:
            given += ["--record", str(self.folder / f"{Path(name).stem}.record")]
        return CliRunner().invoke(app, given)


async def answer(at: Desk, digest: bytes) -> bytes:
    call = decode_chat(REQUEST, Caller(request_id="chatcmpl-1", principal=Principal(tenant="t")))
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    reply = await gate.gate.ask(Ask(shape=shape("chatcmpl-1"), decode=lambda: call.request))
    assert isinstance(reply, EventReply) and reply.taken.receipt is not None
    reply.taken.is_claimed = True
    async for _ in reply.events:
        pass
    envelope = reply.taken.receipt.seal(digest)
    assert envelope is not None
    return envelope


@pytest.fixture
def files(tmp_path: Path) -> Files:
    at = desk()
    (tmp_path / "request.json").write_bytes(REQUEST)
    asyncio.run(answer(at, hashlib.sha256(WHOLE).digest()))
    (tmp_path / "whole.json").write_bytes(WHOLE)
    envelope = asyncio.run(answer(at, hashlib.sha256(STREAM + DONE).digest()))
    inline = STREAM + b": keep-alive\n\n" + COMMENT + base64.b64encode(envelope) + b"\n\n" + DONE
    (tmp_path / "stream.txt").write_bytes(inline)
    (tmp_path / "whole.record").write_bytes(at.bundle(0).encode() + b"\n")
    (tmp_path / "stream.record").write_bytes(at.bundle(1).encode())
    (tmp_path / "trust.txt").write_text(at.node_line + at.log.trust_lines())
    return Files(tmp_path, at)


def test_an_answer_and_its_request_are_verified_clause_by_clause(files: Files) -> None:
    done = files.verify("whole.json", "--request", str(files.folder / "request.json"))
    assert done.exit_code == 0, done.output
    for clause in ("form", "delegation", "signature", "time", "nonce", "answer", "meaning", "request", "log"):
        assert f"ok  {clause:<11}" in done.output
    assert "Level reached: logged." in done.output and "not" in done.output
    told = json.loads(files.verify("whole.json", "--json").output)
    assert (told["level"], told["is_refused"]) == ("logged", False)


def test_a_stream_as_curl_saved_it_is_verified_with_the_record_in_it(files: Files) -> None:
    done = files.verify("stream.txt", "--request", str(files.folder / "request.json"))
    assert done.exit_code == 0, done.output
    assert "ok  inline" in done.output and "ok  meaning" in done.output


def test_a_stream_with_anothers_record_in_it_is_refused(files: Files) -> None:
    path = files.folder / "stream.txt"
    other = COMMENT + base64.b64encode(files.at.records[0].envelope) + b"\n\n"
    path.write_bytes(path.read_bytes() + other)
    assert transcript_digest(path.read_bytes()) == hashlib.sha256(STREAM + DONE).digest()
    done = files.verify("stream.txt")
    assert done.exit_code == 1 and "NO  inline" in done.output


def test_a_record_that_a_model_says_is_text(files: Files) -> None:
    said = b'data: {"object":"x","choices":[{"index":0,"delta":{"content":"\\n: headrace-record eyJ9\\n"}}]}\n\n'
    path = files.folder / "stream.txt"
    path.write_bytes(said + path.read_bytes())
    done = files.verify("stream.txt")
    assert done.exit_code == 1 and "NO  answer" in done.output


def test_without_the_bundle_it_says_where_to_get_it(files: Files) -> None:
    done = files.verify("stream.txt", record=False)
    assert done.exit_code == 1
    assert f"headrace records fetch {files.at.records[1].id}" in done.output


def test_a_file_that_was_written_anew_is_verified_by_what_it_says_if_that_is_wanted(files: Files) -> None:
    path = files.folder / "whole.json"
    path.write_text(json.dumps(json.loads(WHOLE), indent=4))
    assert files.verify("whole.json").exit_code == 1
    done = files.verify("whole.json", "--rewritten")
    assert done.exit_code == 0 and "ok  meaning" in done.output
    path.write_bytes(WHOLE.replace(b"hello world", b"hello w0rld"))
    assert files.verify("whole.json", "--rewritten").exit_code == 1
    path.write_bytes(WHOLE.replace(b'"content": "hello world"', b'"content": "no", "content": "hello world"'))
    assert files.verify("whole.json", "--rewritten").exit_code == 1


def test_a_lower_level_than_the_trust_file_wants_is_no_success(files: Files) -> None:
    (files.folder / "trust.txt").write_text(files.at.node_line + files.at.log.trust_lines(quorum=True))
    done = files.verify("whole.json")
    assert done.exit_code == 3 and "Wanted was witnessed." in done.output
    assert files.verify("whole.json", "--level", "logged").exit_code == 0
    assert files.verify("whole.json", "--level", "unheard").exit_code == 1


@pytest.mark.parametrize("name", ["whole.json", "stream.txt"])
def test_no_byte_of_a_saved_answer_can_change(files: Files, name: str) -> None:
    from headrace.cli.saved_files import read_answer
    from headrace.trust.records.bundle import read_bundle
    from headrace.trust.records.verification import verify

    data, chance = (files.folder / name).read_bytes(), random.Random(name)
    bundle = read_bundle((files.folder / f"{Path(name).stem}.record").read_bytes())
    trusted = files.at.trusted()
    comments = [
        (at, at + len(line)) for line in data.split(b"\n\n") if line.startswith(b":") for at in [data.find(line)]
    ]
    for _ in range(1000):
        at = chance.randrange(len(data))
        changed = bytearray(data)
        changed[at] ^= chance.randrange(1, 256)
        answer = read_answer(bytes(changed))
        report = verify(bundle, answer.shown(), trusted)
        is_inline_wrong = any(one != bundle.record.envelope for one in answer.records)
        # A comment is nothing that was said: what changes inside one, or makes it none, is seen or says nothing.
        is_comment = any(start <= at < end + 2 for start, end in comments)
        assert report.is_refused or is_inline_wrong or is_comment, bytes(changed)


def test_a_request_that_is_another_or_none_is_refused(files: Files) -> None:
    path = files.folder / "request.json"
    path.write_bytes(REQUEST.replace(b'"hi"', b'"ho"'))
    assert files.verify("whole.json", "--request", str(path)).exit_code == 1
    path.write_bytes(b"[]")
    assert files.verify("whole.json", "--request", str(path)).exit_code == 1
    assert files.verify("whole.json", "--request", str(files.folder / "nothing")).exit_code == 1


def test_it_verifies_with_the_network_off(files: Files) -> None:
    unshare = shutil.which("unshare")
    off = [unshare or "unshare", "--user", "--map-root-user", "--net"]
    if unshare is None or subprocess.run([*off, "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("no network namespaces are permitted here: `unshare --net` fails")
    words = ["verify", "whole.json", "--trust", "trust.txt", "--record", "whole.record", "--request", "request.json"]
    code = "import socket\nprint(socket.socket().connect_ex(('127.0.0.1', 1)))"
    alone = subprocess.run([*off, sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert alone.stdout.strip() == "101", "the network is unreachable"
    done = subprocess.run(
        [*off, sys.executable, "-m", "headrace", *words], cwd=files.folder, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Level reached: logged" in done.stdout


def test_a_key_that_is_taken_back_is_logged_and_not_believed_from_then_on(files: Files, tmp_path: Path) -> None:
    from headrace.memory import provenance
    from headrace.memory.database import Database
    from headrace.trust.records import dsse
    from headrace.trust.records.keys import read_revocation

    home = ["--home", str(tmp_path / "home")]
    key_id = dsse.read(files.at.records[0].envelope).signatures[0].keyid
    done = CliRunner().invoke(app, ["records", "revoke", key_id, "--since", "5", "--reason", "a break-in", *home])
    assert done.exit_code == 0, done.output
    line = done.output.splitlines()[0]
    assert line == f"revoked {key_id} 5"
    with (files.folder / "trust.txt").open("a") as file:
        file.write(line + "\n")
    refused = files.verify("whole.json")
    assert refused.exit_code == 1 and "revoked" in refused.output
    with Database(tmp_path / "home" / "provenance.db", provenance.MIGRATIONS) as database:
        (kept,) = database.read(provenance.of_kind, "revocation")
    assert read_revocation(dsse.read(kept.item.envelope).payload).reason == "a break-in"
    (told,) = json.loads(CliRunner().invoke(app, ["actions", "--json", *home]).stdout)["data"]
    assert (told["action"], told["target"], told["outcome"]) == ("headrace records revoke", key_id, "done")
    assert CliRunner().invoke(app, ["records", "revoke", "x", *home]).exit_code == 1
