"""The past that a viewer begins with: what samples count, what time they are of, how much they are, and that taking
them begins and ends with the server. Time is by hand.
"""

import asyncio
import contextlib
import dataclasses
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles_http import (
    Client,
    HandClock,
    HandTimer,
    HandTimers,
    Pause,
    ScriptedBackend,
    answer,
    chat,
    make_app,
    run,
    started,
)

from headrace.api.live import LiveHistory, LiveSample
from headrace.core.errors import Unavailable
from headrace.core.events import ChoiceFinished, Finished, FinishReason, TextDelta, Usage
from headrace.core.watching import LiveEngine, LiveModel, LivePages, LiveTotals
from headrace.server.config import ServerConfig
from headrace.server.history import INTERVAL_S, KEPT, MAX_SAMPLE_BYTES, Ring, grown

LIVE = "/v1/live"
CHAT = "/v1/chat/completions"
LARGEST = 2**53


class Counted:
    """An engine that says what the test gives it, or raises it."""

    def __init__(self, *models: LiveModel) -> None:
        self.models = models
        self.fault: Exception | None = None
        self.go = asyncio.Event()
        self.go.set()
        self.num_whole = 0

    async def look(self, *, is_whole: bool = True) -> LiveEngine:
        self.num_whole += is_whole
        await self.go.wait()
        if self.fault is not None:
            raise self.fault
        return LiveEngine(self.models)


class Timers(HandTimers):
    """They say when a sample is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.has_paused = asyncio.Event()

    def call_later(self, delay: float, callback: Callable[[], None], /) -> HandTimer:
        if delay == INTERVAL_S:
            self.has_paused.set()
        return super().call_later(delay, callback)


class Sampled:
    """An application between start and stop, and its history."""

    def __init__(self, backend: Any = None, engine: Counted | None = None) -> None:
        self.clock, self.timers, self.engine = HandClock(), Timers(), engine
        config = ServerConfig(keep_alive_s=60.0)  # no timer but the history's has its interval
        backend = backend or ScriptedBackend(answer("x"))
        self.app = make_app(backend, config, clock=self.clock, timers=self.timers, watching=engine)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """As a server does it: the application is told of its start and of its end."""
        told: asyncio.Queue[Any] = asyncio.Queue()
        said: asyncio.Queue[Any] = asyncio.Queue()
        task = asyncio.get_running_loop().create_task(self.app({"type": "lifespan"}, told.get, said.put))
        await told.put({"type": "lifespan.startup"})
        assert (await said.get())["type"] == "lifespan.startup.complete"
        await self.timers.has_paused.wait()
        yield
        await told.put({"type": "lifespan.shutdown"})
        assert (await said.get())["type"] == "lifespan.shutdown.complete"
        await task

    async def tick(self, seconds: float = INTERVAL_S) -> None:
        """The next sample is taken, so much later."""
        self.timers.has_paused.clear()
        self.clock.now_s += seconds
        self.timers.fire()
        await self.timers.has_paused.wait()

    def history(self) -> LiveHistory:
        return msgspec.json.decode(self.app.live.history.encode(), type=LiveHistory)

    async def ask(self, path: str) -> Any:
        return (await Client(self.app, "GET", path).run()).json()


def model(name: str = "m", **totals: int) -> LiveModel:
    pages = LivePages(page_tokens=32, total=10, used=4, cached=2)
    return LiveModel(name=name, num_running=2, num_waiting=1, pages=pages, totals=LiveTotals(**totals))


def test_samples_are_what_was_done_between_them_by_all_models_together() -> None:
    engine = Counted(model(output_tokens=100, num_steps=7))
    sampled = Sampled(engine=engine)

    async def main() -> None:
        async with sampled.serving():
            await sampled.tick()
            engine.models = (
                model(output_tokens=160, read_tokens=30, num_steps=17, num_sequences=40, prompt_tokens=64),
                model("n", output_tokens=5, reused_tokens=32),
            )
            await sampled.tick()
            told = sampled.history()
            assert (told.interval_ms, told.since_ms) == (5000, 1_700_000_100_000)
            first, second = told.samples
            assert (first.output_tokens, first.num_steps, first.num_running, first.num_waiting) == (100, 7, 2, 1)
            assert (first.total_pages, first.used_pages, first.cached_pages) == (10, 4, 2)
            assert (second.time_ms, second.span_ms) == (1_700_000_110_000, 5000)
            assert (second.output_tokens, second.read_tokens, second.num_steps, second.num_sequences) == (
                65,
                30,
                10,
                40,
            )
            assert (second.prompt_tokens, second.reused_tokens, second.num_running) == (64, 32, 4)
            assert (second.total_pages, second.used_pages, second.cached_pages) == (20, 8, 4)
            assert engine.num_whole == 0  # no tree was walked for it

    run(main())


def test_a_model_that_left_and_came_back_has_done_what_it_tells() -> None:
    before = {"m": LiveTotals(output_tokens=100, num_steps=9), "gone": LiveTotals(output_tokens=7)}
    told = grown(before, [model(output_tokens=130, num_steps=2)])
    assert (told["output_tokens"], told["num_steps"]) == (130, 2)


def test_first_tokens_and_gaps_are_counted_when_they_come_and_not_at_the_end_of_their_answer() -> None:
    pauses = [Pause(), Pause()]

    def script(request: Any) -> Any:
        usage = Usage(prompt_tokens=7, completion_tokens=11, cached_tokens=0)
        yield from (started(request), pauses[0], TextDelta(0, "x", 1), pauses[1])
        yield from (TextDelta(0, "y", 10), ChoiceFinished(0, FinishReason.STOP), Finished(usage))

    sampled = Sampled(ScriptedBackend(script))

    async def main() -> None:
        async with sampled.serving():
            asked = Client(sampled.app, "POST", CHAT, chat(stream=True))
            asking = asked.start()
            await pauses[0].reached.wait()
            sampled.clock.now_s += 0.3
            pauses[0].go.set()
            await pauses[1].reached.wait()
            await asked.until(lambda reply: b"x" in reply.body)
            await sampled.tick(4.7)
            sampled.clock.now_s += 4.0
            pauses[1].go.set()
            await asking
            await sampled.tick(1.5)
            await sampled.tick()
        first, second, third = sampled.history().samples
        # Without an engine it is known of tokens what passed.
        assert (first.first_token[5], sum(first.first_token), first.between_tokens) == (1, 1, [])  # 200 to 500 ms
        assert (first.num_running, first.output_tokens) == (1, 1)
        assert (second.first_token, second.between_tokens[8], second.num_running) == ([], 10, 0)  # 200 to 500 ms
        assert (second.output_tokens, second.span_ms) == (10, 5500)
        assert (third.first_token, third.between_tokens, third.output_tokens) == ([], [], 0)

    run(main())


def test_a_step_that_takes_long_is_one_sample_of_all_its_time() -> None:
    engine = Counted(model(output_tokens=0))
    sampled = Sampled(engine=engine)

    async def main() -> None:
        async with sampled.serving():
            await sampled.tick()
            engine.go.clear()
            sampled.timers.has_paused.clear()
            sampled.clock.now_s += 5.0
            sampled.timers.fire()
            for _ in range(10):
                await asyncio.sleep(0)
            assert len(sampled.history().samples) == 1
            sampled.clock.now_s += 12.0
            engine.models = (model(output_tokens=34),)
            engine.go.set()
            await sampled.timers.has_paused.wait()
            sample = sampled.history().samples[1]
            assert (sample.span_ms, sample.output_tokens) == (17_000, 34)

    run(main())


def test_a_defect_is_told_once_and_samples_go_on(caplog: pytest.LogCaptureFixture) -> None:
    engine = Counted(model(output_tokens=1))
    sampled = Sampled(engine=engine)

    async def main() -> None:
        async with sampled.serving():
            await sampled.tick()
            engine.fault = Unavailable("it has stopped")
            await sampled.tick()
            assert caplog.records == []  # that is no defect
            engine.fault = RuntimeError("a defect of the test")
            for _ in range(3):
                await sampled.tick()
            assert len(sampled.history().samples) == 1
            engine.fault, engine.models = None, (model(output_tokens=9),)
            await sampled.tick()
            sample = sampled.history().samples[1]
            assert (sample.span_ms, sample.output_tokens) == (25_000, 8)

    with caplog.at_level(logging.ERROR, "headrace.server"):
        run(main())
    assert [record.getMessage()[:43] for record in caplog.records] == ["the history of the live feed met a defect; "]


def test_it_ends_with_the_server_also_in_the_middle_of_a_look_and_begins_anew_with_it() -> None:
    engine = Counted(model(output_tokens=1))
    sampled = Sampled(engine=engine)

    async def main() -> None:
        async with sampled.serving():
            await sampled.tick()
            assert len(sampled.history().samples) == 1
        assert sampled.timers.num_set == 0
        assert sampled.app._tally.on_end == []
        sampled.clock.now_s += 60.0
        async with sampled.serving():
            assert sampled.history() == LiveHistory(1_700_000_165_000, 5000, [])
            engine.go.clear()
            sampled.timers.fire()
            await asyncio.sleep(0)
        assert sampled.timers.num_set == 0

    run(main())


def test_who_asks_for_it_gets_it_once_and_first_and_nobody_else() -> None:
    sampled = Sampled(engine=Counted(model(output_tokens=50)))

    async def main() -> None:
        async with sampled.serving():
            await sampled.tick()
            assert "history" not in await sampled.ask(f"{LIVE}?once=true")
            told = (await sampled.ask(f"{LIVE}?once=true&history=true"))["history"]
            assert [one["output_tokens"] for one in told["samples"]] == [50]
            clients = [Client(sampled.app, "GET", path) for path in (LIVE, f"{LIVE}?history=true")]
            tasks = [clients[0].start()]
            await clients[0].until(lambda reply: len(reply.writes) == 1)
            tasks.append(clients[1].start())
            for count in (1, 2):
                for client in clients:
                    await client.until(lambda reply, count=count: len(reply.writes) >= count)  # type: ignore[misc]
                sampled.clock.now_s += 1.0
                sampled.timers.fire()
            for client, task in zip(clients, tasks, strict=True):
                client.leave()
                await task
        plain, asked = ([json.loads(one[one.index(b"{") :]) for one in client.reply.writes] for client in clients)
        assert not any("history" in frame for frame in plain)
        assert [frame.pop("history", None) is not None for frame in asked][:2] == [True, False]
        assert plain[:2] == asked[:2]

    run(main())


@pytest.mark.parametrize("query", ["history=perhaps", "histories=true"])
def test_what_cannot_be_asked_is_refused_by_its_name(query: str) -> None:
    async def main() -> None:
        told = await Sampled().ask(f"{LIVE}?{query}")
        assert told["error"]["param"] == query.partition("=")[0]

    run(main())


def test_it_says_of_whom_and_of_what_models_nothing() -> None:
    sampled = Sampled(engine=Counted(model("a secret project", output_tokens=3)))

    async def main() -> None:
        async with sampled.serving():
            await Client(sampled.app, "POST", CHAT, chat()).run()
            await sampled.tick()
        text = sampled.app.live.history.encode().decode()
        assert "output_tokens" in text
        for name in ("a secret project", "tiny", "local"):
            assert name not in text

    run(main())


counts = st.integers(0, LARGEST)
rows = st.one_of(st.just([]), st.lists(counts, min_size=13, max_size=13))
samples = st.builds(
    LiveSample,
    first_token=rows,
    between_tokens=rows,
    **{
        field.name: counts
        for field in msgspec.structs.fields(LiveSample)
        if field.name not in ("first_token", "between_tokens")
    },
)


@given(st.lists(samples, max_size=20), st.integers(0, 2 * KEPT))
def test_whatever_is_counted_it_is_never_more_than_so_many_bytes(some: list[LiveSample], num_before: int) -> None:
    ring = Ring(LARGEST, 5000)
    empty = len(ring.encode())
    largest = LiveSample(**dict.fromkeys(LiveSample.__struct_fields__[:-2], LARGEST))  # type: ignore[arg-type]
    largest.first_token = largest.between_tokens = [LARGEST] * 13
    for one in [largest] * num_before + some:
        ring.add(one)
    told = ring.encode()
    assert len(told) <= empty + KEPT * (MAX_SAMPLE_BYTES + 1)
    kept = msgspec.json.decode(told, type=LiveHistory).samples
    assert kept == ([largest] * num_before + some)[-KEPT:]


deeds = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(["work", "leave", "sample"]), st.integers(0, 50))
)


@given(deeds)
def test_no_token_is_counted_twice_and_of_models_that_stay_none_is_missed(played: list[tuple[str, str, int]]) -> None:
    totals: dict[str, LiveTotals] = {}
    before: dict[str, LiveTotals] = {}
    done = told = lost = 0
    for name, deed, count in [*played, ("a", "sample", 0)]:
        old = totals.get(name, LiveTotals())
        if deed == "work":
            totals[name] = dataclasses.replace(
                old, output_tokens=old.output_tokens + count, num_steps=old.num_steps + 1
            )
            done += count
        elif deed == "leave":
            totals.pop(name, None)
            # What it did since the last sample nobody has seen; come back, it may have done more than before.
            lost += max(old.output_tokens, before.get(name, LiveTotals()).output_tokens)
        else:
            told += grown(before, [LiveModel(name=name, totals=one) for name, one in totals.items()])["output_tokens"]
            before = dict(totals)
    assert done - lost <= told <= done
