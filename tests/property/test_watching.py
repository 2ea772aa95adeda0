"""Whatever an engine does, what it shows adds up: sums never fall, a picture of a tree is of that tree."""

from dataclasses import astuple
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles import TOY_CACHE, TOY_PAGE_BYTES, ManualClock, ToyProgram

from headrace.core.request import Sampling
from headrace.core.watching import LiveModel, Phase
from headrace.engine.config import EngineConfig
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.prefix import PrefixTree
from headrace.engine.kv.salt import Salt
from headrace.engine.lane import EngineModel, Lane
from headrace.engine.picture import draw_tree, picture
from headrace.engine.sequence import Sequence, State, Work
from headrace.kernels.plan import PAGE_TOKENS

PAGES = 12
paths = st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=7)
tenants = st.sampled_from(["", "one", "two"])

moves = st.one_of(
    st.tuples(st.just("ask"), st.integers(1, 3 * PAGE_TOKENS), st.integers(1, 12), tenants, st.integers(0, 2)),
    st.tuples(st.just("step")),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
)


def make_lane() -> Lane:
    config = EngineConfig(
        max_batch_tokens=48, max_sequences=3, prefill_chunk=32, kv_memory_bytes=PAGES * TOY_PAGE_BYTES
    )
    model = EngineModel(name="toy", program=ToyProgram(), cache=TOY_CACHE, context_length=256)
    return Lane(model, config, PAGES, None, lambda call: call())


def step(lane: Lane, now: float) -> None:
    """As the engine does it."""
    batch = lane.scheduler.schedule()
    if batch.num_preempted:
        lane.count_preempted(batch.num_preempted)
    for one in batch.admitted:
        lane.note_admitted(one, now)
        lane.note_begun(one, 0)
    if batch.sequences:
        drawn: Any = lane.prepare(batch)()
        lane.note_step(batch, 0.005, 0.01)
        lane.note_drawn(lane.scheduler.complete(batch, drawn), now)


@given(st.lists(moves, max_size=60))
@settings(max_examples=60, deadline=None)
def test_sums_never_fall_and_what_is_shown_is_what_is_there(played: list[Any]) -> None:
    lane, clock = make_lane(), ManualClock()
    asked: list[Sequence] = []
    before: LiveModel | None = None
    for kind, *given_values in played:
        if kind == "ask":
            length, max_tokens, tenant, priority = given_values
            tokens = np.arange(length, dtype=np.int32) % 7
            work = Work(
                model="toy",
                tokens=tokens,
                sampling=Sampling(temperature=0.0),
                seed=1,
                max_tokens=max_tokens,
                tenant=tenant,
                salt=Salt(tenant),
                priority=priority,
            )
            asked.append(Sequence(work, len(asked), 0, arrived=clock.now))
            lane.scheduler.add(asked[-1])
        elif kind == "step":
            clock.now += 0.01
            step(lane, clock.now)
        elif given_values[0] < len(asked):
            lane.scheduler.remove(asked[given_values[0]])
        now = picture(lane, clock.monotonic_s(), 3)
        check(lane, now, [one for one in asked if one.state is not State.FINISHED])
        if before is not None:
            assert all(new >= old for old, new in zip(astuple(before.totals), astuple(now.totals), strict=True))
        before = now


def check(lane: Lane, now: LiveModel, alive: list[Sequence]) -> None:
    assert len(now.sequences) == len(alive) == now.num_running + now.num_waiting
    assert sum(one.phase is Phase.QUEUED for one in now.sequences) == now.num_waiting
    assert all(one.computed_tokens <= one.prompt_tokens for one in now.sequences)
    for one in now.sequences:
        assert (one.first_s is None) == (one.output_tokens == 0)
        moments = [0.0, *(at for at in (one.begun_s, one.first_s) if at is not None), one.age_s]
        assert moments == sorted(moments)
    pages = now.pages
    assert pages.used + pages.cached + len(lane.pool.free) == pages.total
    assert pages.pinned <= pages.used
    assert sum(one.prompt_tokens for one in now.tenants) == now.totals.prompt_tokens
    assert sum(one.reused_tokens for one in now.tenants) == now.totals.reused_tokens
    assert now.tree.num_tokens == sum(run.num_tokens for run in now.tree.runs)


@given(st.lists(st.tuples(tenants, paths, st.booleans()), max_size=12), st.integers(0, 40), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_a_picture_is_of_the_tree_and_within_its_bounds(
    asked: list[tuple[str, list[bytes], bool]], max_walked: int, max_runs: int
) -> None:
    pool = PagePool.over(np.zeros((128, 1, 1, 2, 8), np.uint16))
    tree = PrefixTree(pool)
    known: set[tuple[str, tuple[bytes, ...]]] = set()
    for tenant, keys, is_held in asked:
        node, found = tree.match(Salt(tenant), keys)
        for key in keys[len(found) :]:
            node = tree.insert(node, key, pool.take())
        if not is_held:
            tree.release(node)
        known |= {(tenant, tuple(keys[:depth])) for depth in range(1, len(keys) + 1)}
    whole = draw_tree(tree, pool)
    assert whole.num_tokens == len(known) * PAGE_TOKENS == sum(run.num_tokens for run in whole.runs)
    by_tenant = {tenant: 0 for tenant, _ in known}
    for run in whole.runs:
        by_tenant[run.tenant] += run.num_tokens
    assert by_tenant == {name: PAGE_TOKENS * sum(tenant == name for tenant, _ in known) for name in by_tenant}
    part = draw_tree(tree, pool, max_walked=max_walked, max_runs=max_runs)
    assert len(part.runs) <= max_runs
    assert sum(run.num_tokens for run in part.runs) <= min(max_walked, len(known)) * PAGE_TOKENS
    assert all(-1 <= run.parent < place for place, run in enumerate(part.runs))
    assert all(part.runs[run.parent].tenant == run.tenant for run in part.runs if run.parent >= 0)
    assert all(part.runs[run.parent].num_users >= run.num_users for run in part.runs if run.parent >= 0)
