"""A recorder that meets a defect: one record is lost, counted and logged; whether its request goes on is the mode's."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from tests.doubles_gateway import ANSWER, RAW, Bench, ScriptedUpstream, Step, ask, bench, in_loop, read
from tests.doubles_oversight import ScriptedOverseer
from tests.doubles_records import Desk, desk

from headrace.core.errors import EngineFault
from headrace.core.events import ChoiceFinished
from headrace.core.gateway import Ask, RawStream, Reply
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Case, UpstreamReply
from headrace.gateway.oversight.recorder import Recorder, Recording
from headrace.gateway.settings import ENGINE, Target
from headrace.trust.records.settings import RecordMode


def defect(*_: object) -> Any:
    raise KeyError("a defect")


class Before(ScriptedOverseer):
    """Sees each case before the recorder does."""

    def see(self, change: Callable[[Case], None]) -> "Before":
        """Change it when the request has ended."""
        self.reads_answers = False

        def end(_: UsageRecord) -> None:
            change(self.begun[-1].case)

        self.on_end = end
        return self


@dataclass
class Scene:
    """A defect: what is asked, what the backend says, and what breaks of what the recorder works with."""

    ask: Ask
    script: tuple[Step, ...]
    at: Desk
    before: Before | None = None

    def gate(self) -> Bench:
        overseers = (self.at.recorder,) if self.before is None else (self.before, self.at.recorder)
        return bench({"a": ScriptedUpstream(self.script)}, overseers=overseers)


def without(at: Desk, **means: Any) -> Desk:
    """A recorder that works with something broken."""
    at.recorder = Recorder(replace(at.recorder.means, **means))
    return at


def _begins(at: Desk, _: pytest.MonkeyPatch) -> Scene:
    return Scene(ask(raw=None), tuple(ANSWER), without(at, new_id=defect))


def _hears(at: Desk, _: pytest.MonkeyPatch) -> Scene:
    odd: Any = ChoiceFinished(0, "an ending of tomorrow")  # type: ignore[arg-type]
    return Scene(ask(raw=None), (*ANSWER[:-2], odd, ANSWER[-1]), at)


def _adds(at: Desk, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(hashlib, "sha256", defect)
    return Scene(ask(raw=RAW), (b"data: 1\n\n", b"data: 2\n\n"), at)


def _adds_whole(at: Desk, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(hashlib, "sha256", defect)
    return Scene(ask(raw=RAW), (UpstreamReply(status=200, headers=(), body=b"{}", usage=None),), at)


def _ends(at: Desk, _: pytest.MonkeyPatch) -> Scene:
    def confuse(case: Case) -> None:
        case.target = []  # type: ignore[assignment]

    return Scene(ask(raw=None), tuple(ANSWER), at, Before().see(confuse))


def _seals(at: Desk, _: pytest.MonkeyPatch) -> Scene:
    return Scene(ask(raw=None), tuple(ANSWER), without(at, random=defect))


def _hands_in(at: Desk, _: pytest.MonkeyPatch) -> Scene:
    at.log.submit = defect  # type: ignore[method-assign]
    return Scene(ask(raw=None), tuple(ANSWER), at)


async def told(reply: Reply) -> list[object]:
    """Everything of an answer."""
    if isinstance(reply, RawStream):
        return [piece async for piece in reply.chunks]
    return list(await read(reply)) if hasattr(reply, "events") else [reply.body]  # type: ignore[union-attr]


EARLY = [_begins, _hears, _adds, _adds_whole]
LATE = [_ends, _seals, _hands_in]
Makes = Callable[[Desk, pytest.MonkeyPatch], Scene]


@pytest.mark.parametrize("makes", [*EARLY, *LATE])
@in_loop
async def test_where_records_are_monitored_the_request_goes_on_and_its_loss_is_told(
    makes: Makes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = makes(desk(), monkeypatch)
    gate = scene.gate()
    with caplog.at_level(logging.ERROR):
        pieces = await told(await gate.gate.ask(scene.ask))
    sent = scene.script[0].body if isinstance(scene.script[0], UpstreamReply) else None
    assert pieces == ([sent] if sent is not None else list(scene.script))
    counts = scene.at.recorder.counts
    assert (counts.num_lost, counts.num_sealed, scene.at.records) == (1, 0, [])
    (line,) = [one for one in caplog.records if "is lost by a defect" in one.getMessage()]
    assert f"of request {scene.ask.shape.id} " in line.getMessage() and line.exc_info is not None
    assert len(caplog.records) == 1
    assert scene.at.recorder.next_sequence() == 2  # an auditor sees the gap
    assert gate.is_quiet


@pytest.mark.parametrize("makes", EARLY)
@in_loop
async def test_where_records_are_enforced_the_request_ends_and_says_why(
    makes: Makes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = makes(desk(mode=RecordMode.ENFORCE), monkeypatch)
    gate = scene.gate()
    with caplog.at_level(logging.ERROR), pytest.raises(EngineFault, match=r'records\.mode = "enforce"') as caught:
        await told(await gate.gate.ask(scene.ask))
    assert scene.ask.shape.id in caught.value.message
    assert isinstance(caught.value.__cause__, KeyError)
    has_run = makes is not _begins
    assert bool(gate.book.begun) is has_run
    assert (scene.at.recorder.counts.num_lost, scene.at.records) == (int(has_run), [])
    assert gate.is_quiet


@pytest.mark.parametrize("makes", LATE)
@in_loop
async def test_what_is_lost_after_an_enforced_answer_went_out_is_counted_and_told(
    makes: Makes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = makes(desk(mode=RecordMode.ENFORCE), monkeypatch)
    gate = scene.gate()
    with caplog.at_level(logging.ERROR):
        assert await told(await gate.gate.ask(scene.ask)) == list(ANSWER)
    assert (scene.at.recorder.counts.num_lost, scene.at.records) == (1, [])
    assert f"of request {scene.ask.shape.id} is lost by a defect" in caplog.text
    assert gate.is_quiet


@pytest.mark.parametrize("mode", [RecordMode.MONITOR, RecordMode.ENFORCE])
@in_loop
async def test_a_request_that_could_not_be_noted_is_asked_as_it_came_or_not_at_all(mode: RecordMode) -> None:
    at = without(desk(mode=mode), random=defect)
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    reply = await gate.gate.ask(ask(raw=None))
    recording = reply.taken.receipt
    assert isinstance(recording, Recording)
    request = ask(raw=None).decode()
    if mode is RecordMode.ENFORCE:
        with pytest.raises(EngineFault):
            recording.prepare(request, Target(ENGINE, "m"))
    else:
        assert recording.prepare(request, Target(ENGINE, "m")) is request
        assert recording.prepare(request, Target(ENGINE, "m")) is request
    await read(reply)
    assert (at.recorder.counts.num_lost, at.records) == (1, [])
