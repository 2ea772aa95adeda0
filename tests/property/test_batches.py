"""Batches under any schedule: processes that end anywhere, lines that fail, cancels and expiries; the books agree."""

import asyncio
import contextlib
import itertools
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles_files import line, opened
from tests.doubles_http import HandClock, Pause, ScriptedBackend, Step, answer, run

from headrace.core.batch import BatchStatus
from headrace.core.errors import Conflict, EngineFault, InvalidRequest, Overloaded
from headrace.core.request import Request
from headrace.gateway.batches import BatchLimits
from headrace.memory import batches as rows
from headrace.memory.store import Store

# What a line does when it runs: it answers, can never work, meets a full queue or a fault once, or hangs once.
DEEDS = ("answer", "refuse", "full", "fault", "hang")


@dataclass(frozen=True)
class Plan:
    """A schedule: what each line does, how many run at once, after how many ends each process goes, how it all ends."""

    deeds: tuple[str, ...]
    max_running: int
    deaths: tuple[int, ...]
    ending: str


plans = st.builds(
    Plan,
    deeds=st.lists(st.sampled_from(DEEDS), min_size=1, max_size=8).map(tuple),
    max_running=st.integers(1, 4),
    deaths=st.lists(st.integers(0, 6), max_size=3).map(tuple),
    ending=st.sampled_from(("completed", "cancelled", "expired")),
)


class Model:
    """A backend that does what the plan says, and remembers which lines it answered."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.answered: list[int] = []
        self.tried: set[int] = set()
        self.hangs = False

    def script(self, request: Request) -> list[Step]:
        assert request.messages is not None
        number = int(request.messages[0].text)
        deed = self.plan.deeds[number]
        is_first = number not in self.tried
        self.tried.add(number)
        if deed == "refuse":
            return [InvalidRequest("no.", param="messages")]
        if deed == "full" and is_first:
            return [Overloaded("full.")]
        if deed == "fault" and is_first:
            return [EngineFault("bad.")]
        if deed == "hang" and (is_first or self.hangs):
            return [Pause()]
        self.answered.append(number)
        return answer(str(number))(request)


@settings(max_examples=40, deadline=None)
@given(plans)
def test_every_line_ends_exactly_once_and_the_counts_say_so(plan: Plan) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run(_play(plan, Path(folder)), limit_s=30)


async def _play(plan: Plan, home: Path) -> None:
    model, clock = Model(plan), HandClock()
    limits = BatchLimits(max_running=plan.max_running)
    async with opened(home, ScriptedBackend(model.script), starts=False, clock=clock) as shelf:
        batch = await shelf.order(b"".join(line(f"l{n}", str(n)) for n in range(len(plan.deeds))))
    for count in plan.deaths:
        # A process that goes when so many lines have ended, or when it can get no further.
        async with opened(home, ScriptedBackend(model.script), limits=limits, clock=clock) as shelf:
            for _ in range(40):
                shelf.ticks.now.set()
                now = await shelf.batches.get("acme", batch.id)
                if now.is_over or (now.status == BatchStatus.IN_PROGRESS and now.num_ended >= count):
                    break
                await asyncio.sleep(0)
    async with opened(home, ScriptedBackend(model.script), limits=limits, clock=clock) as shelf:
        batch = await shelf.batches.get("acme", batch.id)
        if plan.ending == "cancelled":
            with contextlib.suppress(Conflict):  # it has ended, or is about to
                await shelf.batches.cancel("acme", batch.id)
        elif plan.ending == "expired":
            clock.now_s += 86_400
        else:
            model.tried = set(range(len(plan.deeds)))

        def moves_on(batch: Any) -> bool:
            shelf.ticks.now.set()
            return bool(batch.is_over)

        batch = await shelf.until(batch, moves_on)
        good = [] if batch.output_file_id is None else await shelf.lines_of(batch.output_file_id)
        bad = [] if batch.error_file_id is None else await shelf.lines_of(batch.error_file_id)
        rows = await shelf.store.call(lambda connection: connection.execute("SELECT * FROM batch_lines").fetchall())
    assert rows == []
    assert {one["custom_id"] for one in good}.isdisjoint(one["custom_id"] for one in bad)
    if batch.num_lines:
        assert sorted(one["custom_id"] for one in [*good, *bad]) == sorted(f"l{n}" for n in range(len(plan.deeds)))
    assert (batch.num_ended, batch.num_failed) == (len(good) + len(bad), len(bad))
    assert batch.num_unrun == sum(one["response"] is None for one in bad)
    assert batch.usage.prompt_tokens == 7 * len(good)
    for one in good:
        number = one["custom_id"][1:]
        assert one["response"]["body"]["choices"][0]["message"]["content"] == number
        assert int(number) in model.answered
    if batch.status == BatchStatus.COMPLETED:
        refused = {f"l{n}" for n, deed in enumerate(plan.deeds) if deed == "refuse"}
        assert {one["custom_id"] for one in bad} == refused


class HeldStore(Store):
    """A store whose nth call from now on waits on the database's thread, inside its transaction, for `go`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.num_left: int | None = None
        self.is_held = threading.Event()
        self.go = threading.Event()

    async def call(self, function: Any, *given: Any, **named: Any) -> Any:
        if self.num_left is None:
            return await super().call(function, *given, **named)
        self.num_left -= 1
        is_last = self.num_left == 0

        def held(connection: Any) -> Any:
            made = function(connection, *given, **named)
            if is_last:
                self.is_held.set()
                self.go.wait()
            return made

        return await super().call(held)


def test_a_process_may_go_during_any_call_of_the_database(tmp_path: Path) -> None:
    async def main() -> None:
        for number in itertools.count(1):
            home = tmp_path / str(number)
            home.mkdir()
            if not await _goes_during(home, number):
                assert number > 15  # it is not that nothing was called
                return

    run(main(), limit_s=60)


async def _goes_during(home: Path, number: int) -> bool:
    """Whether a process that runs a batch made that many calls; it went during the last of them."""

    def script(request: Request) -> list[Step]:
        assert request.messages is not None
        return [InvalidRequest("no.")] if request.messages[0].text == "0" else answer("yes")(request)

    backend = ScriptedBackend(script)
    async with opened(home, backend, starts=False) as shelf:
        batch = await shelf.order(line("l0", "0") + line("l1", "1"))
        async with opened(home, backend, store_type=HeldStore) as going:
            assert isinstance(going.store, HeldStore)
            going.store.num_left = number
            now = batch
            while not (going.store.is_held.is_set() or now.is_over):
                now = await shelf.store.read(rows.find_batch, "acme", batch.id)
            # It is told to go first; then the call comes to its end.
            asyncio.get_running_loop().call_soon(going.store.go.set)
    async with opened(home, backend) as shelf:
        batch = await shelf.until(batch)
        assert (batch.status, batch.num_ended, batch.num_failed) == (BatchStatus.COMPLETED, 2, 1)
        good, bad = await shelf.lines_of(batch.output_file_id), await shelf.lines_of(batch.error_file_id)
        assert ([one["custom_id"] for one in good], [one["custom_id"] for one in bad]) == (["l1"], ["l0"])
        known = await shelf.store.call(lambda connection: connection.execute("SELECT id FROM files").fetchall())
        assert {path.name for path in (home / "files").rglob("*") if path.is_file()} == {name for (name,) in known}
    return going.store.is_held.is_set()
