"""Where answers wait for their records, the end of one comes when its record is in the log, and else an error does."""

import asyncio
from dataclasses import replace

import pytest
from tests.doubles_gateway import ANSWER, ScriptedUpstream, ask, bench, in_loop
from tests.doubles_records import desk
from tests.log_in_memory import MemoryLog

from headrace.core.errors import DiskFull, EngineFault, HeadraceError, Unavailable
from headrace.core.gateway import EventReply
from headrace.trust.records.settings import RecordMode, RecordsSettings


class SlowLog(MemoryLog):
    """Whoever waits for it waits until the test says go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.fault: HeadraceError | None = None

    async def merged(self, item_id: str, *, hurries: bool = False) -> int:
        assert hurries
        await self.go.wait()
        if self.fault is not None:
            raise self.fault
        return await super().merged(item_id)


@in_loop
async def test_where_answers_wait_the_last_event_comes_when_the_record_is_in_the_log() -> None:
    log = SlowLog()
    at = desk(log, mode=RecordMode.ENFORCE, waits=True)
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    reply = await gate.gate.ask(ask(raw=None))
    assert isinstance(reply, EventReply)
    assert [await anext(reply.events) for _ in ANSWER[:-1]] == list(ANSWER[:-1])
    last = asyncio.create_task(anext(reply.events))
    await asyncio.sleep(0)
    assert len(at.records) == 1 and not last.done()
    log.go.set()
    assert await last == ANSWER[-1]
    assert at.recorder.counts.num_lost == 0
    await reply.events.aclose()
    assert gate.is_quiet


@pytest.mark.parametrize("by", ["fault", "refusal", "defect", "time"])
@in_loop
async def test_an_answer_whose_record_is_not_kept_has_no_last_event_and_is_counted(by: str) -> None:
    log = SlowLog()
    at = desk(log, mode=RecordMode.ENFORCE, waits=True)
    gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
    reply = await gate.gate.ask(ask(raw=None))
    assert isinstance(reply, EventReply)
    full = DiskFull("there is no room.")
    if by == "fault":
        log.fault = full
        log.go.set()
    elif by == "refusal":
        log.refusal = full
    elif by == "defect":
        at.recorder.means = replace(at.recorder.means, random=lambda _: None)  # type: ignore[arg-type, return-value]
    else:
        at.recorder.means = replace(at.recorder.means, max_wait_s=0.0)
    heard = []
    expected = {"defect": EngineFault, "time": Unavailable}.get(by, DiskFull)
    with pytest.raises(expected) as caught:
        async for event in reply.events:
            heard.append(event)  # noqa: PERF401
    assert heard == list(ANSWER[:-1])
    assert type(caught.value) is expected
    assert at.recorder.counts.num_lost == 1
    assert gate.is_quiet


@pytest.mark.parametrize("mode", [RecordMode.MONITOR, RecordMode.OFF])
def test_answers_wait_only_where_records_are_enforced(mode: RecordMode) -> None:
    with pytest.raises(ValueError, match=f'waits: true needs mode = "enforce", and it is "{mode.value}"'):
        RecordsSettings(mode=mode, waits=True)
    assert RecordsSettings(mode=RecordMode.ENFORCE, waits=True).waits
