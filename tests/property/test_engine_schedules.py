"""Whatever arrives, is cancelled, preempted or shared: each request ends once, with the tokens of a cold run alone."""

import itertools
from dataclasses import dataclass, field

import numpy as np
from tests.doubles import TOY_CACHE, TOY_VOCAB, ToyProgram, toy_answer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.core.request import Sampling
from headrace.engine.config import EngineConfig
from headrace.engine.kv.pool import PagePool
from headrace.engine.runner import Runner
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence, State, Work

MAX_STEPS = 5000


@dataclass
class Case:
    """A request as drawn: `family` chooses a common prefix, `cancel_at` a step after which it is given up."""

    at: int
    family: int
    shared: int
    own: int
    max_tokens: int
    priority: int
    num_choices: int
    temperature: float
    salt: int
    stop: bool
    cancel_at: int | None
    sequences: list[Sequence] = field(default_factory=list)

    @property
    def prompt(self) -> list[int]:
        rng = np.random.default_rng(self.family)
        common = rng.integers(0, TOY_VOCAB, 128).tolist()[: self.shared]
        tail = np.random.default_rng(1000 + self.family + self.own).integers(0, TOY_VOCAB, self.own).tolist()
        return (common + tail) or [1]

    @property
    def stop_ids(self) -> frozenset[int]:
        return frozenset(range(0, TOY_VOCAB, 12)) if self.stop else frozenset()

    def start(self, arrival: int) -> list[Sequence]:
        work = Work(
            model="toy",
            tokens=np.array(self.prompt, np.int32),
            sampling=Sampling(temperature=self.temperature, num_choices=self.num_choices),
            seed=self.family,
            max_tokens=self.max_tokens,
            stop_ids=self.stop_ids,
            salt=bytes([self.salt]),
            priority=self.priority,
        )
        self.sequences = [Sequence(work, arrival, choice) for choice in range(self.num_choices)]
        return self.sequences

    def expected(self, choice: int) -> list[int]:
        sampling = Sampling(temperature=self.temperature)
        answer = toy_answer(self.prompt, self.max_tokens, sampling, self.family, choice)
        for index, token in enumerate(answer):
            if token in self.stop_ids:
                return answer[: index + 1]
        return answer


cases = st.builds(
    Case,
    at=st.integers(0, 30),
    family=st.integers(0, 2),
    shared=st.integers(0, 128),
    own=st.integers(0, 40),
    max_tokens=st.integers(1, 50),
    priority=st.integers(0, 2),
    num_choices=st.sampled_from([1, 1, 1, 3]),
    temperature=st.sampled_from([0.0, 1.0]),
    salt=st.integers(0, 1),
    stop=st.booleans(),
    cancel_at=st.none() | st.integers(0, 40),
)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    requests=st.lists(cases, min_size=1, max_size=8),
    num_pages=st.integers(8, 24),
    max_sequences=st.integers(1, 8),
    extra_tokens=st.integers(1, 120),
    prefill_chunk=st.integers(1, 64),
)
def test_every_schedule_gives_the_tokens_of_a_cold_single_run(
    requests: list[Case], num_pages: int, max_sequences: int, extra_tokens: int, prefill_chunk: int
) -> None:
    budget = max_sequences + extra_tokens
    config = EngineConfig(
        max_batch_tokens=budget, max_sequences=max_sequences, prefill_chunk=min(prefill_chunk, budget)
    )
    pool = PagePool.allocate(TOY_CACHE, num_pages)
    scheduler = Scheduler(config, pool)
    program = ToyProgram()
    runner = Runner(config, program, None, pool)
    answers: dict[int, list[int]] = {}
    ended: list[int] = []
    for step in itertools.count():
        assert step < MAX_STEPS, "the schedule does not end"
        for index, case in enumerate(requests):
            if case.at == step:
                for sequence in case.start(index):
                    answers[id(sequence)] = []
                    scheduler.add(sequence)
            if case.cancel_at == step:
                for sequence in case.sequences:
                    scheduler.remove(sequence)
        batch = scheduler.schedule()
        assert bool(batch.sequences) == bool(scheduler.running or scheduler.waiting)
        if batch.sequences:
            for outcome in scheduler.complete(batch, runner.run(batch)):
                answers[id(outcome.sequence)].append(outcome.token)
                if outcome.reason is not None:
                    ended.append(id(outcome.sequence))
        scheduler.check()
        if step > 40 and not batch.sequences:
            break

    assert max(program.steps, default=0) <= budget
    assert len(ended) == len(set(ended))
    for case in requests:
        for sequence in case.sequences:
            assert sequence.state is State.FINISHED
            expected = case.expected(sequence.choice)
            if id(sequence) in ended:
                assert answers[id(sequence)] == expected
            else:
                assert case.cancel_at is not None
                assert answers[id(sequence)] == expected[: len(answers[id(sequence)])]
    assert scheduler.num_available == num_pages
    scheduler.tree.evict(num_pages)
    scheduler.check()
    assert len(pool.free) == num_pages
