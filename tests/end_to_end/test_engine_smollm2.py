"""The real model on the real kernels: however a request is scheduled, its tokens are those of a cold run alone."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from headrace.core.request import Sampling
from headrace.engine.config import EngineConfig
from headrace.engine.draft.drafter import Drafter
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.salt import Salt
from headrace.engine.runner import Runner
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence, Work
from headrace.kernels import native
from headrace.kernels.plan import KvKind
from headrace.models.load import LoadedModel, load_model

NEW_TOKENS = 16
TEXT = (
    "A headrace is the channel that carries water to the turbine. Upstream of it stands a weir, below the tailrace "
    "takes the water back to the river. Millers knew that the quality of a mill is the quality of its headrace: too "
    "narrow and the wheel starves, too wide and the water dawdles, drops its silt and needs digging out each spring. "
)


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, cache_dir=tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def threads() -> native.Threads:
    return native.Threads(2)


@dataclass(frozen=True, slots=True)
class Rig:
    """The model, the threads it runs on and how its keys and values are stored."""

    model: LoadedModel
    threads: native.Threads
    kind: KvKind


@pytest.fixture(scope="module", params=KvKind, ids=lambda kind: kind.name)
def rig(request: pytest.FixtureRequest, model: LoadedModel, threads: native.Threads) -> Rig:
    return Rig(model, threads, request.param)


class Bench:
    """A scheduler and a runner over the model, stepped by hand."""

    def __init__(self, rig: Rig, num_pages: int = 400, speculator: Drafter | None = None, **options: int) -> None:
        model, threads = rig.model, rig.threads
        self.config = EngineConfig(**({"max_batch_tokens": 512, "max_sequences": 64, "prefill_chunk": 128} | options))
        self.pool = PagePool.allocate(model.plan.cache, num_pages, rig.kind)
        self.scheduler = Scheduler(self.config, self.pool, speculator=speculator)
        self.runner = Runner(self.config, model.program, threads, self.pool)
        self.arrivals = 0
        self.num_preempted = 0

    def answers(self, works: list[Work]) -> list[list[int]]:
        sequences = []
        for item in works:
            self.arrivals += 1
            sequences.append(Sequence(item, self.arrivals, 0))
            self.scheduler.add(sequences[-1])
        while self.scheduler.running or self.scheduler.waiting:
            batch = self.scheduler.schedule()
            self.num_preempted += batch.num_preempted
            drawn = self.runner.run(batch)
            # About the costs of a quiet machine: what is drafted here depends on no clock.
            self.scheduler.measure(batch, 0.004 + 0.0004 * batch.num_tokens)
            self.scheduler.complete(batch, drawn)
        self.scheduler.check()
        return [sequence.tokens[sequence.num_prompt : sequence.num_tokens].tolist() for sequence in sequences]


def works(model: LoadedModel) -> list[Work]:
    """Greedy and sampled requests over prompts of different lengths that share a beginning."""
    tokens = np.array(model.tokenizer.encode(TEXT * 3), np.int32)
    cases = []
    for seed, length in enumerate((5, 40, 97, 150)):
        for temperature in (0.0, 0.8):
            sampling = Sampling(temperature=temperature, top_p=0.95)
            cases.append(
                Work(model="m", tokens=tokens[:length].copy(), sampling=sampling, seed=seed, max_tokens=NEW_TOKENS)
            )
    return cases


@pytest.fixture(scope="module")
def cold(rig: Rig) -> list[list[int]]:
    return [Bench(rig).answers([item])[0] for item in works(rig.model)]


def test_drafts_change_no_token_of_the_real_model(rig: Rig) -> None:
    tokens = np.array(rig.model.tokenizer.encode(TEXT * 3), np.int32)
    items = [
        Work(model="m", tokens=tokens[:length].copy(), sampling=Sampling(temperature=heat), seed=length, max_tokens=48)
        for length in (90, 131, 160)
        for heat in (0.0, 0.7)
    ]
    plain = [Bench(rig).answers([item])[0] for item in items]
    drafter = Drafter()
    alone = Bench(rig, speculator=drafter)
    assert [alone.answers([item])[0] for item in items] == plain
    assert drafter.tally().num_accepted > 60, "nothing was shown"
    together = Bench(rig, speculator=drafter, num_pages=60)
    assert together.answers(items) == plain
    assert drafter.tally().num_accepted > 20
    together.scheduler.tree.evict(60)
    assert len(together.pool.free) == 60


def test_cold_answers_differ_from_each_other(cold: list[list[int]]) -> None:
    assert len({tuple(answer) for answer in cold}) > len(cold) // 2
    assert all(len(answer) == NEW_TOKENS for answer in cold)


def test_a_batch_of_64_gives_the_same_tokens(rig: Rig, cold: list[list[int]]) -> None:
    cases = works(rig.model)
    # Different salts, so that nothing is shared and all 64 are really computed side by side.
    batch = [replace(cases[index % len(cases)], salt=Salt(str(index))) for index in range(64)]
    answers = Bench(rig, num_pages=800).answers(batch)
    assert answers == [cold[index % len(cold)] for index in range(64)]


def test_chunks_of_any_size_give_the_same_tokens(rig: Rig, cold: list[list[int]]) -> None:
    for budget in (7, 33, 64):
        bench = Bench(rig, max_batch_tokens=budget, max_sequences=3, prefill_chunk=min(5, budget))
        assert bench.answers(works(rig.model)) == cold


def test_a_prefix_hit_gives_the_same_tokens(rig: Rig, cold: list[list[int]]) -> None:
    bench = Bench(rig)
    assert bench.answers(works(rig.model)) == cold
    assert bench.scheduler.tree.num_nodes > 0
    assert bench.answers(works(rig.model)) == cold


def test_preempted_sequences_give_the_same_tokens(rig: Rig) -> None:
    cases = [replace(item, salt=Salt(str(index)), max_tokens=80) for index, item in enumerate(works(rig.model)[:4])]
    cold = [Bench(rig).answers([item])[0] for item in cases]
    bench = Bench(rig, num_pages=9)
    assert bench.answers(cases) == cold
    assert bench.num_preempted > 0


# (case, step of arrival, salt, step of cancellation if any)
ARRIVAL = st.tuples(st.integers(0, 7), st.integers(0, 30), st.integers(0, 2), st.one_of(st.none(), st.integers(0, 40)))


@settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    arrivals=st.lists(ARRIVAL, min_size=4, max_size=12),
    num_pages=st.integers(7, 24),
    budget=st.integers(9, 96),
    max_sequences=st.integers(1, 8),
    chunk=st.integers(1, 9),
)
def test_random_schedules_give_the_same_tokens(
    rig: Rig,
    cold: list[list[int]],
    arrivals: list[tuple[int, int, int, int | None]],
    num_pages: int,
    budget: int,
    max_sequences: int,
    chunk: int,
) -> None:
    """Arrivals at any step, shared prefixes, cancellations, and a pool so small that somebody must be preempted."""
    cases = works(rig.model)
    bench = Bench(rig, num_pages, max_batch_tokens=budget, max_sequences=max_sequences, prefill_chunk=chunk)
    scheduler = bench.scheduler
    coming = sorted(enumerate(arrivals), key=lambda item: item[1][1])
    sequences: dict[int, Sequence] = {}
    step = 0
    while coming or scheduler.running or scheduler.waiting:
        while coming and coming[0][1][1] <= step:
            index, (case, _, salt, _) = coming.pop(0)
            sequences[index] = Sequence(replace(cases[case], salt=Salt(str(salt))), len(sequences), 0)
            scheduler.add(sequences[index])
        for index, sequence in sequences.items():
            if arrivals[index][3] == step:
                scheduler.remove(sequence)
        if scheduler.running or scheduler.waiting:
            batch = scheduler.schedule()
            assert sum(batch.counts) <= budget
            scheduler.complete(batch, bench.runner.run(batch))
        step += 1
        assert step < 5000, "a sequence never ends"
    scheduler.check()
    assert scheduler.num_available == num_pages
    for index, sequence in sequences.items():
        answer = sequence.tokens[sequence.num_prompt : sequence.num_tokens].tolist()
        expected = cold[arrivals[index][0]]
        assert answer == (expected if arrivals[index][3] is None else expected[: len(answer)])
