"""Whatever arrives, is cancelled, preempted, shared, kept or pinned: each request ends once, as if it ran alone."""

import itertools
import random
from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.doubles import TOY_CACHE, TOY_VOCAB, ToyProgram, toy_answer

from headrace.core.request import Sampling
from headrace.engine.config import EngineConfig
from headrace.engine.draft.speculator import Tally
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.salt import Salt
from headrace.engine.runner import Runner
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Keep, Sequence, State, Work

MAX_STEPS = 5000
LAST_EVENT = 40
MOST_PAGES = 8  # of any request


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
    tenant: str
    parts: bool
    scores: bool
    session: str | None
    keep: int
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
            salt=Salt(str(self.salt)),
            priority=self.priority,
            tenant=self.tenant,
            prompt_logprobs=0 if self.scores else None,
            session=self.session,
            keeps=(Keep(self.keep, 5.0),) if self.keep else (),
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
    tenant=st.sampled_from(["", "", "other"]),
    parts=st.booleans(),
    scores=st.sampled_from([False, False, True]),
    session=st.sampled_from([None, None, "s", "t"]),
    keep=st.sampled_from([0, 0, 40, 100]),
)


class Guesser:
    """A speculator that knows the answers, and gets some of them wrong."""

    def __init__(self, draws: random.Random) -> None:
        self.draws = draws
        self.num_right = 0
        self.live: set[Sequence] = set()

    def limit(self, num_decoding: int) -> int:
        return self.draws.choice([0, 1, 3, 6])

    def propose(self, sequence: Sequence, limit: int) -> list[int]:
        self.live.add(sequence)
        tokens, work = sequence.tokens.tolist(), sequence.work
        guess = toy_answer(tokens, self.draws.randint(0, limit), work.sampling, work.seed, sequence.choice)
        if guess and self.draws.random() < 0.4:
            guess[self.draws.randrange(len(guess))] ^= 1
        return guess

    def observe(self, sequence: Sequence, num_drafted: int, num_accepted: int) -> None:
        assert 0 <= num_accepted <= num_drafted
        self.num_right += num_accepted

    def observe_step(self, num_decoding: int, num_more: int, seconds: float) -> None:
        pass

    def end(self, sequence: Sequence) -> None:
        self.live.discard(sequence)

    def tally(self) -> Tally:
        return Tally(0, 0, 0)

    def check(self) -> None:
        pass


class World:
    """A scheduler and a runner over the toy, stepped by hand, checked after every step."""

    def __init__(self, config: EngineConfig, num_pages: int, guesser: Guesser | None = None) -> None:
        self.pool = PagePool.allocate(TOY_CACHE, num_pages)
        self.scheduler = Scheduler(config, self.pool, speculator=guesser)
        self.scheduler.retention.limit_pins(MOST_PAGES)
        self.steps = 0
        self.scored: dict[Sequence, int] = {}
        self.program = ToyProgram()
        self.runner = Runner(config, self.program, None, self.pool)
        self.answers: dict[Sequence, list[int]] = {}
        self.ended: list[Sequence] = []

    def live_through(self, requests: list[Case]) -> None:
        for step in itertools.count():
            assert step < MAX_STEPS, "the schedule does not end"
            for index, case in enumerate(requests):
                self.apply(case, index, step)
            self.step()
            if step > LAST_EVENT and not self.scheduler.running and not self.scheduler.waiting:
                return

    def apply(self, case: Case, index: int, step: int) -> None:
        if case.at == step:
            first, *others = case.start(index)
            self.answers |= {sequence: [] for sequence in case.sequences}
            self.scheduler.add(first, others if case.parts else [])
            for sequence in [] if case.parts else others:
                self.scheduler.add(sequence)
        if case.cancel_at == step:
            for sequence in case.sequences:
                self.scheduler.remove(sequence)

    def step(self) -> None:
        self.steps += 1
        batch = self.scheduler.schedule(float(self.steps))
        assert bool(batch.sequences) == bool(self.scheduler.running or self.scheduler.waiting)
        if batch.sequences:
            for outcome in self.scheduler.complete(batch, self.runner.run(batch)):
                self.answers[outcome.sequence].append(outcome.token)
                if outcome.reason is not None:
                    self.ended.append(outcome.sequence)
            for sequence, details in batch.scored:
                self.scored[sequence] = self.scored.get(sequence, 0) + len(details)
        self.scheduler.check()


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    requests=st.lists(cases, min_size=1, max_size=8),
    num_pages=st.integers(8, 24),
    max_sequences=st.integers(1, 8),
    extra_tokens=st.integers(1, 120),
    prefill_chunk=st.integers(1, 64),
    draws=st.none() | st.randoms(use_true_random=False),
)
def test_every_schedule_gives_the_tokens_of_a_cold_single_run(
    requests: list[Case],
    num_pages: int,
    max_sequences: int,
    extra_tokens: int,
    prefill_chunk: int,
    draws: random.Random | None,
) -> None:
    budget = max_sequences + extra_tokens
    chunk = min(prefill_chunk, budget)
    config = EngineConfig(max_batch_tokens=budget, max_sequences=max_sequences, prefill_chunk=chunk, session_ttl_s=20.0)
    guesser = None if draws is None else Guesser(draws)
    world = World(config, num_pages, guesser)
    world.live_through(requests)

    assert max(world.program.steps, default=0) <= budget
    assert len(world.ended) == len(set(world.ended)), "a sequence ended twice"
    for case in requests:
        for sequence in case.sequences:
            assert sequence.state is State.FINISHED
            answer, expected = world.answers[sequence], case.expected(sequence.choice)
            if sequence in world.ended:
                assert answer == expected
                if case.scores and sequence.choice == 0:
                    assert world.scored.get(sequence, 0) == len(case.prompt) - 1
            else:
                assert case.cancel_at is not None, "a sequence vanished"
                assert answer == expected[: len(answer)]
    assert guesser is None or guesser.live == set()
    world.scheduler.retention.pins.clear()
    assert world.scheduler.num_available == num_pages
    world.scheduler.tree.evict(num_pages)
    world.scheduler.check()
    assert len(world.pool.free) == num_pages


def random_case(draws: random.Random) -> Case:
    return Case(
        at=draws.randint(0, 8),
        family=draws.randint(0, 2),
        shared=draws.choice([0, 0, 30, 66, 100]),
        own=draws.randint(0, 40),
        max_tokens=draws.randint(1, 30),
        priority=draws.randint(0, 2),
        num_choices=draws.choice([1, 1, 3]),
        temperature=draws.choice([0.0, 1.0]),
        salt=0,
        stop=draws.random() < 0.3,
        cancel_at=None if draws.random() < 0.7 else draws.randint(0, 40),
        tenant=draws.choice(["", "other"]),
        parts=draws.random() < 0.5,
        scores=draws.random() < 0.2,
        session=draws.choice([None, "s", "t"]),
        keep=draws.choice([0, 40, 100]),
    )


def test_crowded_schedules_with_drafts_and_parting_choices() -> None:
    """Drawn without shrinking in mind, so that pages, slots and budgets are short more often."""
    num_right = 0
    for seed in range(500):
        draws = random.Random(seed)
        requests = [random_case(draws) for _ in range(draws.randint(1, 5))]
        max_sequences = draws.randint(1, 8)
        budget = max_sequences + draws.randint(1, 40)
        chunk = min(budget, draws.randint(1, 64))
        config = EngineConfig(
            max_batch_tokens=budget, max_sequences=max_sequences, prefill_chunk=chunk, session_ttl_s=20.0
        )
        guesser = Guesser(draws)
        world = World(config, draws.randint(8, 24), guesser)
        world.live_through(requests)
        num_right += guesser.num_right
        for case in requests:
            for sequence in case.sequences:
                if sequence in world.ended:
                    assert world.answers[sequence] == case.expected(sequence.choice), seed
    assert num_right > 1000
