"""Whatever arrives beside it, is cut, preempted, reused or cancelled: each input's vector is as if it were alone."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles import TOY_CACHE, TOY_VOCAB, VectorToy

from headrace.core.request import Sampling
from headrace.engine.config import EngineConfig
from headrace.engine.kv.pool import PagePool
from headrace.engine.pooled import PooledRunner
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence, State, Work
from headrace.kernels.plan import PAGE_TOKENS
from headrace.models.pooling import PoolingKind

MAX_STEPS = 500


@dataclass
class Case:
    """An input as drawn: the first `shared` tokens are those of all others, too."""

    at: int
    shared: int
    own: int
    seed: int
    pooling: PoolingKind
    pair: bool
    cancel_at: int | None
    sequence: Sequence | None = None
    vector: np.ndarray | None = field(default=None)

    @property
    def tokens(self) -> list[int]:
        common = np.random.default_rng(0).integers(0, TOY_VOCAB, 128).tolist()[: self.shared]
        return common + np.random.default_rng(1 + self.seed).integers(0, TOY_VOCAB, self.own).tolist()

    @property
    def segments(self) -> list[int]:
        return [int(self.pair and at >= self.shared) for at in range(self.shared + self.own)]

    def start(self, arrival: int) -> Sequence:
        work = Work(
            model="toy",
            tokens=np.array(self.tokens, np.int32),
            sampling=Sampling(),
            seed=0,
            max_tokens=0,
            pooling=self.pooling,
            segments=np.array(self.segments, np.int32) if self.pair else None,
        )
        self.sequence = Sequence(work, arrival, 0)
        return self.sequence

    def expected(self, *, is_whole: bool) -> np.ndarray:
        tokens, segments = self.tokens, self.segments
        states = np.array(
            [VectorToy.hidden(tokens if is_whole else tokens[: at + 1], at, segments[at]) for at in range(len(tokens))],
            np.float32,
        )
        if self.pooling is PoolingKind.MEAN:
            return states.mean(axis=0, dtype=np.float64).astype(np.float32)
        return states[0 if self.pooling is PoolingKind.FIRST else -1]


cases = st.builds(
    Case,
    at=st.integers(0, 6),
    shared=st.integers(0, 100),
    own=st.integers(1, 60),
    seed=st.integers(0, 3),
    pooling=st.sampled_from(PoolingKind),
    pair=st.booleans(),
    cancel_at=st.none() | st.integers(0, 8),
)


def run(drawn: list[Case], num_pages: int, budget: int, *, is_whole: bool) -> VectorToy:
    config = EngineConfig(max_batch_tokens=budget, max_sequences=4, prefill_chunk=budget)
    pool = PagePool.allocate(TOY_CACHE, num_pages)
    scheduler = Scheduler(config, pool, is_whole=is_whole)
    program = VectorToy(is_whole=is_whole)
    runner = PooledRunner(config, program, None, pool, VectorToy.width)
    for step in range(MAX_STEPS):
        for arrival, case in enumerate(drawn):
            if case.at == step:
                scheduler.add(case.start(arrival))
            if case.cancel_at == step and case.sequence is not None:
                scheduler.remove(case.sequence)
        batch = scheduler.schedule(float(step))
        if batch.sequences:
            for sequence, vector in scheduler.complete_pooled(batch, runner.execute(runner.prepare(batch))):
                (owner,) = (case for case in drawn if case.sequence is sequence)
                assert owner.vector is None, "an input ended twice"
                owner.vector = vector
        scheduler.check()
        if step > 8 and not scheduler.running and not scheduler.waiting:
            assert len(pool.free) + scheduler.tree.num_nodes == num_pages
            return program
    raise AssertionError("inputs are left that nobody computes")


@pytest.mark.parametrize("is_whole", [False, True], ids=["in chunks", "whole"])
@settings(max_examples=80, deadline=None)
@given(drawn=st.lists(cases, min_size=1, max_size=6), num_pages=st.integers(6, 12), budget=st.integers(16, 96))
def test_every_input_gets_the_vector_that_it_would_get_alone(drawn, num_pages, budget, is_whole) -> None:
    program = run(drawn, num_pages, budget, is_whole=is_whole)
    for case in drawn:
        assert case.sequence is not None and case.sequence.state is State.FINISHED
        if case.vector is not None:
            np.testing.assert_array_equal(case.vector, case.expected(is_whole=is_whole))
        else:
            assert case.cancel_at is not None
    for lengths in program.steps:
        assert sum(lengths) <= budget or len(lengths) == 1


def test_a_shared_beginning_is_computed_once_where_only_the_last_token_counts() -> None:
    def inputs(pooling: PoolingKind) -> list[Case]:
        return [Case(3 * seed, 96, 10, seed, pooling, pair=False, cancel_at=None) for seed in range(3)]

    assert sum(sum(step) for step in run(inputs(PoolingKind.LAST), 32, 128, is_whole=False).steps) == 106 + 2 * 10
    for pooling in (PoolingKind.MEAN, PoolingKind.FIRST):
        assert sum(sum(step) for step in run(inputs(pooling), 32, 128, is_whole=False).steps) == 3 * 106


def test_whole_inputs_keep_no_page_that_another_could_find() -> None:
    drawn = [Case(2 * seed, 96, 10, 0, PoolingKind.LAST, pair=False, cancel_at=None) for seed in range(2)]
    program = run(drawn, 32, 128, is_whole=True)
    assert program.steps == [[106], [106]]
    assert drawn[0].vector is not None and PAGE_TOKENS < 106


def test_inputs_that_cannot_share_do_not_wait_for_each_other() -> None:
    drawn = [Case(0, 64, 10, seed, PoolingKind.MEAN, pair=False, cancel_at=None) for seed in range(3)]
    assert run(drawn, 32, 256, is_whole=False).steps == [[74, 74, 74]]
