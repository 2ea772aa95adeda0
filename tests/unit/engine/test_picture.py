"""What an engine shows of itself: right in each phase, bounded, and made for nobody but who asks. The toy computes."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from tests.doubles import TOY_CACHE, TOY_PAGE_BYTES, ManualClock, ToyProgram

from headrace.core.errors import Unavailable
from headrace.core.request import Sampling
from headrace.core.service import Residence
from headrace.core.watching import NO_TREE, ORIGIN, LiveModel, LiveTree, Phase
from headrace.engine.config import EngineConfig
from headrace.engine.counts import MAX_SHOWN, MAX_TENANTS, Counts
from headrace.engine.engine import Engine
from headrace.engine.item import Failed, Token
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import PrefixTree
from headrace.engine.kv.salt import Salt
from headrace.engine.lane import EngineModel
from headrace.engine.mailbox import Mailbox
from headrace.engine.picture import MAX_SEQUENCES, draw_tree, with_residences
from headrace.engine.sequence import Work
from headrace.kernels.plan import PAGE_TOKENS

BOUND_S = 5.0


def make(program: ToyProgram, **options: Any) -> Engine:
    settings: dict[str, Any] = {"max_batch_tokens": 32, "max_sequences": 2, "prefill_chunk": 32, "checks": True}
    config = EngineConfig(**(settings | {"kv_memory_bytes": 32 * TOY_PAGE_BYTES} | options))
    model = EngineModel(name="toy", program=program, cache=TOY_CACHE, context_length=512)
    return Engine(config, [model], None, ManualClock())


def work(tokens: int, max_tokens: int = 4, **options: Any) -> Work:
    prompt = np.arange(tokens, dtype=np.int32) % 90
    return Work(
        model="toy", tokens=prompt, sampling=Sampling(temperature=0.0), seed=3, max_tokens=max_tokens, **options
    )


class Steps:
    """Lets the engine make one step at a time."""

    def __init__(self, program: ToyProgram) -> None:
        self._entered = threading.Semaphore(0)
        self._opened = threading.Semaphore(0)
        program.before_step = self._wait
        self.is_free = False

    def _wait(self) -> None:
        if not self.is_free:
            self._entered.release()
            assert self._opened.acquire(timeout=BOUND_S)

    async def enter(self) -> None:
        """Wait until a step has begun."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=BOUND_S)

    def leave(self) -> None:
        """Let it end."""
        self._opened.release()

    def free(self) -> None:
        """Let all end from now on."""
        self.is_free = True
        self._opened.release()


async def look(engine: Engine, *, is_whole: bool = True) -> LiveModel:
    async with asyncio.timeout(BOUND_S):
        (model,) = await asyncio.wrap_future(engine.look(is_whole=is_whole))
    return model


async def end(mailbox: Mailbox) -> None:
    async with asyncio.timeout(BOUND_S):
        while not any(
            isinstance(one, Failed) or (isinstance(one, Token) and one.reason) for one in await mailbox.take()
        ):
            pass


def run(engine: Engine, main: Coroutine[Any, Any, None]) -> None:
    engine.start()
    try:
        asyncio.run(main)
    finally:
        engine.close()
    engine.check()


def test_counts_alone_are_as_exact_as_a_whole_picture_and_nothing_is_walked_for_them() -> None:
    program = ToyProgram()
    steps, engine = Steps(program), make(program)

    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        engine.submit(work(3 * PAGE_TOKENS, tenant="acme"), mailbox)
        for _ in range(4):
            await steps.enter()
            steps.leave()
        await steps.enter()
        asked = asyncio.ensure_future(look(engine, is_whole=False))
        await asyncio.sleep(0)
        steps.leave()
        model = await asked
        assert (model.sequences, model.tenants, model.tree) == ((), (), NO_TREE)
        assert (model.num_running, model.pages.used) == (1, 4)
        # The prompt took three steps, of which the last one drew a token, as did the two behind it.
        assert (model.totals.num_steps, model.totals.output_tokens) == (5, 3)
        steps.free()
        await end(mailbox)

    run(engine, main())


def test_a_request_is_seen_in_each_phase_with_what_is_done_of_it() -> None:
    program = ToyProgram()
    steps, engine = Steps(program), make(program)

    async def main() -> None:
        ORIGIN.set("mine")
        mailbox = Mailbox(asyncio.get_running_loop())
        engine.submit(work(3 * PAGE_TOKENS, tenant="acme", priority=2), mailbox)
        await steps.enter()
        asked = asyncio.ensure_future(look(engine))  # it is answered behind the step that runs
        await asyncio.sleep(0)
        steps.leave()
        (one,) = (await asked).sequences
        assert (one.origin, one.tenant, one.priority, one.phase) == ("mine", "acme", 2, Phase.PREFILL)
        assert (one.prompt_tokens, one.computed_tokens, one.output_tokens) == (3 * PAGE_TOKENS, 32, 0)
        steps.free()
        await end(mailbox)
        model = await look(engine)
        assert (model.sequences, model.num_running, model.num_waiting) == ((), 0, 0)
        totals = model.totals
        assert (totals.prompt_tokens, totals.read_tokens, totals.output_tokens) == (3 * PAGE_TOKENS, 3 * PAGE_TOKENS, 4)
        assert totals.num_tokens == 3 * PAGE_TOKENS + 3
        assert totals.num_sequences == totals.num_steps == len(program.steps)

    run(engine, main())


def test_who_waits_is_queued_and_who_writes_decodes() -> None:
    program = ToyProgram()
    steps, engine = Steps(program), make(program, max_sequences=1)

    async def main() -> None:
        boxes = [Mailbox(asyncio.get_running_loop()) for _ in range(2)]
        for box in boxes:
            engine.submit(work(8), box)
        await steps.enter()
        steps.leave()
        await steps.enter()
        asked = asyncio.ensure_future(look(engine))
        await asyncio.sleep(0)
        steps.free()
        model = await asked
        assert [one.phase for one in model.sequences] == [Phase.DECODE, Phase.QUEUED]
        assert (model.num_running, model.num_waiting, model.max_running) == (1, 1, 1)
        assert model.sequences[0].output_tokens >= 1
        for box in boxes:
            await end(box)

    run(engine, main())


def test_nothing_is_made_while_nobody_looks() -> None:
    program = ToyProgram()
    engine = make(program)

    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        engine.submit(work(3 * PAGE_TOKENS), mailbox)
        await end(mailbox)

    run(engine, main())
    assert engine._lanes["toy"].drawn is None


def test_a_tree_that_did_not_change_is_not_walked_again() -> None:
    program = ToyProgram()
    engine = make(program)

    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        engine.submit(work(3 * PAGE_TOKENS), mailbox)
        await end(mailbox)
        first = await look(engine)
        assert (await look(engine)).tree is first.tree
        engine.submit(work(2 * PAGE_TOKENS + 1), mailbox)
        await end(mailbox)
        again = await look(engine)
        assert again.tree is not first.tree
        assert again.tree.runs[0].num_uses == 1

    run(engine, main())


def test_pages_and_hits_are_told_by_whose_they_are() -> None:
    engine = make(ToyProgram())

    async def main() -> None:
        for tenant in ("a", "a", "b"):
            mailbox = Mailbox(asyncio.get_running_loop())
            engine.submit(work(2 * PAGE_TOKENS + 1, tenant=tenant, salt=Salt(tenant)), mailbox)
            await end(mailbox)
        model = await look(engine)
        assert [(one.tenant, one.prompt_tokens, one.reused_tokens) for one in model.tenants] == [
            ("a", 2 * (2 * PAGE_TOKENS + 1), 2 * PAGE_TOKENS),
            ("b", 2 * PAGE_TOKENS + 1, 0),
        ]
        pages = model.pages
        assert (pages.used, pages.cached, pages.pinned) == (0, 4, 0)
        assert sorted((run.tenant, run.num_tokens) for run in model.tree.runs) == [
            ("a", 2 * PAGE_TOKENS),
            ("b", 2 * PAGE_TOKENS),
        ]

    run(engine, main())


def test_so_many_sequences_are_told_and_no_more() -> None:
    program = ToyProgram()
    steps, engine = Steps(program), make(program, max_waiting=1000)

    async def main() -> None:
        mailbox = Mailbox(asyncio.get_running_loop())
        for _ in range(MAX_SEQUENCES + 50):
            engine.submit(work(4, max_tokens=1), mailbox)
        await steps.enter()
        asked = asyncio.ensure_future(look(engine))
        await asyncio.sleep(0)
        steps.free()
        model = await asked
        assert len(model.sequences) == MAX_SEQUENCES
        assert model.num_running + model.num_waiting > MAX_SEQUENCES
        engine.drain(BOUND_S)

    run(engine, main())


def test_an_engine_that_has_stopped_shows_nothing_and_one_nobody_waits_for_goes_on() -> None:
    engine = make(ToyProgram())

    async def main() -> None:
        engine.look().cancel()
        assert (await look(engine)).name == "toy"

    run(engine, main())
    with pytest.raises(Unavailable):
        engine.look()


# -- the tree ---------------------------------------------------------------------------------------------------------


def tree_of(*paths: str, num_pages: int = 64) -> tuple[PrefixTree, PagePool]:
    """A tree with a page for each letter of each path; nobody uses it."""
    pool = PagePool.over(np.zeros((num_pages, 1, 1, 2, 8), np.uint16))
    tree = PrefixTree(pool)
    for path in paths:
        tenant, _, letters = path.rpartition(":")
        node, found = tree.match(Salt(tenant), [letter.encode() for letter in letters])
        for letter in letters[len(found) :]:
            node = tree.insert(node, letter.encode(), pool.take())
        tree.release(node)
    return tree, pool


def shape(drawn: LiveTree) -> list[tuple[int, int]]:
    return [(run.parent, run.num_tokens // PAGE_TOKENS) for run in drawn.runs]


def test_pages_without_a_fork_are_one_run_and_forks_are_its_children() -> None:
    tree, pool = tree_of("abcd", "abxy", "q")
    assert sorted(shape(draw_tree(tree, pool))) == [(-1, 1), (-1, 2), (0, 2), (0, 2)]


def test_a_run_ends_where_its_users_do() -> None:
    tree, pool = tree_of("abcd")
    held, _ = tree.match(Salt(), [b"a", b"b"])
    drawn = draw_tree(tree, pool)
    assert shape(drawn) == [(-1, 2), (0, 2)]
    assert [run.num_users for run in drawn.runs] == [1, 0]
    tree.release(held)
    assert shape(draw_tree(tree, pool)) == [(-1, 4)]


def test_a_picture_keeps_the_largest_runs_and_what_is_above_them() -> None:
    tree, pool = tree_of("abcdefgh", "abcdxx", "p", "q", "r")
    drawn = draw_tree(tree, pool, max_runs=2)
    assert shape(drawn) == [(-1, 4), (0, 4)]
    assert drawn.num_tokens == 13 * PAGE_TOKENS


def test_a_picture_walks_so_far_and_every_branch_has_its_turn() -> None:
    long = "".join(chr(200 + place) for place in range(600))
    tree, pool = tree_of(f"long:{long}", "short:abc", num_pages=700)
    drawn = draw_tree(tree, pool, max_walked=300)
    told = {run.tenant: run.num_tokens // PAGE_TOKENS for run in drawn.runs}
    assert told == {"long": 297, "short": 3}
    assert drawn.num_tokens == 603 * PAGE_TOKENS


# -- sums -------------------------------------------------------------------------------------------------------------


def test_tenants_are_bounded_and_those_beyond_are_told_together() -> None:
    counts = Counts()
    for number in range(MAX_TENANTS + 100):
        counts.begin(f"t{number}", number + 1, 1)
    told = counts.tenants()
    assert len(told) == MAX_SHOWN + 1
    assert told[0].tenant == f"t{MAX_TENANTS - 1}"
    assert told[-1].tenant == ""
    assert sum(one.reused_tokens for one in told) == MAX_TENANTS + 100


def test_models_that_are_not_there_are_told_with_their_state() -> None:
    lanes = [LiveModel(name="a"), LiveModel(name="a/pooled")]
    told = with_residences(lanes, [Residence(name="a", state="leaving"), Residence(name="b", state="absent")])
    assert [(one.name, one.state) for one in told] == [("a", "leaving"), ("a/pooled", "leaving"), ("b", "absent")]
