"""Whatever is drafted, for whomever and beside whatever: answers are those of the same requests without drafts."""

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.doubles import TOY_CACHE, EchoProgram

from headrace.core.request import Sampling
from headrace.engine.config import EngineConfig
from headrace.engine.draft.drafter import Drafter
from headrace.engine.kv.pool import PagePool
from headrace.engine.rows import adjustments_for
from headrace.engine.runner import Runner
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence, Work
from headrace.kernels import native

FEW_TOKENS = 7


class World:
    """A scheduler and a runner, stepped by hand; each step takes as long as it has tokens."""

    def __init__(self, program: Any, drafter: Drafter | None, num_pages: int, max_sequences: int, threads: Any) -> None:
        config = EngineConfig(max_batch_tokens=64, max_sequences=max_sequences, prefill_chunk=16)
        self.pool = PagePool.allocate(TOY_CACHE, num_pages)
        self.scheduler = Scheduler(config, self.pool, speculator=drafter)
        self.runner = Runner(config, program, threads, self.pool)
        self.num_steps = 0

    def answer(self, works: list[Work], *, checks: bool = True) -> list[list[int]]:
        """Answers of all choices, requests arriving one every three steps; afterwards nothing is held."""
        groups = []
        for arrival, work in enumerate(works):
            group = [Sequence(work, arrival, choice) for choice in range(work.sampling.num_choices)]
            for sequence in group:
                sequence.adjustments = adjustments_for(work.sampling)
            groups.append(group)
        waiting = list(groups)
        while waiting or self.scheduler.running or self.scheduler.waiting:
            if waiting and self.num_steps % 3 == 0:
                first, *others = waiting.pop(0)
                self.scheduler.add(first, others)
            self.step()
            if checks:
                self.scheduler.check()
        self.scheduler.tree.evict(self.pool.num_pages)
        self.scheduler.check()
        assert len(self.pool.free) == self.pool.num_pages, "a page is lost"
        return [sequence.tokens[sequence.num_prompt :].tolist() for group in groups for sequence in group]

    def step(self) -> None:
        self.num_steps += 1
        assert self.num_steps < 20_000, "the schedule does not end"
        batch = self.scheduler.schedule()
        if batch.sequences:
            drawn = self.runner.run(batch)
            self.scheduler.measure(batch, 0.004 + 0.0001 * batch.num_tokens)
            self.scheduler.complete(batch, drawn)


works = st.builds(
    lambda prompt, repeats, temperature, choices, max_tokens, stops, penalty, bias, logprobs, seed: Work(
        model="toy",
        tokens=np.array(prompt * repeats, np.int32),
        sampling=Sampling(
            temperature=temperature, num_choices=choices, presence_penalty=penalty, logit_bias=((3, 1.0),) * bias
        ),
        seed=seed,
        max_tokens=max_tokens,
        stop_ids=frozenset({11, 50}) if stops else frozenset(),
        logprobs=logprobs,
    ),
    prompt=st.lists(st.integers(0, 12), min_size=1, max_size=20),
    repeats=st.sampled_from([1, 2, 5]),
    temperature=st.sampled_from([0.0, 1.0]),
    choices=st.sampled_from([1, 1, 3]),
    max_tokens=st.integers(1, 90),
    stops=st.booleans(),
    penalty=st.sampled_from([0.0, 0.0, 0.5]),
    bias=st.integers(0, 1),
    logprobs=st.sampled_from([None, None, 0, 3]),
    seed=st.integers(0, 3),
)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(requests=st.lists(works, min_size=1, max_size=6), num_pages=st.integers(14, 40), max_sequences=st.integers(1, 6))
def test_no_schedule_of_drafts_changes_an_answer(requests: list[Work], num_pages: int, max_sequences: int) -> None:
    drafter = Drafter()
    with_drafts = World(EchoProgram(), drafter, num_pages, max_sequences, None)
    without = World(EchoProgram(), None, num_pages, max_sequences, None)
    assert with_drafts.answer(requests) == without.answer(requests)
    drafter.check()
    assert not drafter._sources, "a sequence that ended is still known"


def test_the_toy_gives_drafts_to_accept_and_to_refuse() -> None:
    """Else the property above would show nothing."""
    drafter = Drafter()
    world = World(EchoProgram(), drafter, 80, 4, None)
    sampling = Sampling(temperature=1.0)
    tokens = np.arange(8, dtype=np.int32)
    world.answer([Work(model="toy", tokens=tokens, sampling=sampling, seed=seed, max_tokens=200) for seed in range(4)])
    tally = drafter.tally()
    assert tally.num_accepted > 100
    assert tally.num_drafted - tally.num_accepted > 100


class ChainProgram:
    """Logits by the last token alone, drawn by the real sampler: a Markov chain whose every probability is known."""

    def __init__(self) -> None:
        rng = np.random.default_rng(5)
        self.logits = rng.normal(0.0, 2.0, (FEW_TOKENS, FEW_TOKENS)).astype(np.float32)

    def step(  # noqa: PLR0917 - the native signature
        self,
        threads: Any,
        pool: NDArray[Any],
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        page_tables: NDArray[np.int32],
        selected: NDArray[np.int32],
        output: NDArray[np.float32] | None = None,
        sampling: dict[str, NDArray[Any]] | None = None,
    ) -> Any:
        return None if sampling is None else native.sample(threads, self.logits[tokens[selected]], sampling)


def test_drafted_tokens_come_with_the_models_probabilities() -> None:
    """Chi-squared of every transition, over answers of which a good part was drafted."""
    program, drafter, threads = ChainProgram(), Drafter(), native.Threads(1)
    world = World(program, drafter, 200, 8, threads)
    seen = np.zeros((FEW_TOKENS, FEW_TOKENS), np.int64)
    for batch in range(12):
        works = [
            Work(
                model="chain",
                tokens=np.array([seed % FEW_TOKENS], np.int32),
                sampling=Sampling(temperature=1.3),
                seed=100 * batch + seed,
                max_tokens=400,
            )
            for seed in range(8)
        ]
        for work, answer in zip(works, world.answer(works, checks=False), strict=True):
            path = [int(work.tokens[-1]), *answer]
            np.add.at(seen, (path[:-1], path[1:]), 1)
    threads.close()
    tally = drafter.tally()
    assert tally.num_accepted > 5000 < tally.num_drafted - tally.num_accepted
    weights = np.exp(program.logits.astype(np.float64) / 1.3)
    expected = weights / weights.sum(axis=1, keepdims=True) * seen.sum(axis=1, keepdims=True)
    assert expected.min() > 5.0, "too few draws for the test"
    statistic = ((seen - expected) ** 2 / expected).sum()
    freedom = FEW_TOKENS * (FEW_TOKENS - 1)
    # The 99.99 % quantile, by Wilson and Hilferty's approximation.
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.719 * np.sqrt(2 / (9 * freedom))) ** 3
