"""Models that come and go as requests ask for them: toys in a real engine, loads that a test holds open."""

import asyncio
import itertools
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import pytest
from tests.doubles import GREEDY, TOY_PAGE_BYTES, ManualClock, ToyModel, ToyProgram, ToyTokenizer, toy_answer, toy_text

from headrace.core.errors import (
    Conflict,
    DeadlineExceeded,
    EngineFault,
    HeadraceError,
    InvalidRequest,
    ModelFileError,
    NotFound,
    Overloaded,
    Unavailable,
)
from headrace.core.events import Event, TextDelta
from headrace.core.request import Input, Limits, Request, Sampling, Task
from headrace.engine.config import EngineConfig
from headrace.engine.text import Setup, Source, TextEngine
from headrace.observe.metrics import Metrics

BOUND_S = 5.0
PROMPT = "Say something long about mills."
IDS = ToyTokenizer().encode(PROMPT)
PAGES = 36
WEIGHTS = 1000
HELD = WEIGHTS + PAGES // 3 * TOY_PAGE_BYTES  # by one of three models


class Shop:
    """Where the toys come from: counts loads, and fails or waits when a test says so."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.gates: dict[str, threading.Event] = {}
        self.entered = threading.Event()
        self.switch_s = 0.0

    def source(self, name: str, *, ttl_s: float = 600.0, weights_bytes: int = WEIGHTS) -> Source:
        model: Any = ToyModel(name=name, program=ToyProgram(), weights_bytes=weights_bytes)
        setup = Setup(aliases=(name.upper(),))
        return Source.of(model, setup, lambda: self.load(name, weights_bytes), ttl_s=ttl_s)

    def load(self, name: str, weights_bytes: int) -> Any:
        self.loads.append(name)
        self.switch_s = sys.getswitchinterval()
        self.entered.set()
        if (gate := self.gates.get(name)) is not None:
            assert gate.wait(BOUND_S)
        if (error := self.errors.pop(name, None)) is not None:
            raise error
        return ToyModel(name=name, digest=f"sha256:{name}", program=ToyProgram(), weights_bytes=weights_bytes)


def make(shop: Shop, sources: list[Source] | None = None, *, fits: float = 2.0, **options: Any) -> TextEngine:
    """Three models; the first is there at the start, and the budget holds `fits` of them."""
    settings: dict[str, Any] = {"max_batch_tokens": 64, "max_sequences": 4, "prefill_chunk": 32, "checks": True}
    settings |= {"kv_memory_bytes": PAGES * TOY_PAGE_BYTES, "threads": 1, "memory_bytes": int(fits * HELD)}
    sources = sources or [shop.source(name) for name in ("a", "b", "c")]
    first: Any = ToyModel(name=sources[0].name, digest="sha256:a", program=ToyProgram())
    clock = options.pop("clock", ManualClock())
    config = EngineConfig(**(settings | options))
    return TextEngine([first], config, clock=clock, threads=object(), sources=sources, metrics=Metrics())


def ask(model: str, max_tokens: int = 20, **limits: Any) -> Request:
    return Request(
        id="r1",
        model=model,
        prompt=PROMPT,
        sampling=Sampling(temperature=0.0),
        limits=Limits(max_tokens=max_tokens, ignore_eos=True, **limits),
    )


async def answer(engine: TextEngine, model: str, max_tokens: int = 20, **limits: Any) -> str:
    events = [event async for event in engine.run(ask(model, max_tokens, **limits))]
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def expected(max_tokens: int = 20) -> str:
    return toy_text(toy_answer(IDS, max_tokens, GREEDY))


async def first_text(events: AsyncGenerator[Event, None]) -> str:
    """Read until the first text has come."""
    async for event in events:
        if isinstance(event, TextDelta):
            return event.text
    raise AssertionError("no text came")


async def rest_of(events: AsyncGenerator[Event, None]) -> str:
    return "".join([event.text async for event in events if isinstance(event, TextDelta)])


def states(engine: TextEngine) -> dict[str, str]:
    return {one.name: one.state for one in engine.residences()}


def gauge(engine: TextEngine, name: str) -> float | None:
    return engine.metrics.registry.get_sample_value(f"headrace:model_{name}", {"model_name": "b"})


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - what another thread does rings no bell here
        await asyncio.sleep(0)


def run(engine: TextEngine, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a test's body beside a started engine; in the end nobody holds a model."""

    async def body() -> None:
        engine.start()
        try:
            async with asyncio.timeout(BOUND_S):
                await main()
            assert [one.num_requests for one in engine.residences()] == [0] * len(engine.residences())
        finally:
            assert await engine.close(BOUND_S)

    asyncio.run(body())
    engine._engine.check()


def test_a_model_is_loaded_when_somebody_asks_and_answers_as_any_other() -> None:
    shop = Shop()
    engine = make(shop)

    async def main() -> None:
        assert [(card.id, card.is_loaded) for card in engine.models()] == [("a", True), ("b", False), ("c", False)]
        assert await answer(engine, "B") == expected()
        assert shop.loads == ["b"]
        assert [(card.id, card.is_loaded) for card in engine.models()] == [("a", True), ("b", True), ("c", False)]
        assert await answer(engine, "a") == expected()
        assert shop.loads == ["b"]

    run(engine, main)


def test_traffic_in_turn_over_three_models_where_two_fit_fails_nobody_and_keeps_to_the_budget() -> None:
    shop = Shop()
    engine = make(shop)

    async def main() -> None:
        async def client(names: list[str]) -> None:
            for name in names:
                assert await answer(engine, name, 8) == expected(8)
                held = sum(one.bytes_held for one in engine.residences())
                assert held <= 2 * HELD

        orders = list(itertools.permutations("abc"))
        await asyncio.gather(*(client(list(order) * 3) for order in orders))
        assert len(shop.loads) > 3

    run(engine, main)


def test_a_stream_runs_on_while_another_model_is_loaded_and_is_not_cut_when_its_own_must_go() -> None:
    shop = Shop()
    shop.gates["c"] = threading.Event()
    engine = make(shop, fits=1.0)

    async def main() -> None:
        stream = engine.run(ask("a", 300))
        text = await first_text(stream)
        waiting = asyncio.create_task(answer(engine, "b"))
        await until(lambda: states(engine)["a"] == "leaving")
        assert states(engine)["b"] == "waiting"
        assert text + await rest_of(stream) == expected(300)
        assert await waiting == expected()
        assert states(engine) == {"a": "absent", "b": "ready", "c": "absent"}

    run(engine, main)


def test_tokens_come_while_a_load_is_held_open() -> None:
    shop = Shop()
    shop.gates["b"] = threading.Event()
    engine = make(shop)

    async def main() -> None:
        waiting = asyncio.create_task(answer(engine, "b"))
        await asyncio.to_thread(shop.entered.wait, BOUND_S)
        assert states(engine)["b"] == "loading"
        assert await answer(engine, "a", 100) == expected(100)
        assert not waiting.done()
        shop.gates["b"].set()
        assert await waiting == expected()

    run(engine, main)


def test_threads_take_turns_sooner_while_a_model_is_loaded_and_as_usual_afterwards() -> None:
    shop = Shop()
    usual = sys.getswitchinterval()
    engine = make(shop)

    async def main() -> None:
        await engine.load_model("b")
        assert shop.switch_s < usual

    run(engine, main)
    assert sys.getswitchinterval() == usual


def test_a_load_that_fails_is_the_error_of_all_who_wait_and_the_next_request_tries_again() -> None:
    shop = Shop()
    shop.gates["b"] = threading.Event()
    shop.errors["b"] = ModelFileError("b.gguf: is truncated; download it again.")
    engine = make(shop)

    async def main() -> None:
        waiting = [asyncio.create_task(answer(engine, "b")) for _ in range(2)]
        await asyncio.to_thread(shop.entered.wait, BOUND_S)
        await asyncio.sleep(0)
        shop.gates["b"].set()
        for one in waiting:
            with pytest.raises(ModelFileError, match="truncated"):
                await one
        assert engine.residences()[1].bytes_held == 0
        assert await answer(engine, "b") == expected()

    run(engine, main)


def test_a_defect_in_a_load_is_told_as_one_and_the_loader_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    shop.errors["b"] = RuntimeError("boom")
    engine = make(shop)

    async def main() -> None:
        with pytest.raises(EngineFault, match="RuntimeError"):
            await answer(engine, "b")
        assert await answer(engine, "c") == expected()

    run(engine, main)
    assert "met a defect" in caplog.text


def test_who_stops_waiting_leaves_nothing_behind() -> None:
    shop = Shop()
    shop.gates["b"] = threading.Event()
    engine = make(shop)

    async def main() -> None:
        waiting = asyncio.create_task(answer(engine, "b"))
        await asyncio.to_thread(shop.entered.wait, BOUND_S)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        shop.gates["b"].set()
        await until(lambda: states(engine)["b"] == "ready")

    run(engine, main)


def test_a_time_limit_passes_while_a_model_is_loaded() -> None:
    shop = Shop()
    shop.gates["b"] = threading.Event()
    engine = make(shop)

    async def main() -> None:
        with pytest.raises(DeadlineExceeded, match="while b was loaded"):
            await answer(engine, "b", deadline_s=0.01)
        shop.gates["b"].set()
        with pytest.raises(InvalidRequest, match="deadline_s"):
            await answer(engine, "b", deadline_s=-1.0)

    run(engine, main)


def test_more_than_may_wait_are_refused() -> None:
    shop = Shop()
    shop.gates["b"] = threading.Event()
    engine = make(shop, max_waiting=1)

    async def main() -> None:
        waiting = asyncio.create_task(answer(engine, "b"))
        await asyncio.to_thread(shop.entered.wait, BOUND_S)
        with pytest.raises(Overloaded):
            await answer(engine, "b")
        assert await answer(engine, "a") == expected()
        shop.gates["b"].set()
        await waiting

    run(engine, main)


def test_a_model_that_can_never_fit_is_refused_when_it_is_named() -> None:
    shop = Shop()
    with pytest.raises(InvalidRequest, match="can never be loaded: weights"):
        make(shop, [shop.source("a"), shop.source("b", weights_bytes=10**9)])


def test_an_unload_waits_for_the_stream_and_what_comes_after_loads_again() -> None:
    shop = Shop()
    engine = make(shop)

    async def main() -> None:
        stream = engine.run(ask("a", 300))
        text = await first_text(stream)
        with pytest.raises(Conflict) as caught:
            await engine.unload_model("a", waits=False)
        assert caught.value.status == 409
        gone = asyncio.create_task(engine.unload_model("A"))
        await until(lambda: states(engine)["a"] == "leaving")
        later = asyncio.create_task(answer(engine, "a"))
        assert text + await rest_of(stream) == expected(300)
        await gone
        assert await later == expected()
        assert shop.loads == ["a"]

    run(engine, main)


def test_models_are_loaded_and_unloaded_on_request_and_listed_with_what_they_hold() -> None:
    shop = Shop()
    engine = make(shop)

    async def main() -> None:
        loaded = await engine.load_model("b")
        assert (loaded.state, loaded.bytes_held) == ("ready", HELD)
        assert (await engine.load_model("b")).state == "ready"
        assert shop.loads == ["b"]
        assert [gauge(engine, name) for name in ("memory_bytes", "loads_total")] == [HELD, 1]
        unloaded = await engine.unload_model("b")
        assert (unloaded.state, unloaded.bytes_held) == ("absent", 0)
        assert [gauge(engine, name) for name in ("memory_bytes", "loads_total")] == [0, 1]
        assert (await engine.unload_model("b", waits=False)).state == "absent"
        with pytest.raises(NotFound):
            await engine.load_model("z")
        assert engine.residents is engine

    run(engine, main)


def test_an_idle_model_leaves_after_its_time() -> None:
    shop = Shop()
    clock = ManualClock()
    engine = make(shop, [shop.source("a"), shop.source("b", ttl_s=60.0)], fits=4.0, clock=clock)

    async def main() -> None:
        await answer(engine, "b")
        clock.now += 59.0
        await answer(engine, "a")
        assert engine.residences()[1].unloads_in_s == 1.0
        clock.now += 1.0
        await answer(engine, "a")  # whatever happens makes the loader look at the clock
        await until(lambda: states(engine)["b"] == "absent")

    run(engine, main)


def test_an_engine_that_stopped_by_a_defect_leaves_nobody_waiting_for_a_model(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    engine = make(shop, fits=1.0)

    async def main() -> None:
        def fail() -> None:
            raise AssertionError("a defect")

        engine._engine._post_call(fail)
        await asyncio.to_thread(engine._engine._thread.join, BOUND_S)
        with pytest.raises(Unavailable):
            await answer(engine, "b")  # what it needs can no longer be taken from the other one

    async def body() -> None:
        engine.start()
        async with asyncio.timeout(BOUND_S):
            await main()
        await engine.close()

    asyncio.run(body())
    assert "met a defect" in caplog.text


def test_a_probe_loads_nothing() -> None:
    shop = Shop()
    engine = make(shop)

    async def main() -> None:
        assert (await engine.probe(ask("a"))).prompt_tokens == len(IDS)
        with pytest.raises(Unavailable, match="not in memory"):
            await engine.probe(ask("b"))
        assert shop.loads == []

    run(engine, main)


def test_who_waits_is_told_when_the_server_stops() -> None:
    shop = Shop()
    shop.gates["b"] = threading.Event()
    engine = make(shop)

    async def main() -> None:
        waiting = asyncio.create_task(answer(engine, "b"))
        await asyncio.to_thread(shop.entered.wait, BOUND_S)
        closing = asyncio.create_task(engine.close())
        with pytest.raises(HeadraceError, match="stopping"):
            await waiting
        shop.gates["b"].set()
        await closing

    async def body() -> None:
        engine.start()
        await main()

    asyncio.run(body())


def test_a_model_without_a_source_stays() -> None:
    shop = Shop()
    fixed: Any = ToyModel(name="fixed", program=ToyProgram())
    config = EngineConfig(threads=1, kv_memory_bytes=PAGES * TOY_PAGE_BYTES)
    engine = TextEngine([fixed], config, clock=ManualClock(), threads=object(), sources=[shop.source("b")])

    async def main() -> None:
        assert await answer(engine, "b") == await answer(engine, "fixed") == expected()
        with pytest.raises(InvalidRequest, match="stays in memory"):
            await engine.unload_model("fixed")

    run(engine, main)


def test_what_a_model_cannot_do_is_refused_before_it_is_loaded_for_that() -> None:
    shop = Shop()
    engine = make(shop)

    async def main() -> None:
        wrong = Request(id="r", model="c", task=Task.EMBED, inputs=(Input("x"),))
        with pytest.raises(InvalidRequest, match="c cannot embed; it can generate"):
            await anext(engine.run(wrong))
        assert shop.loads == []

    run(engine, main)
