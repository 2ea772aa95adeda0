"""Witnesses are asked in the background: who does not answer stops nobody, and who knows more than we do stops us."""

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.doubles_log import ORIGIN, item, log_keys, open_notary, open_writer, witness_keys

from headrace.core.clock import SystemClock
from headrace.core.errors import DiskFull
from headrace.gateway.notary.notary import LogNotary
from headrace.gateway.notary.witness_app import WitnessApp
from headrace.gateway.notary.witnesses import Reply, Rounds
from headrace.gateway.notary.writer import LogInconsistent
from headrace.memory.log_files import LogFolder
from headrace.memory.witness_state import WitnessState
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.fault import LogFault
from headrace.trust.log.merkle import hash_leaf
from headrace.trust.log.note import open_note, parse_note
from headrace.trust.log.proof import parse_proof
from headrace.trust.log.settings import LogSettings, WitnessSettings
from headrace.trust.log.trust_file import Known, TrustFile, witness_policy


class World:
    """Witnesses by host, each the real application; a host may be cut off."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.keys = {name: witness_keys(f"{name}.example") for name in names}
        self.cut: set[str] = set()
        self.answers: dict[str, Reply] = {}
        self.asked: list[str] = []
        self._states = {name: WitnessState(folder / name) for name in names}
        self._apps = {
            name: WitnessApp({ORIGIN: log_keys().keys}, self.keys[name], self._states[name], SystemClock())
            for name in names
        }

    def fetch(self, method: str, url: str, body: bytes | None, timeout_s: float) -> Reply:
        host = urlsplit(url).hostname or ""
        self.asked.append(f"{method} {host}")
        if host in self.cut:
            raise ConnectionRefusedError(111, "Connection refused")
        for place in (f"{method} {host}", host):
            if place in self.answers:
                return self.answers[place]
        return asyncio.run(self._ask(self._apps[host], method, urlsplit(url).path, body or b""))

    async def _ask(self, app: WitnessApp, method: str, path: str, body: bytes) -> Reply:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await app({"type": "http", "method": method, "path": path}, receive, send)
        return Reply(sent[0]["status"], sent[1]["body"])

    def settings(self, quorum: int) -> LogSettings:
        witnesses = tuple(
            WitnessSettings(name=name, url=f"http://{name}/", vkey=str(keys.keys[at % 2]))
            for at, (name, keys) in enumerate(self.keys.items())
        )
        return LogSettings(batch_s=0.005, witnesses=witnesses, quorum=quorum, witness_timeout_s=5.0)

    def close(self) -> None:
        for state in self._states.values():
            state.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path / "witnesses", "w1", "w2", "w3")
    yield made
    made.close()


@contextmanager
def rounds(world: World, notary: LogNotary, home: Path, quorum: int = 2) -> Iterator[Callable[[], None]]:
    """Ask everybody once, as often as it is called."""
    made = Rounds(notary, LogFolder(home / "log"), log_keys().keys, world.settings(quorum), SystemClock(), world.fetch)
    try:
        yield lambda: made.run_once(notary.latest)
    finally:
        made._pool.shutdown()


def trust_of(world: World, quorum: int = 2) -> TrustFile:
    known, groups, name = witness_policy(world.settings(quorum))
    logs = tuple(Known(ORIGIN, key) for key in log_keys().keys)
    return TrustFile(logs=logs, witnesses=known, groups=groups, quorum=name)


async def log(notary: LogNotary, start: int, stop: int) -> None:
    for number in range(start, stop):
        notary.submit(item(number))
    await notary.merged(f"rec_{stop - 1}")


def test_a_checkpoint_that_enough_witnesses_cosigned_is_what_proofs_use(world: World, tmp_path: Path) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path) as notary:
            with rounds(world, notary, tmp_path) as ask:
                await log(notary, 0, 10)
                await asyncio.to_thread(ask)
                await log(notary, 10, 300)
                opened = parse_proof(await notary.prove(3)).verify(hash_leaf(item(3).entry), trust_of(world))
                assert opened.checkpoint.size == 10 and set(opened.witnesses) == {"w1", "w2", "w3"}
                assert opened.is_witnessed
                # Not covered by a witnessed checkpoint yet: the newest proves it, and the quorum lacks.
                assert parse_proof(await notary.prove(20)).checkpoint.signatures
                await asyncio.to_thread(ask)
                opened = parse_proof(await notary.prove(20)).verify(hash_leaf(item(20).entry), trust_of(world))
                assert opened.checkpoint.size == 300 and opened.is_witnessed
                # Nothing new came since: the newest checkpoint has the cosignatures itself.
                newest = parse_note((tmp_path / "log" / "checkpoint").read_bytes())
                assert trust_of(world).open_checkpoint(newest).checkpoint.size == 300

    asyncio.run(talk())


def test_one_that_does_not_answer_or_answers_nonsense_stops_nobody(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path) as notary:
            with rounds(world, notary, tmp_path) as ask:
                await log(notary, 0, 10)
                world.cut = {"w3"}
                await asyncio.to_thread(ask)
                opened = parse_proof(await notary.prove(3)).verify(hash_leaf(item(3).entry), trust_of(world))
                assert set(opened.witnesses) == {"w1", "w2"} and opened.is_witnessed
                await log(notary, 10, 20)
                world.answers = {"w2": Reply(200, b"nonsense\n")}
                await asyncio.to_thread(ask)
                opened = parse_proof(await notary.prove(3)).verify(hash_leaf(item(3).entry), trust_of(world))
                assert opened.checkpoint.size == 10  # one is not enough
                world.cut, world.answers = set(), {}
                await asyncio.to_thread(ask)
                opened = parse_proof(await notary.prove(13)).verify(hash_leaf(item(13).entry), trust_of(world))
                assert opened.checkpoint.size == 20 and len(opened.witnesses) == 3

    asyncio.run(talk())
    assert sum("w3 did not cosign" in one.message for one in caplog.records) == 1  # said once, not each second


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500, b"broken"),
        Reply(409, b"many\n"),
        Reply(409, b""),
        Reply(409, b"-1\n"),
        Reply(200, b""),
        Reply(200, "— w1.example AAAAAAAA\n".encode()),
        Reply(404, b""),
        Reply(302, b""),
    ],
)
def test_whatever_a_witness_answers_the_log_goes_on(world: World, tmp_path: Path, reply: Reply) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path) as notary:
            with rounds(world, notary, tmp_path) as ask:
                world.answers = {"w1": reply}
                await log(notary, 0, 3)
                await asyncio.to_thread(ask)
                await log(notary, 3, 6)
                assert notary.latest.checkpoint.size == 6

    asyncio.run(talk())


def test_a_witness_that_remembers_more_than_there_is_ends_the_log_if_it_can_show_it(
    world: World, tmp_path: Path
) -> None:
    home = tmp_path / "home"

    async def grow(start: int, stop: int) -> None:
        async with open_notary(home) as notary:
            with rounds(world, notary, home) as ask:
                await log(notary, start, stop)
                await asyncio.to_thread(ask)

    async def talk() -> None:
        async with open_notary(home) as notary:
            with rounds(world, notary, home) as ask:
                await log(notary, 10, 12)
                await asyncio.to_thread(ask)
                with pytest.raises(LogInconsistent, match="20 entries"):
                    notary.submit(item(99))

    asyncio.run(grow(0, 10))
    shutil.copytree(home, tmp_path / "backup")
    asyncio.run(grow(10, 20))
    shutil.rmtree(home)
    shutil.copytree(tmp_path / "backup", home)  # all of it: nothing here can tell
    asyncio.run(talk())


def test_a_witness_that_only_says_it_remembers_more_ends_nothing(world: World, tmp_path: Path) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path) as notary:
            with rounds(world, notary, tmp_path) as ask:
                world.answers = {"w1": Reply(409, b"1000000\n")}
                await log(notary, 0, 3)
                await asyncio.to_thread(ask)
                await log(notary, 3, 4)
        assert "GET w1" in world.asked

    asyncio.run(talk())


def test_a_witness_that_shows_more_without_our_signature_ends_nothing(world: World, tmp_path: Path) -> None:
    async def talk() -> None:
        async with open_notary(tmp_path) as notary:
            with rounds(world, notary, tmp_path) as ask:
                forged = log_keys(seed="another").sign(Checkpoint(ORIGIN, 10**6, bytes(32)).encode(), 1)
                world.answers = {"POST w1": Reply(409, b"1000000\n"), "GET w1": Reply(200, forged)}
                await log(notary, 0, 3)
                await asyncio.to_thread(ask)
                await log(notary, 3, 4)

    asyncio.run(talk())


def test_a_witness_that_starts_anew_goes_on_from_what_it_remembered(tmp_path: Path) -> None:
    async def talk(stop: int) -> int:
        world = World(tmp_path / "witnesses", "w1")
        try:
            async with open_notary(tmp_path / "home") as notary:
                with rounds(world, notary, tmp_path / "home", quorum=1) as ask:
                    await log(notary, stop - 10, stop)
                    await asyncio.to_thread(ask)
                    witnessed = notary.witnessed
                    assert witnessed is not None
                    return witnessed.checkpoint.size
        finally:
            world.close()

    assert [asyncio.run(talk(10)), asyncio.run(talk(20))] == [10, 20]


def test_a_witness_that_cannot_remember_does_not_cosign(tmp_path: Path) -> None:
    class Full(WitnessState):
        def write(self, origin: str, note: bytes) -> None:
            raise DiskFull("the disk is full.")

    writer = open_writer(tmp_path)
    writer.open()
    note = writer.latest.note
    writer.close()
    state = Full(tmp_path / "state")
    app = WitnessApp({ORIGIN: log_keys().keys}, witness_keys(), state, SystemClock())
    answer = asyncio.run(app.add_checkpoint(b"old 0\n\n" + note.encode()))
    assert answer.status == 503 and b"\xe2\x80\x94" not in answer.body
    state.close()


def test_of_two_checkpoints_at_once_a_witness_cosigns_one_and_tells_the_other_the_size(tmp_path: Path) -> None:
    notes = []
    writer = open_writer(tmp_path)
    writer.open()
    for number in range(2):
        writer.take([item(number)])
        notes.append(writer.publish().note)
    writer.close()

    async def talk() -> list[int]:
        state = WitnessState(tmp_path / "state")
        app = WitnessApp({ORIGIN: log_keys().keys}, witness_keys(), state, SystemClock())
        answers = await asyncio.gather(*(app.add_checkpoint(b"old 0\n\n" + note.encode()) for note in notes))
        kept = parse_note(state.read(ORIGIN) or b"")
        state.close()
        assert Checkpoint.decode(kept.text).size == 1 and open_note(kept, witness_keys().keys)
        assert answers[1].body == b"1\n"
        return [one.status for one in answers]

    assert asyncio.run(talk()) == [200, 409]


def test_a_caller_that_leaves_halfway_does_not_let_another_be_judged_by_what_was_before(tmp_path: Path) -> None:
    class Slow(WitnessState):
        begun, may_end = threading.Event(), threading.Event()

        def write(self, origin: str, note: bytes) -> None:
            self.begun.set()
            self.may_end.wait()
            super().write(origin, note)

    notes = []
    writer = open_writer(tmp_path)
    writer.open()
    for number in range(2):
        writer.take([item(number)])
        notes.append(writer.publish().note)
    writer.close()

    async def talk() -> None:
        state = Slow(tmp_path / "state")
        app = WitnessApp({ORIGIN: log_keys().keys}, witness_keys(), state, SystemClock())
        gone = asyncio.ensure_future(app.add_checkpoint(b"old 0\n\n" + notes[0].encode()))
        await asyncio.to_thread(state.begun.wait)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        asks = asyncio.ensure_future(app.add_checkpoint(b"old 0\n\n" + notes[1].encode()))
        await asyncio.sleep(0)
        state.may_end.set()
        answer = await asks
        assert (answer.status, answer.body) == (409, b"1\n")
        state.close()

    asyncio.run(talk())


def test_a_witness_goes_on_only_from_what_it_cosigned_itself(tmp_path: Path) -> None:
    writer = open_writer(tmp_path)
    writer.open()
    note = writer.latest.note
    writer.close()
    state, logs = WitnessState(tmp_path / "state"), {ORIGIN: log_keys().keys}
    answer = asyncio.run(
        WitnessApp(logs, witness_keys(), state, SystemClock()).add_checkpoint(b"old 0\n\n" + note.encode())
    )
    assert answer.status == 200
    WitnessApp(logs, witness_keys(), state, SystemClock())
    kept = state.read(ORIGIN) or b""
    for damaged in (note.encode(), kept.replace(b"\n0\n", b"\n1\n"), kept[:-10], b""):
        state.write(ORIGIN, damaged)
        with pytest.raises(LogFault, match="not what this witness cosigned"):
            WitnessApp(logs, witness_keys(), state, SystemClock())
    state.write(ORIGIN, kept)
    with pytest.raises(LogFault):
        WitnessApp(logs, witness_keys("another.example"), state, SystemClock())
    state.write("example.com/other", kept)
    with pytest.raises(LogFault):
        WitnessApp({"example.com/other": log_keys().keys}, witness_keys(), state, SystemClock())
    state.close()


def test_two_witnesses_cannot_keep_one_folder(tmp_path: Path) -> None:
    state = WitnessState(tmp_path / "state")
    with pytest.raises(Exception, match="another witness keeps"):
        WitnessState(tmp_path / "state")
    state.close()


def test_a_url_that_is_none_is_no_request() -> None:
    from headrace.gateway.notary.witnesses import fetch_http

    with pytest.raises(ValueError, match="no URL"):
        fetch_http("GET", "ftp://example.com/", None, 1.0)
