"""Models that come and go while others run: nothing of one touches another, and what has gone is held by nobody."""

import asyncio
import gc
import weakref
from dataclasses import replace
from typing import Any

import pytest
from tests.doubles import GREEDY, TOY_CACHE, TOY_PAGE_BYTES, ManualClock, ToyProgram, toy_answer
from tests.unit.engine.test_engine import BOUND_S, Gate, Reader, run
from tests.unit.engine.test_engine import work as work_of_toy

from headrace.core.errors import Unavailable
from headrace.engine.config import EngineConfig
from headrace.engine.engine import Engine
from headrace.engine.item import Token
from headrace.engine.lane import EngineModel
from headrace.engine.provision import Footing, provide
from headrace.engine.sequence import Work
from headrace.observe.metrics import Metrics

CONFIG = EngineConfig(
    max_batch_tokens=64, max_sequences=4, prefill_chunk=32, checks=True, kv_memory_bytes=64 * TOY_PAGE_BYTES
)
METRICS = Metrics()


def model(name: str, program: ToyProgram | None = None) -> EngineModel:
    metrics = METRICS.for_model(name)
    return EngineModel(name=name, program=program or ToyProgram(), cache=TOY_CACHE, context_length=512, metrics=metrics)


def make(program: ToyProgram | None = None) -> Engine:
    return Engine(CONFIG, [model("toy", program)], None, ManualClock(), num_sharing=2)


def work(prompt: list[int], max_tokens: int, *, of: str = "toy", **options: Any) -> Work:
    return replace(work_of_toy(prompt, max_tokens, **options), model=of)


def gauge(name: str, served: str) -> float | None:
    return METRICS.registry.get_sample_value(name, {"model_name": served, "engine": "0"})


def test_a_share_does_not_depend_on_who_came_first_and_both_answer_as_if_alone() -> None:
    engine = make()

    async def main() -> None:
        assert engine.snapshot("toy").total_pages == 32
        engine.add_model(model("late"), 2)
        assert engine.snapshot("late").total_pages == 32
        readers = [Reader(engine, work([5, 6, 7], 30, of=name)) for name in ("toy", "late")]
        for reader in readers:
            await reader.end()
            assert reader.answer() == toy_answer([5, 6, 7], 30, GREEDY)

    run(engine, main)


def test_a_model_is_added_while_another_streams_and_its_stream_goes_on() -> None:
    program = ToyProgram()
    engine = make(program)

    async def main() -> None:
        reader = Reader(engine, work([1, 2], 200))
        await reader.until(lambda items: any(isinstance(item, Token) for item in items))
        engine.add_model(model("late"), 2)
        other = Reader(engine, work([3], 5, of="late"))
        await other.end()
        await asyncio.wait_for(asyncio.wrap_future(engine.remove_model("late")), BOUND_S)
        await reader.end()
        assert reader.answer() == toy_answer([1, 2], 200, GREEDY)
        assert other.answer() == toy_answer([3], 5, GREEDY)

    run(engine, main)


def test_a_model_leaves_only_when_its_last_request_has_ended() -> None:
    program = ToyProgram()
    engine = make()
    gate = Gate(program)

    async def main() -> None:
        engine.add_model(model("late", program), 2)
        reader = Reader(engine, work([3], 5, of="late"))
        await asyncio.to_thread(gate.entered.wait, BOUND_S)
        gone = engine.remove_model("late")
        gate.opened.set()
        await reader.end()
        assert reader.answer() == toy_answer([3], 5, GREEDY)
        await asyncio.wait_for(asyncio.wrap_future(gone), BOUND_S)
        with pytest.raises(KeyError):
            engine.snapshot("late")

    run(engine, main)


def test_a_request_that_was_cancelled_just_before_is_gone_with_its_model() -> None:
    engine = make()

    async def main() -> None:
        engine.add_model(model("late"), 2)
        reader = Reader(engine, work([3], 400, of="late"))
        await reader.until(lambda items: any(isinstance(item, Token) for item in items))
        engine.cancel(reader.ticket)
        await asyncio.wait_for(asyncio.wrap_future(engine.remove_model("late")), BOUND_S)
        assert gauge("vllm:num_requests_running", "late") == 0
        assert gauge("vllm:kv_cache_usage_perc", "late") == 0
        again = Reader(engine, work([3], 4))
        assert (await again.end())[-1].reason is not None

    run(engine, main)


def test_pages_and_program_of_a_model_that_left_are_freed_without_the_collector() -> None:
    engine = make()

    async def main() -> None:
        program = ToyProgram()
        engine.add_model(model("late", program), 2)
        reader = Reader(engine, work([3], 40, of="late", session="s"))
        await reader.end()
        held: list[weakref.ref[Any]] = [weakref.ref(program), weakref.ref(engine._lanes["late"].pool.array)]
        gc.disable()
        try:
            del program
            large = await asyncio.wait_for(asyncio.wrap_future(engine.remove_model("late")), BOUND_S)
            large.clear()
            assert [one() for one in held] == [None, None]
        finally:
            gc.enable()
        assert reader.ticket.lane.pool.array.size == 0

    run(engine, main)


def test_the_same_name_can_come_again_and_finds_nothing_of_the_one_before() -> None:
    engine = make()

    async def main() -> None:
        for _ in range(3):
            engine.add_model(model("late"), 2)
            reader = Reader(engine, work(list(range(40)), 5, of="late"))
            items = await reader.end()
            assert items[0].cached_tokens == 0
            await asyncio.wait_for(asyncio.wrap_future(engine.remove_model("late")), BOUND_S)

    run(engine, main)


def test_two_of_one_name_and_a_budget_without_a_page_are_refused() -> None:
    engine = make()
    with pytest.raises(ValueError, match="toy is there already"):
        engine.add_model(model("toy"), 2)
    with pytest.raises(ValueError, match="holds no page"):
        engine.add_model(model("late"), 65)
    engine.close()
    with pytest.raises(Unavailable):
        engine.add_model(model("late"), 2)
    with pytest.raises(Unavailable):
        engine.remove_model("toy")


def test_a_model_leaves_an_engine_that_was_not_started() -> None:
    engine = make()
    engine.add_model(model("late"), 2)
    assert engine.remove_model("late").result(0) != []
    engine.add_model(model("late"), 2)
    engine.close()


def test_who_waits_for_a_model_to_leave_is_told_when_the_engine_stops() -> None:
    program = ToyProgram()
    gate = Gate(program)
    engine = make(program)

    async def main() -> None:
        Reader(engine, work([3], 400))
        await asyncio.to_thread(gate.entered.wait, BOUND_S)
        gone = engine.remove_model("toy")
        stopping = asyncio.get_running_loop().run_in_executor(None, engine.close)
        gate.opened.set()
        await asyncio.wait_for(asyncio.wrap_future(gone), BOUND_S)
        await stopping

    engine.start()
    asyncio.run(main())


def test_the_bytes_of_a_provision_are_those_of_the_pool() -> None:
    footing = Footing(TOY_CACHE, model("x").kv_kind, 512)
    pages = provide(CONFIG, 3, footing)
    assert pages.num_pages == 21
    assert pages.num_bytes == 21 * TOY_PAGE_BYTES <= 64 * TOY_PAGE_BYTES // 3
    engine = make()
    engine.add_model(model("late"), 3)
    assert engine._lanes["late"].pool.array.nbytes == pages.num_bytes
    engine.close()


def test_pages_of_sequences_that_are_computed_whole_are_those_of_one_step() -> None:
    whole = Footing(TOY_CACHE, model("x").kv_kind, 96, is_pooled=True)
    assert provide(CONFIG, 1, whole).num_pages == 3 + CONFIG.max_sequences
    assert provide(replace(CONFIG, kv_memory_bytes=2 * TOY_PAGE_BYTES), 1, whole).num_pages == 2
