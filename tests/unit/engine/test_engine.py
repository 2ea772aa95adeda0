"""The engine's thread: results arrive in order and once, everything ends, nothing is left behind. The toy computes."""

import asyncio
import math
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
import pytest
from tests.doubles import GREEDY, TOY_CACHE, TOY_PAGE_BYTES, ManualClock, ToyProgram, toy_answer

from headrace.core.errors import ContextTooLong, DeadlineExceeded, EngineFault, HeadraceError, Overloaded, Unavailable
from headrace.core.events import FinishReason
from headrace.core.gateway import EXCHANGE_ID
from headrace.core.request import Sampling
from headrace.engine.config import EngineConfig
from headrace.engine.engine import Engine, Ticket, Times
from headrace.engine.item import Begun, Course, Dropped, Failed, Token
from headrace.engine.kv.salt import Salt
from headrace.engine.lane import EngineModel
from headrace.engine.mailbox import Mailbox
from headrace.engine.sequence import Work
from headrace.observe.metrics import Metrics

PAGES = 32
BOUND_S = 5.0


def make(program: ToyProgram | None = None, **options: Any) -> Engine:
    pages = options.pop("pages", PAGES)
    clock = options.pop("clock", ManualClock())
    pool = options.pop("pool", None)
    settings: dict[str, Any] = {"max_batch_tokens": 64, "max_sequences": 4, "prefill_chunk": 32, "checks": True}
    config = EngineConfig(**(settings | {"kv_memory_bytes": pages * TOY_PAGE_BYTES} | options))
    model = EngineModel(
        name="toy",
        program=program or ToyProgram(),
        cache=TOY_CACHE,
        context_length=512,
        metrics=Metrics().for_model("toy"),
    )
    return Engine(config, [model], pool, clock)


def work(prompt: list[int], max_tokens: int = 8, *, num_choices: int = 1, **options: Any) -> Work:
    sampling = Sampling(temperature=options.pop("temperature", 0.0), num_choices=num_choices)
    tokens = np.array(prompt, np.int32)
    return Work(model="toy", tokens=tokens, sampling=sampling, seed=3, max_tokens=max_tokens, **options)


class Reader:
    """Collects one request's items on the loop."""

    def __init__(self, engine: Engine, item: Work) -> None:
        self.mailbox = Mailbox(asyncio.get_running_loop())
        self.num_choices = item.sampling.num_choices
        self.items: list[Any] = []
        self.ticket: Ticket = engine.submit(item, self.mailbox)

    async def until(self, enough: Callable[[list[Any]], bool]) -> list[Any]:
        async with asyncio.timeout(BOUND_S):
            while not enough(self.items):
                self.items += await self.mailbox.take()
        return self.items

    async def end(self) -> list[Any]:
        return await self.until(
            lambda items: (
                sum(isinstance(item, Token) and item.reason is not None for item in items) == self.num_choices
                or any(isinstance(item, Failed) for item in items)
            )
        )

    def answer(self, choice: int = 0) -> list[int]:
        return [item.token for item in self.items if isinstance(item, Token) and item.choice == choice]

    @property
    def error(self) -> HeadraceError:
        assert isinstance(self.items[-1], Failed)
        return self.items[-1].error


def run(engine: Engine, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's body beside a started engine and see that nothing is left behind."""
    engine.start()
    try:
        asyncio.run(main())
        assert engine.drain(BOUND_S)
        snapshot = engine.snapshot("toy")
        assert (snapshot.running, snapshot.waiting) == (0, 0)
        assert snapshot.free_pages + snapshot.idle_pages == snapshot.total_pages
    finally:
        engine.close()
    engine.check()


class TickingClock(ManualClock):
    """A second passes whenever somebody looks."""

    def monotonic_s(self) -> float:
        self.now += 1.0
        return self.now


class Gate:
    """Holds the engine inside a step until the test opens it."""

    def __init__(self, program: ToyProgram) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        program.before_step = self.wait

    def wait(self) -> None:
        self.entered.set()
        assert self.opened.wait(BOUND_S)


def test_a_request_begins_once_and_its_tokens_come_in_order() -> None:
    engine = make()

    async def main() -> None:
        reader = Reader(engine, work([5, 6, 7], 10))
        items = await reader.end()
        assert items[0].cached_tokens == 0
        assert reader.answer() == toy_answer([5, 6, 7], 10, GREEDY, seed=3)
        tokens = [item for item in items[1:] if not isinstance(item, Course)]
        assert [item.reason for item in tokens] == [None] * 9 + [FinishReason.LENGTH]

    run(engine, main)


def test_choices_of_one_request_differ_and_begin_only_once() -> None:
    engine = make()

    async def main() -> None:
        reader = Reader(engine, work([5] * 40, 6, num_choices=3, temperature=1.0))
        items = await reader.end()
        assert sum(isinstance(item, Begun) for item in items) == 1
        for choice in range(3):
            assert reader.answer(choice) == toy_answer([5] * 40, 6, Sampling(), 3, choice)

    run(engine, main)


def test_a_second_request_with_the_same_start_reports_what_it_reused() -> None:
    engine = make()

    async def main() -> None:
        prompt = list(range(90))
        await Reader(engine, work(prompt, salt=Salt("a"))).end()
        again, other = Reader(engine, work(prompt, salt=Salt("a"))), Reader(engine, work(prompt, salt=Salt("b")))
        assert (await again.end())[0].cached_tokens == 64
        assert (await other.end())[0].cached_tokens == 0
        assert again.answer() == other.answer()

    run(engine, main)


def test_warm_tokens_are_read_from_the_published_view() -> None:
    engine = make()
    tokens = np.arange(90, dtype=np.int32)

    async def main() -> None:
        await Reader(engine, work(tokens.tolist(), salt=Salt("a"))).end()

    run(engine, main)
    assert engine.warm_tokens("toy", Salt("a"), tokens.tobytes()) == 64
    assert engine.warm_tokens("toy", Salt("a"), tokens[:64].tobytes()) == 32
    assert engine.warm_tokens("toy", Salt("b"), tokens.tobytes()) == 0
    assert engine.warm_tokens("toy", Salt("a"), (tokens + 1).tobytes()) == 0


def test_a_cancelled_request_frees_everything_although_its_step_was_under_way() -> None:
    program = ToyProgram()
    gate = Gate(program)
    engine = make(program)

    async def main() -> None:
        reader = Reader(engine, work([1, 2, 3], 400, num_choices=3))
        assert await asyncio.to_thread(gate.entered.wait, BOUND_S)
        engine.cancel(reader.ticket)
        gate.opened.set()

    run(engine, main)


def test_cancelling_before_the_engine_has_even_seen_the_request_leaves_nothing() -> None:
    engine = make()

    async def main() -> None:
        for _ in range(50):
            engine.cancel(Reader(engine, work([1, 2, 3], 400)).ticket)

    run(engine, main)


def test_one_choice_can_be_cancelled_and_says_when_it_is_gone() -> None:
    program = ToyProgram()
    gate = Gate(program)
    engine = make(program)

    async def main() -> None:
        reader = Reader(engine, work([1, 2, 3], 100, num_choices=2))
        assert await asyncio.to_thread(gate.entered.wait, BOUND_S)
        engine.cancel(reader.ticket, 1)
        gate.opened.set()
        items = await reader.until(lambda items: any(isinstance(item, Token) and item.reason for item in items))
        assert Dropped(1, was_live=True) in items
        assert len(reader.answer(0)) == 100
        assert len(reader.answer(1)) <= 2
        engine.cancel(reader.ticket, 0)
        assert (await reader.until(lambda items: len(items) > 0 and isinstance(items[-1], Dropped)))[-1] == Dropped(
            0, was_live=False
        )

    run(engine, main)


def test_a_kernel_that_raises_fails_its_batch_and_the_engine_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    engine = make(ToyProgram(failures=1))

    async def main() -> None:
        EXCHANGE_ID.set("req_1")
        reader = Reader(engine, work([1, 2, 3]))
        await reader.end()
        assert isinstance(reader.error, EngineFault)
        assert isinstance(reader.error.__cause__, RuntimeError)
        after = Reader(engine, work([1, 2, 3]))
        await after.end()
        assert after.answer() == toy_answer([1, 2, 3], 8, GREEDY, seed=3)

    run(engine, main)
    (line,) = (one for one in caplog.records if "a step with 1" in one.getMessage().lower())
    assert line.headrace_fields == {"request_ids": ["req_1"]} and line.exc_info is not None


def test_a_row_that_is_no_number_fails_its_request_alone() -> None:
    engine = make(ToyProgram(poison=91))

    async def main() -> None:
        bad, good = Reader(engine, work([1, 91], num_choices=2)), Reader(engine, work([1, 2]))
        await bad.end()
        await good.end()
        assert isinstance(bad.error, EngineFault)
        assert sum(isinstance(item, Failed) for item in bad.items) == 1
        assert good.answer() == toy_answer([1, 2], 8, GREEDY, seed=3)

    run(engine, main)


def test_a_deadline_ends_a_request_with_its_own_error() -> None:
    clock = ManualClock()
    program = ToyProgram()
    engine = make(program, clock=clock)

    def move() -> None:
        clock.now += 1.0

    program.before_step = move

    async def main() -> None:
        late = Reader(engine, work([1, 2], 400, deadline=clock.now + 5.5))
        early = Reader(engine, work([1, 2, 3], 20))
        await late.end()
        await early.end()
        assert isinstance(late.error, DeadlineExceeded)
        assert 0 < len(late.answer()) <= 6
        assert len(early.answer()) == 20

    run(engine, main)


def test_a_full_queue_refuses_at_once_and_a_deadline_reaches_those_who_wait() -> None:
    clock = ManualClock()
    program = ToyProgram()
    gate = Gate(program)
    engine = make(program, clock=clock, max_sequences=1, max_waiting=1)

    async def main() -> None:
        first = Reader(engine, work([1], 10))
        assert await asyncio.to_thread(gate.entered.wait, BOUND_S)
        second, third = Reader(engine, work([2], 10, deadline=clock.now + 1)), Reader(engine, work([3], 10))
        clock.now += 2
        gate.opened.set()
        for reader in (first, second, third):
            await reader.end()
        assert len(first.answer()) == 10
        assert isinstance(second.error, DeadlineExceeded)
        assert isinstance(third.error, Overloaded)
        assert third.error.retry_after_s is not None

    run(engine, main)


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "param", "named"),
    [(512, 1, "messages", "511"), (500, 13, "max_tokens", "at most 12"), (60, 10, "max_tokens", "--kv-memory")],
)
def test_what_can_never_fit_is_refused_at_once(prompt: int, max_tokens: int, param: str, named: str) -> None:
    engine = make(pages=2)

    async def main() -> None:
        with pytest.raises(ContextTooLong, match=named) as caught:
            Reader(engine, work([1] * prompt, max_tokens))
        assert caught.value.param == param

    run(engine, main)


def test_a_context_filled_to_the_last_token_is_served() -> None:
    engine = make(pages=16)

    async def main() -> None:
        reader = Reader(engine, work([1] * 500, 12))
        await reader.end()
        assert reader.answer() == toy_answer([1] * 500, 12, GREEDY, seed=3)

    run(engine, main)


def test_closing_fails_what_is_still_there_and_refuses_what_comes() -> None:
    program = ToyProgram()
    gate = Gate(program)
    engine = make(program)
    engine.start()

    async def main() -> None:
        reader = Reader(engine, work([1], 400))
        assert await asyncio.to_thread(gate.entered.wait, BOUND_S)
        assert not await asyncio.to_thread(engine.drain, 0.0)
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        # Else the step that waits could go on to the request's end.
        while not engine._stopping:  # noqa: ASYNC110 - a thread sets it
            await asyncio.sleep(0)
        gate.opened.set()
        await closing
        await reader.end()
        assert isinstance(reader.error, Unavailable)
        with pytest.raises(Unavailable):
            Reader(engine, work([1]))

    asyncio.run(main())
    engine.close()
    engine.check()
    assert engine.snapshot("toy").running == 0


def test_requests_of_a_loop_that_died_are_abandoned() -> None:
    program = ToyProgram()
    gate = Gate(program)
    engine = make(program)
    engine.start()

    async def main() -> None:
        Reader(engine, work([1], 400))
        assert await asyncio.to_thread(gate.entered.wait, BOUND_S)

    asyncio.run(main())
    gate.opened.set()
    assert engine.drain(BOUND_S)
    engine.close()
    assert len(program.steps) < 5
    engine.check()


def test_a_broken_invariant_stops_the_engine_and_fails_everybody(caplog: pytest.LogCaptureFixture) -> None:
    engine = make()
    engine._lanes["toy"].scheduler.schedule = lambda *_: 1 / 0  # type: ignore[method-assign, return-value, assignment]
    engine.start()

    async def main() -> None:
        reader = Reader(engine, work([1]))
        await reader.end()
        assert isinstance(reader.error, Unavailable)

    asyncio.run(main())
    engine.close()
    assert "defect" in caplog.text


def test_everybody_hears_of_a_defect_even_if_freeing_pages_is_what_broke(caplog: pytest.LogCaptureFixture) -> None:
    engine = make()
    scheduler = engine._lanes["toy"].scheduler
    scheduler.schedule = lambda *_: 1 / 0  # type: ignore[method-assign, return-value, assignment]
    scheduler.remove = lambda sequence: 1 / 0  # type: ignore[method-assign, return-value, assignment]
    engine.start()

    async def main() -> None:
        readers = [Reader(engine, work([1])), Reader(engine, work([2]))]
        for reader in readers:
            await asyncio.wait_for(reader.end(), BOUND_S)
            assert isinstance(reader.error, Unavailable)

    asyncio.run(main())
    engine.close()
    assert "cannot be freed" in caplog.text


def test_the_switch_interval_is_set_while_the_engine_runs_and_put_back() -> None:
    before = sys.getswitchinterval()
    engine = make(switch_interval_s=0.0005)
    engine.start()
    assert math.isclose(sys.getswitchinterval(), 0.0005)
    engine.close()
    assert sys.getswitchinterval() == before


def test_an_engine_whose_threads_are_bound_to_cpus_binds_its_own_thread() -> None:
    callers = []

    class Pool:
        def pin_caller(self) -> None:
            callers.append(threading.current_thread().name)

    for pin_threads in ("none", "0"):
        engine = make(pin_threads=pin_threads, pool=Pool())
        engine.start()
        engine.close()
    assert callers == ["headrace-engine"]


@pytest.mark.parametrize("num_steps", [1, 5])
def test_times_tell_native_calls_from_what_lies_between_them(num_steps: int) -> None:
    engine = make(clock=TickingClock())

    async def main() -> None:
        await Reader(engine, work([1, 2, 3], num_steps)).end()

    run(engine, main)
    assert engine.times == Times(num_steps, native_s=num_steps * 1.0, busy_s=num_steps * 2.0)
    metrics = engine._lanes["toy"].model.metrics
    assert metrics is not None
    assert metrics.native._value.get() == engine.times.native_s
    assert metrics.generation_tokens._value.get() == num_steps
    assert metrics.step._sum.get() == engine.times.busy_s


def test_metrics_count_tokens_hits_and_pages() -> None:
    engine = make()
    metrics = engine._lanes["toy"].model.metrics
    assert metrics is not None

    async def main() -> None:
        for _ in range(2):
            await Reader(engine, work(list(range(70)), 5)).end()

    run(engine, main)
    assert metrics.prompt_tokens._value.get() == 140
    assert metrics.generation_tokens._value.get() == 10
    assert metrics.prefix_hits._value.get() == 64
    assert metrics.running._value.get() == 0
