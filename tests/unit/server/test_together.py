"""Requests that are answered together: whatever their reader does, nothing of them stays behind."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from tests.doubles_http import run

from headrace.core.errors import EngineFault
from headrace.core.events import ChoiceFinished, Event, Finished, FinishReason, Started, TextDelta, Usage
from headrace.core.request import Request, Sampling
from headrace.server.together import MAX_WAITING, run_together


class Talker:
    """A backend that says more than anybody waits for, and counts what of it is open."""

    def __init__(self, num_deltas: int, *, finishes: bool = True) -> None:
        self.num_open = 0
        self.num_said = 0
        self._num_deltas = num_deltas
        self._finishes = finishes

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        self.num_open += 1
        try:
            yield Started(request.id, "m", 3)
            for _ in range(self._num_deltas):
                self.num_said += 1
                yield TextDelta(0, request.prompt or "", 1)
            yield ChoiceFinished(0, FinishReason.STOP)
            if self._finishes:
                yield Finished(Usage(3, self._num_deltas, cache_writes=((300.0, 1),)))
        finally:
            self.num_open -= 1


def requests(count: int) -> list[Request]:
    return [Request(id=f"r{index}", model="m", prompt=str(index), sampling=Sampling()) for index in range(count)]


def test_a_reader_that_leaves_while_much_is_waiting_ends_all_of_them() -> None:
    backend: Any = Talker(10 * MAX_WAITING)

    async def main() -> None:
        events = run_together(backend, requests(3))
        await anext(events)
        for _ in range(100):  # until nothing more fits
            await asyncio.sleep(0)
        assert MAX_WAITING <= backend.num_said < 2 * MAX_WAITING
        await events.aclose()
        assert backend.num_open == 0

    run(main())


def test_choices_are_numbered_by_prompt_and_what_was_used_is_added_up() -> None:
    backend: Any = Talker(2)

    async def main() -> None:
        events = [event async for event in run_together(backend, requests(3))]
        assert isinstance(events[0], Started)
        assert sum(isinstance(event, Started) for event in events) == 1
        said = {event.choice: event.text for event in events if isinstance(event, TextDelta)}
        assert said == {0: "0", 1: "1", 2: "2"}
        assert events[-1] == Finished(Usage(9, 6, cache_writes=((300.0, 3),)))

    run(main())


def test_a_backend_that_stops_without_an_end_is_a_defect() -> None:
    backend: Any = Talker(2, finishes=False)

    async def main() -> None:
        with pytest.raises(EngineFault, match="without saying"):
            async for _ in run_together(backend, requests(2)):
                pass
        assert backend.num_open == 0

    run(main())
