"""Overload: equal tenants get equal service, shares are kept, nobody starves, and no step exceeds its bounds."""

import random
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles import TOY_CACHE, ToyProgram

from headrace.core.request import Sampling
from headrace.engine.batch import Batch
from headrace.engine.config import EngineConfig
from headrace.engine.kv.pool import PagePool
from headrace.engine.kv.salt import Salt
from headrace.engine.runner import Runner
from headrace.engine.scheduler import Scheduler
from headrace.engine.sequence import Sequence, State, Work

STEP_S = 0.01


@dataclass
class Tenant:
    """Keeps `backlog` requests waiting or running, of lengths that it draws."""

    name: str
    prompts: tuple[int, int]
    answers: tuple[int, int]
    backlog: int
    share: float = 1.0
    priority: int = 0
    live: list[Sequence] = field(default_factory=list)


class Crowd:
    """Tenants that always have more work than there is room for, on the toy and a clock of equal steps."""

    def __init__(self, tenants: list[Tenant], seed: int, **options: float) -> None:
        config = EngineConfig(max_batch_tokens=96, max_sequences=6, prefill_chunk=32, **options)  # type: ignore[arg-type]
        self.pool = PagePool.allocate(TOY_CACHE, 64)
        self.scheduler = Scheduler(config, self.pool)
        self.program = ToyProgram()
        self.runner = Runner(config, self.program, None, self.pool)
        self.tenants = tenants
        self.draws = random.Random(seed)
        self.num_arrivals = 0
        self.now = 0.0
        self.service: Counter[str] = Counter()
        self.longest_wait: Counter[str] = Counter()

    def arrive(self, tenant: Tenant) -> None:
        tenant.live = [one for one in tenant.live if one.state is not State.FINISHED]
        while len(tenant.live) < tenant.backlog:
            self.num_arrivals += 1
            prompt = [self.draws.randrange(90) for _ in range(self.draws.randint(*tenant.prompts))]
            work = Work(
                model="toy",
                tokens=np.array(prompt, np.int32),
                sampling=Sampling(temperature=0.0),
                seed=0,
                max_tokens=self.draws.randint(*tenant.answers),
                tenant=tenant.name,
                share=tenant.share,
                priority=tenant.priority,
                salt=Salt(tenant=tenant.name),
            )
            sequence = Sequence(work, self.num_arrivals, 0, arrived=self.now)
            tenant.live.append(sequence)
            self.scheduler.add(sequence)

    def step(self) -> Batch:
        for tenant in self.tenants:
            self.arrive(tenant)
        batch = self.scheduler.schedule(self.now)
        for sequence, count in zip(batch.sequences, batch.counts, strict=True):
            self.service[sequence.work.tenant] += count
        for sequence in batch.admitted:
            name = sequence.work.tenant
            self.longest_wait[name] = max(self.longest_wait[name], round(self.now - sequence.arrived, 6))
        self.scheduler.complete(batch, self.runner.run(batch))
        self.now += STEP_S
        return batch

    def run(self, num_steps: int) -> None:
        for _ in range(num_steps):
            self.step()
        self.scheduler.check()


def jain(values: list[float]) -> float:
    """Jain's index of fairness: 1 where all are equal, 1/n where one has everything."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


shapes_of_tenants = st.tuples(  # lengths of prompts, of answers, and requests at once
    st.sampled_from([(1, 20), (20, 60), (100, 160)]), st.sampled_from([(1, 5), (10, 30)]), st.integers(7, 30)
)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    shapes=st.lists(shapes_of_tenants, min_size=2, max_size=4),
    seed=st.integers(0, 1000),
)
def test_equal_tenants_get_equal_service_however_they_ask(
    shapes: list[tuple[tuple[int, int], tuple[int, int], int]], seed: int
) -> None:
    crowd = Crowd([Tenant(f"t{at}", *shape) for at, shape in enumerate(shapes)], seed)
    crowd.run(60)
    start = crowd.service.copy()
    crowd.run(400)
    assert jain([crowd.service[tenant.name] - start[tenant.name] for tenant in crowd.tenants]) > 0.95


def test_a_flood_does_not_push_out_who_asks_a_little() -> None:
    flood = Tenant("flood", (20, 60), (10, 30), backlog=60)
    modest = Tenant("modest", (20, 60), (10, 30), backlog=1)
    crowd = Crowd([flood, modest], 3)
    crowd.run(500)
    # Whoever asks for less than its part need not queue behind the others' requests.
    assert crowd.longest_wait["modest"] < crowd.longest_wait["flood"] / 3


@pytest.mark.parametrize("share", [2.0, 4.0])
def test_service_follows_shares(share: float) -> None:
    big = Tenant("big", (20, 60), (10, 30), backlog=20, share=share)
    small = Tenant("small", (20, 60), (10, 30), backlog=20)
    crowd = Crowd([big, small], 4)
    crowd.run(60)
    start = crowd.service.copy()
    crowd.run(600)
    ratio = (crowd.service["big"] - start["big"]) / (crowd.service["small"] - start["small"])
    assert ratio == pytest.approx(share, rel=0.25)


def test_nobody_starves_below_an_endless_stream_of_higher_priority() -> None:
    high = Tenant("high", (20, 60), (10, 30), backlog=20, priority=2)
    low = Tenant("low", (20, 60), (10, 30), backlog=2)
    crowd = Crowd([high, low], 5, aging_s=0.5)
    crowd.run(600)
    # Two priorities take two agings; then it stands as one who came that much later above, and somebody must end.
    assert 1.0 <= crowd.longest_wait["low"] < 1.0 + crowd.longest_wait["high"] + 0.3
    assert crowd.service["high"] > crowd.service["low"] > 0


def test_a_priority_is_served_first_while_nobody_waits_too_long() -> None:
    high = Tenant("high", (20, 60), (10, 30), backlog=20, priority=1)
    low = Tenant("low", (20, 60), (10, 30), backlog=20)
    crowd = Crowd([high, low], 6, aging_s=3600.0)
    crowd.run(300)
    assert crowd.service["low"] == 0


@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 1000), token_s=st.sampled_from([1e-3, 4e-3]), gap_s=st.sampled_from([0.05, 0.1]))
def test_with_a_known_cost_no_step_of_running_streams_takes_longer_than_their_gap(
    seed: int, token_s: float, gap_s: float
) -> None:
    crowd = Crowd([Tenant("a", (60, 160), (10, 30), backlog=10)], seed, max_gap_s=gap_s)
    for step in range(300):
        batch = crowd.step()
        load = batch.load
        took = 5e-3 + token_s * load.num_tokens
        crowd.scheduler.cost.observe(load, took)
        assert load.num_tokens <= 96
        if step > 30 and batch.num_decodes:
            # No prompt stands still, however tight the bound is: 16 tokens are always read.
            least = 5e-3 + token_s * (batch.num_decodes + 16)
            assert took <= max(gap_s * 1.02, least)
