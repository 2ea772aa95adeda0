"""What the cache gives a request, through the engine: pages from disk, breakpoints, sessions, reasons; and no more.

The toy computes; the disk is a real directory that fails or waits when a test says so.
"""

import asyncio
import errno
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.doubles import GREEDY, TOY_PAGE_BYTES, ManualClock, ToyModel, ToyProgram, ToyTokenizer, toy_answer, toy_text
from tests.doubles_disk import FaultyFolder

from headrace.core.errors import DeadlineExceeded, Unavailable
from headrace.core.events import Event, Finished, MissReason, Started, TextDelta, Usage
from headrace.core.request import (
    Breakpoint,
    CacheHints,
    Limits,
    Message,
    Principal,
    Request,
    Role,
    Sampling,
    TextPart,
)
from headrace.engine.config import EngineConfig
from headrace.engine.kv.disk import DiskConfig, DiskTier
from headrace.engine.kv.page_folder import tenant_folder
from headrace.engine.text import TextEngine

BOUND_S = 5.0
LONG = "A headrace is the channel that carries water to the turbine, and a weir stands upstream of it. " * 2
TOKENS = len(LONG)  # the toy has one token a character
PAGES = TOKENS // 32


class WaitingFolder(FaultyFolder):
    """Reads wait until the test opens the gate."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.entered = threading.Event()
        self.opened = threading.Event()

    def read(self, path: Path) -> bytes:
        self.entered.set()
        assert self.opened.wait(BOUND_S)
        return super().read(path)


class Bench:
    """An engine over the toy with a disk tier, and what a test wants to look at."""

    def __init__(self, root: Path | None, folder: FaultyFolder | None = None, **options: Any) -> None:
        self.program = ToyProgram()
        self.clock = ManualClock()
        pages = options.pop("pages", 64)
        config = EngineConfig(
            max_batch_tokens=64,
            max_sequences=4,
            prefill_chunk=32,
            checks=True,
            threads=1,
            kv_memory_bytes=pages * TOY_PAGE_BYTES,
            **options,
        )
        self.folder = folder or (None if root is None else FaultyFolder(root))
        self.disk = None if root is None else DiskTier(DiskConfig(root=root), self.clock, folder=self.folder)
        if self.disk is not None:
            self.disk.scan()
        models: list[Any] = [ToyModel(program=self.program)]
        self.engine = TextEngine(models, config, clock=self.clock, threads=object(), seeds=lambda: 5, disk=self.disk)

    @property
    def num_computed(self) -> int:
        return sum(self.program.steps)

    @property
    def scheduler(self) -> Any:
        return self.engine._engine._lanes["toy"].scheduler


@asynccontextmanager
async def started(bench: Bench) -> AsyncIterator[Bench]:
    """An engine that runs inside the block; afterwards nothing is left behind."""
    bench.engine.start()
    try:
        yield bench
    finally:
        drained = await bench.engine.close(BOUND_S)
    assert drained
    bench.scheduler.retention.pins.clear()
    bench.engine._engine.check()
    assert bench.scheduler.num_available == bench.scheduler.pool.num_pages


def ask(text: str = LONG, *, max_tokens: int = 8, **options: Any) -> Request:
    limits = Limits(max_tokens=max_tokens, ignore_eos=True, deadline_s=options.pop("deadline_s", None))
    if not {"messages", "tokens"} & options.keys():
        options["prompt"] = text
    return Request(id="r", model="toy", sampling=Sampling(temperature=0.0), limits=limits, **options)


async def collect(events: AsyncGenerator[Event, None]) -> tuple[Started, str, Usage]:
    async with asyncio.timeout(BOUND_S):
        got = [event async for event in events]
    assert isinstance(got[0], Started)
    assert isinstance(got[-1], Finished)
    return got[0], "".join(event.text for event in got if isinstance(event, TextDelta)), got[-1].usage


def cold(text: str = LONG, count: int = 8) -> str:
    return toy_text(toy_answer(ToyTokenizer().encode(text), count, GREEDY))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(main())


async def fill(root: Path, *requests: Request) -> None:
    """Another process answers requests and ends."""
    async with started(Bench(root)) as bench:
        for request in requests or (ask(),):
            await collect(bench.engine.run(request))


# -- disk ------------------------------------------------------------------------------------------------------------


def test_after_a_restart_a_prompt_comes_from_disk_and_gives_the_tokens_of_a_cold_run(tmp_path: Path) -> None:
    async def main() -> None:
        await fill(tmp_path)
        async with started(Bench(tmp_path)) as bench:
            begun, text, usage = await collect(bench.engine.run(ask()))
            assert text == cold()
            assert begun.cached_tokens == PAGES * 32
            assert (usage.cached_tokens, usage.disk_tokens) == (PAGES * 32, PAGES * 32)
            assert bench.num_computed == TOKENS - PAGES * 32 + 7
            # The second time from memory.
            usage = (await collect(bench.engine.run(ask())))[2]
            assert (usage.cached_tokens, usage.disk_tokens) == (PAGES * 32, 0)
            assert bench.folder is not None
            assert bench.folder.calls["read"] == PAGES

    run(main)


def test_only_what_memory_lacks_is_read(tmp_path: Path) -> None:
    async def main() -> None:
        await fill(tmp_path)
        async with started(Bench(tmp_path)) as bench:
            await collect(bench.engine.run(ask(LONG[:70])))
            assert bench.folder is not None
            assert bench.folder.calls["read"] == 2
            usage = (await collect(bench.engine.run(ask())))[2]
            assert (usage.cached_tokens, usage.disk_tokens) == (PAGES * 32, (PAGES - 2) * 32)
            assert bench.folder.calls["read"] == PAGES

    run(main)


def test_answers_are_kept_too_so_that_the_next_turn_finds_them(tmp_path: Path) -> None:
    async def main() -> None:
        await fill(tmp_path, ask(max_tokens=80))
        prompt = ToyTokenizer().encode(LONG)
        turn = [*prompt, *toy_answer(prompt, 80, GREEDY), 1, 2, 3]
        async with started(Bench(tmp_path)) as bench:
            _, text, usage = await collect(bench.engine.run(ask(tokens=tuple(turn))))
            assert usage.disk_tokens == (TOKENS + 79) // 32 * 32
            assert text == toy_text(toy_answer(turn, 8, GREEDY))

    run(main)


def test_another_tenant_does_as_much_whether_or_not_the_first_has_kept_the_prompt(tmp_path: Path) -> None:
    """In memory and on disk: the same steps and the same operations, so that time tells nothing."""

    async def main() -> None:
        done = []
        for name, prompts in (("same", [LONG]), ("other", [LONG[::-1]])):
            root = tmp_path / name
            await fill(root, *(ask(prompt, principal=Principal(tenant="one")) for prompt in prompts))
            async with started(Bench(root)) as bench:
                for prompt in prompts:
                    await collect(bench.engine.run(ask(prompt, principal=Principal(tenant="one"))))
                assert bench.folder is not None
                bench.program.steps.clear()
                started_event, text, usage = await collect(
                    bench.engine.run(ask(principal=Principal(tenant="two"), cache=CacheHints(explain=True)))
                )
                assert text == cold()
                assert bench.disk is not None
                await asyncio.to_thread(bench.disk.close)
                calls = bench.folder.calls_by_tenant[tenant_folder("two")]
                done.append((bench.program.steps, calls, usage, started_event))
        assert done[0] == done[1]
        assert done[0][2].cached_tokens == 0

    run(main)


def test_while_one_waits_for_the_disk_others_go_on(tmp_path: Path) -> None:
    async def main() -> None:
        await fill(tmp_path)
        folder = WaitingFolder(tmp_path)
        async with started(Bench(tmp_path, folder)) as bench:
            waiting = asyncio.create_task(collect(bench.engine.run(ask())))
            assert await asyncio.to_thread(folder.entered.wait, BOUND_S)
            assert (await collect(bench.engine.run(ask("something else"))))[1] == cold("something else")
            assert not waiting.done()
            folder.opened.set()
            assert (await waiting)[1] == cold()

    run(main)


def test_two_that_lack_the_same_pages_wait_for_one_load(tmp_path: Path) -> None:
    async def main() -> None:
        await fill(tmp_path)
        folder = WaitingFolder(tmp_path)
        async with started(Bench(tmp_path, folder)) as bench:
            first = asyncio.create_task(collect(bench.engine.run(ask())))
            assert await asyncio.to_thread(folder.entered.wait, BOUND_S)
            second = asyncio.create_task(collect(bench.engine.run(ask())))
            await collect(bench.engine.run(ask("in between, so that the second has been accepted")))
            folder.opened.set()
            for task in (first, second):
                _, text, usage = await task
                assert (text, usage.disk_tokens) == (cold(), PAGES * 32)
            assert folder.calls["read"] == PAGES

    run(main)


def test_whoever_waited_for_a_shorter_load_of_another_gets_the_rest_by_its_own(tmp_path: Path) -> None:
    async def main() -> None:
        await fill(tmp_path)
        folder = WaitingFolder(tmp_path)
        async with started(Bench(tmp_path, folder)) as bench:
            short = asyncio.create_task(collect(bench.engine.run(ask(LONG[:70]))))
            assert await asyncio.to_thread(folder.entered.wait, BOUND_S)
            long = asyncio.create_task(collect(bench.engine.run(ask())))
            await collect(bench.engine.run(ask("in between, so that the second has been accepted")))
            folder.opened.set()
            assert (await short)[2].disk_tokens == 64
            assert (await long)[2].cached_tokens == PAGES * 32
            assert folder.calls["read"] == PAGES

    run(main)


@pytest.mark.parametrize("how", ["cancel", "deadline", "close"])
def test_a_request_that_ends_while_it_waits_for_the_disk_leaves_nothing(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        await fill(tmp_path)
        folder = WaitingFolder(tmp_path)
        bench = Bench(tmp_path, folder)
        if how == "close":
            bench.engine.start()
            task = asyncio.create_task(collect(bench.engine.run(ask())))
            assert await asyncio.to_thread(folder.entered.wait, BOUND_S)
            closing = asyncio.create_task(bench.engine.close(0.0))
            with pytest.raises(Unavailable):
                await task
            folder.opened.set()
            assert not await closing
            bench.engine._engine.check()
            return
        async with started(bench):
            deadline_s = 0.05 if how == "deadline" else None
            task = asyncio.create_task(collect(bench.engine.run(ask(deadline_s=deadline_s))))
            assert await asyncio.to_thread(folder.entered.wait, BOUND_S)
            if how == "cancel":
                task.cancel()
            else:
                bench.clock.now += 1.0
            with pytest.raises(asyncio.CancelledError if how == "cancel" else DeadlineExceeded):
                await task
            folder.opened.set()
            # It goes on as before.
            assert (await collect(bench.engine.run(ask())))[1] == cold()

    run(main)


def test_a_disk_that_cannot_be_read_costs_a_computation_and_no_request(tmp_path: Path) -> None:
    async def main() -> None:
        await fill(tmp_path)
        bench = Bench(tmp_path)
        assert bench.folder is not None
        bench.folder.faults["read"] = OSError(errno.EIO, "Input/output error")
        async with started(bench):
            _, text, usage = await collect(bench.engine.run(ask()))
            assert (text, usage.cached_tokens) == (cold(), 0)

    run(main)


def test_pages_from_disk_that_find_no_room_are_computed(tmp_path: Path) -> None:
    async def main() -> None:
        await fill(tmp_path)
        folder = WaitingFolder(tmp_path)
        async with started(Bench(tmp_path, folder, pages=8)) as bench:
            waiting = asyncio.create_task(collect(bench.engine.run(ask())))
            assert await asyncio.to_thread(folder.entered.wait, BOUND_S)
            gate = threading.Event()
            bench.program.before_step = lambda: gate.wait(BOUND_S)
            # Holds six of the eight pages while the disk delivers six.
            busy = asyncio.create_task(collect(bench.engine.run(ask("x" * 180, max_tokens=40))))
            folder.opened.set()
            gate.set()
            assert (await waiting)[1] == cold()
            assert (await busy)[1] == cold("x" * 180, 40)

    run(main)


def test_a_prompt_whose_tokens_are_scored_is_computed_whole(tmp_path: Path) -> None:
    async def main() -> None:
        await fill(tmp_path)
        async with started(Bench(tmp_path)) as bench:
            _, text, usage = await collect(bench.engine.run(ask(prompt_logprobs=0)))
            assert (text, usage.cached_tokens) == (cold(), 0)
            assert bench.folder is not None
            assert bench.folder.calls["read"] == 0

    run(main)


# -- breakpoints -----------------------------------------------------------------------------------------------------


def conversation(*texts: str) -> tuple[Message, ...]:
    roles = (Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER)
    return tuple(Message(role, (TextPart(text),)) for role, text in zip(roles, texts, strict=False))


TURNS = conversation("s" * 70, "u" * 50, "a" * 40)


def test_what_lies_before_a_breakpoint_is_counted_once_as_written_and_then_as_read() -> None:
    hints = CacheHints(breakpoints=(Breakpoint(0, 3600.0), Breakpoint(1, 300.0)))

    async def main() -> None:
        async with started(Bench(None)) as bench:
            usage = (await collect(bench.engine.run(ask(messages=TURNS, cache=hints))))[2]
            # 70 tokens: two pages; 120 tokens: three.
            assert usage.cache_writes == ((3600.0, 64), (300.0, 32))
            assert usage.cached_tokens == 0
            usage = (await collect(bench.engine.run(ask(messages=TURNS, cache=hints))))[2]
            assert (usage.cache_writes, usage.cached_tokens) == ((), 128)
            tree = bench.scheduler.tree
            assert [node.ttl_s for node in nodes(tree)] == [3600.0, 3600.0, 300.0, 0.0, 0.0]

    run(main)


def nodes(tree: Any) -> list[Any]:
    found, stack = [], list(tree.roots_of("local"))
    while stack:
        node = stack.pop()
        stack += node.children.values()
        found += [node] if node.page >= 0 else []
    return found


def test_kept_pages_outlive_others_until_their_time_has_passed() -> None:
    hints = CacheHints(breakpoints=(Breakpoint(None, 60.0),))

    async def main() -> None:
        async with started(Bench(None, pages=12)) as bench:

            async def cached() -> int:
                return (await bench.engine.probe(ask())).warm_tokens

            await collect(bench.engine.run(ask(cache=hints)))
            for turn in range(4):
                await collect(bench.engine.run(ask(chr(65 + turn) * 100)))
            assert await cached() == TOKENS // 32 * 32
            bench.clock.now += 61.0
            for turn in range(4):
                await collect(bench.engine.run(ask(chr(75 + turn) * 100)))
            assert await cached() == 0

    run(main)


def test_a_breakpoint_below_a_page_or_inside_what_nobody_can_reuse_writes_nothing() -> None:
    async def main() -> None:
        async with started(Bench(None)) as bench:
            hints = CacheHints(breakpoints=(Breakpoint(0, 300.0),))
            short = conversation("s" * 31, "u" * 50)
            assert (await collect(bench.engine.run(ask(messages=short, cache=hints))))[2].cache_writes == ()

    run(main)


def test_a_breakpoint_behind_fewer_tokens_than_the_least_keeps_nothing_and_is_no_error() -> None:
    hints = CacheHints(breakpoints=(Breakpoint(0, 3600.0), Breakpoint(1, 300.0)))

    async def main() -> None:
        async with started(Bench(None, cache_min_tokens=100)) as bench:
            usage = (await collect(bench.engine.run(ask(messages=TURNS, cache=hints))))[2]
            # 70 tokens of the first are too few, 120 of the second are enough: three pages, none for an hour.
            assert usage.cache_writes == ((300.0, 96),)

    run(main)


# -- sessions --------------------------------------------------------------------------------------------------------


def test_a_sessions_pages_stay_until_it_is_released_or_its_time_has_passed() -> None:
    async def main() -> None:
        # Pins may take an eighth of the pool for one tenant.
        async with started(Bench(None, pages=80, session_ttl_s=100.0)) as bench:

            async def crowd() -> None:
                for turn in range(20):
                    await collect(bench.engine.run(ask(f"{bench.num_computed}{turn:02}" * 30)))

            async def cached(text: str) -> int:
                return (await bench.engine.probe(ask(text))).warm_tokens

            for name in ("a", "b"):
                await collect(bench.engine.run(ask(name * 100, session=name)))
            await crowd()
            assert [await cached(name * 100) for name in ("a", "b")] == [96, 96]
            await bench.engine.release("a", "somebody else")
            await bench.engine.release("unknown")
            await crowd()
            assert await cached("a" * 100) == 96
            await bench.engine.release("a")
            await crowd()
            assert [await cached(name * 100) for name in ("a", "b")] == [0, 96]
            bench.clock.now += 101.0
            await crowd()
            assert await cached("b" * 100) == 0

    run(main)


def test_an_answer_that_a_stop_string_ends_is_kept_like_any_other(tmp_path: Path) -> None:
    async def main() -> None:
        stop = cold()[5]
        limits = Limits(max_tokens=300, ignore_eos=True, stop=(stop,))
        async with started(Bench(tmp_path, pages=80)) as bench:
            request = replace(ask(session="s"), limits=limits)
            assert (await collect(bench.engine.run(request)))[1] == cold().partition(stop)[0]
            await collect(bench.engine.run(ask("x")))
            assert bench.scheduler.retention.pins.used["local"] >= PAGES
        async with started(Bench(tmp_path)) as bench:
            assert (await collect(bench.engine.run(ask())))[2].disk_tokens == PAGES * 32

    run(main)


def test_the_next_turn_of_a_session_replaces_its_pin() -> None:
    async def main() -> None:
        async with started(Bench(None, pages=80)) as bench:
            await collect(bench.engine.run(ask("a" * 100, session="s")))
            await collect(bench.engine.run(ask("b" * 200, session="s")))
            await collect(bench.engine.run(ask("x")))
            assert bench.scheduler.retention.pins.used == {"local": 6}

    run(main)


def test_the_largest_possible_request_is_answered_beside_all_pins() -> None:
    async def main() -> None:
        async with started(Bench(None, pages=24)) as bench:
            for number in range(10):
                await collect(bench.engine.run(ask(f"{number}" * 100, session=str(number))))
            assert sum(bench.scheduler.retention.pins.used.values()) == 3
            prompt = "z" * 500
            assert (await collect(bench.engine.run(ask(prompt, max_tokens=12))))[1] == cold(prompt, 12)

    run(main)


def test_a_small_pool_pins_nothing_and_serves_all_the_same() -> None:
    async def main() -> None:
        async with started(Bench(None, pages=16)) as bench:
            await collect(bench.engine.run(ask(session="s")))
            assert bench.scheduler.retention.pins.used == {}
            prompt = "z" * 500
            assert (await collect(bench.engine.run(ask(prompt, max_tokens=12))))[1] == cold(prompt, 12)

    run(main)


# -- reasons ---------------------------------------------------------------------------------------------------------


def test_the_answer_says_why_and_in_which_message_reuse_ended() -> None:
    explain = CacheHints(explain=True)

    async def main() -> None:
        async with started(Bench(None)) as bench:

            async def why(*texts: str, **options: Any) -> tuple[MissReason, int, int | None]:
                request = ask(messages=conversation(*texts), **({"cache": explain} | options))
                miss = (await collect(bench.engine.run(request)))[0].cache_miss
                assert miss is not None
                return miss.reason, miss.token, miss.message

            assert await why("s" * 10) == (MissReason.TOO_SHORT, 0, 0)
            assert await why("s" * 70, "u" * 50) == (MissReason.COLD, 0, 0)
            assert await why("s" * 70, "u" * 50) == (MissReason.NONE, 96, None)
            assert await why("s" * 70, "v" * 50) == (MissReason.MESSAGES_CHANGED, 64, 0)
            assert await why("s" * 70, "u" * 50, "a" * 60, "w" * 40) == (MissReason.EXTENDED, 96, 1)
            salted = CacheHints(salt="x", explain=True)
            assert await why("s" * 70, "u" * 50, cache=salted) == (MissReason.SALT_CHANGED, 0, 0)
            other = Principal(tenant="other")
            assert await why("s" * 70, "u" * 50, principal=other) == (MissReason.COLD, 0, 0)
            started_event = (await collect(bench.engine.run(ask(messages=TURNS))))[0]
            assert started_event.cache_miss is None

    run(main)


def test_what_was_evicted_is_called_so() -> None:
    async def main() -> None:
        async with started(Bench(None, pages=8)) as bench:
            await collect(bench.engine.run(ask()))
            await collect(bench.engine.run(ask("x" * 200)))
            begun = (await collect(bench.engine.run(ask(cache=CacheHints(explain=True)))))[0]
            assert begun.cache_miss is not None
            assert begun.cache_miss.reason is MissReason.EVICTED

    run(main)
