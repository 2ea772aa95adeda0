"""Who goes next."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.request import Sampling
from headrace.engine.fairness import FairShare
from headrace.engine.queue import MAX_RANKED, WaitingQueue
from headrace.engine.sequence import Sequence, Work


def sequence(arrival: int, *, priority: int = 0, tenant: str = "", arrived: float = 0.0, session: str = "") -> Sequence:
    work = Work(
        model="toy",
        tokens=np.array([1], np.int32),
        sampling=Sampling(),
        seed=0,
        max_tokens=1,
        priority=priority,
        tenant=tenant,
        session=session,
    )
    return Sequence(work, arrival, 0, arrived=arrived)


def queue(*sequences: Sequence, aging_s: float = 30.0, **options: object) -> WaitingQueue:
    shares = FairShare()
    made = WaitingQueue(shares, aging_s, **options)  # type: ignore[arg-type]
    for one in sequences:
        shares.enter(one.work.tenant)
        made.add(one)
    return made


def arrivals(waiting: WaitingQueue, now: float = 0.0) -> list[int]:
    return [one.order[1] for one in waiting.candidates(now)]


def test_priority_comes_before_arrival() -> None:
    waiting = queue(sequence(1), sequence(2, priority=1), sequence(3, priority=1))
    assert arrivals(waiting) == [2, 3, 1]
    assert [one.order[1] for one in waiting] == [2, 3, 1]


def test_tenants_take_turns_as_they_are_served() -> None:
    waiting = queue(*(sequence(arrival, tenant="a" if arrival < 4 else "b") for arrival in range(6)))
    order = []
    for one in waiting.candidates(0.0):
        order.append(one.work.tenant)
        waiting.remove(one)
        waiting._shares.charge(one.work.tenant, 10, one.work.share)
    assert order == ["a", "b", "a", "b", "a", "a"]


def test_waiting_long_enough_beats_any_priority() -> None:
    old = sequence(1, arrived=0.0)
    waiting = queue(old, *(sequence(arrival, priority=3, arrived=100.0) for arrival in (2, 3)))
    assert arrivals(waiting, now=100.0 + 3) == [1, 2, 3]
    assert arrivals(waiting, now=89.0) == [2, 3, 1]


def test_a_clock_that_jumps_back_changes_no_order() -> None:
    waiting = queue(sequence(1, arrived=50.0), sequence(2, priority=1, arrived=60.0))
    assert arrivals(waiting, now=-1000.0) == [2, 1]


def test_a_program_may_put_its_own_work_first_until_the_oldest_has_waited_too_long() -> None:
    ranks = {"slow": 2.0, "fast": 1.0, "": 3.0}
    members = [sequence(1), sequence(2, session="slow"), sequence(3, session="fast")]
    waiting = queue(*members, rank=lambda work: ranks[work.session or ""])
    assert arrivals(waiting, now=1.0) == [3, 2, 1]
    assert arrivals(waiting, now=31.0) == [1, 2, 3]


def test_a_rank_looks_at_the_first_few_only() -> None:
    far = MAX_RANKED + 5
    waiting = queue(*(sequence(arrival) for arrival in range(2 * MAX_RANKED)), rank=lambda work: 0.0)
    late = sequence(far + 1000, session="first")
    waiting._shares.enter("")
    waiting.add(late)
    waiting._rank = lambda work: 0.0 if work.session else 1.0
    assert next(waiting.candidates(1.0)) is not late


@given(
    members=st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc"), st.booleans()), max_size=20),
    now=st.floats(0, 200),
)
def test_everybody_is_offered_once_and_removal_is_by_identity(members: list[tuple[int, str, bool]], now: float) -> None:
    sequences = [sequence(at, priority=priority, tenant=tenant) for at, (priority, tenant, _) in enumerate(members)]
    waiting = queue(*sequences)
    offered = []
    for one in waiting.candidates(now):
        offered.append(one)
        if members[one.order[1]][2]:
            waiting.remove(one)
    assert sorted(one.order[1] for one in offered) == list(range(len(members)))
    assert set(waiting) == {one for one, (_, _, taken) in zip(sequences, members, strict=True) if not taken}
    assert len(waiting) == sum(not taken for _, _, taken in members)
    for tenant in "abc":
        assert waiting.num_of(tenant) == sum(one.work.tenant == tenant for one in waiting)
