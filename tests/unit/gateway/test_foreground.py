"""Who waits is counted while they wait, however their answer ends, and whoever stands back hears of the last one."""

import asyncio
from typing import Any

import pytest
from tests.doubles_http import MODEL, Pause, ScriptedBackend, answer, run, started

from headrace.core.errors import EngineFault
from headrace.core.request import Request
from headrace.gateway.foreground import Foreground

ASKED = Request(id="r", model=MODEL.id, prompt="Hi")


async def drain(events: Any) -> list[Any]:
    return [event async for event in events]


def test_what_the_backend_says_comes_through_and_is_counted_while_it_comes() -> None:
    async def main() -> None:
        backend = ScriptedBackend(answer("a", "b"))
        foreground = Foreground(backend)
        heard: list[int] = []
        foreground.on_idle.append(lambda: heard.append(foreground.num_running))
        events = foreground.run(ASKED)
        assert foreground.num_running == 0  # nothing happens before the first event is asked for
        assert await anext(events) == started(ASKED)
        assert foreground.num_running == 1
        assert len(await drain(events)) == 4
        assert (foreground.num_running, heard) == (0, [0])
        assert foreground.models() == backend.models()
        assert (await foreground.probe(ASKED)).fits

    run(main())


@pytest.mark.parametrize("ending", ["error", "closed", "cancelled"])
def test_an_answer_that_does_not_end_well_is_not_counted_for_ever(ending: str) -> None:
    async def main() -> None:
        pause = Pause()
        steps: list[Any] = [started(ASKED), EngineFault("no.")] if ending == "error" else [started(ASKED), pause]
        backend = ScriptedBackend(lambda _: steps)
        foreground = Foreground(backend)
        events = foreground.run(ASKED)
        await anext(events)
        if ending == "error":
            with pytest.raises(EngineFault):
                await anext(events)
        elif ending == "closed":
            await events.aclose()
        else:
            task = asyncio.ensure_future(drain(events))
            await pause.reached.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert (foreground.num_running, backend.num_open) == (0, 0)

    run(main())
