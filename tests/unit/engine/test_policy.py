"""The policy on machines whose costs are known: it must find what pays there, and leave the rest alone."""

import random
from collections.abc import Callable

import pytest

from headrace.engine.draft.policy import (
    KNEE,
    MOST_DRAFTED,
    MOST_SLOWDOWN,
    MOST_STREAMS,
    Counts,
    DecodeCost,
    Policy,
    RowCost,
)

Seconds = Callable[[int, int], float]
MATCH = 12  # tokens, in all that follows


def cheap_rows(streams: int, rows: int) -> float:
    """A large model on a machine that only waits for memory."""
    return 0.05 + 0.0002 * (streams + rows)


def usual_rows(streams: int, rows: int) -> float:
    """About what a small model takes on two cores: a few rows are nearly free, then each costs the same."""
    return 0.0034 + 0.00055 * max(0, streams + rows - 3)


def dear_rows(streams: int, rows: int) -> float:
    """No row is cheaper than a step of its own."""
    return 0.004 * (streams + rows)


class World:
    """Streams that always have a draft of whose tokens each is right with the same probability."""

    def __init__(self, seconds: Seconds, streams: int, probability: float, noise: float = 0.15) -> None:
        self.policy = Policy()
        self.rng = random.Random(7)
        self.seconds, self.streams, self.probability, self.noise = seconds, streams, probability, noise
        self.counts = [Counts() for _ in range(streams)]
        self.last = [0] * streams

    def step(self, *, may_draft: bool = True) -> tuple[int, float, int]:
        """Tokens, seconds and drafted rows of a step; what is not drafted is compared all the same."""
        tokens, rows = self.streams, 0
        if may_draft and self.policy.begin_step(self.streams):
            for stream, own in enumerate(self.counts):
                estimate = self.policy.acceptance.estimate(MATCH, own)
                self.last[stream] = length = self.policy.choose(estimate, MOST_DRAFTED, self.last[stream])
                accepted = self.accepted(length or 6)
                self.policy.acceptance.observe(MATCH, own, length or 6, accepted)
                tokens += accepted if length else 0
                rows += length
        seconds = self.seconds(self.streams, rows) * self.rng.lognormvariate(0.0, self.noise)
        self.policy.cost.observe(self.streams, rows, seconds)
        return tokens, seconds, rows

    def accepted(self, length: int) -> int:
        count = 0
        while count < length and self.rng.random() < self.probability:
            count += 1
        return count

    def rate(self, steps: int = 1200) -> float:
        """Tokens a second, by the costs without their noise."""
        tokens, seconds = 0, 0.0
        for _ in range(steps):
            more, _, rows = self.step()
            tokens += more
            seconds += self.seconds(self.streams, rows)
        return tokens / seconds

    def best_rate(self) -> float:
        """What the best fixed length of all drafts would give."""
        rates = []
        for length in range(MOST_DRAFTED + 1):
            expected = sum(self.probability**k for k in range(length + 1))
            rates.append(self.streams * expected / self.seconds(self.streams, self.streams * length))
        return max(rates)


@pytest.mark.parametrize("seconds", [cheap_rows, usual_rows, dear_rows])
@pytest.mark.parametrize("streams", [1, 4, 16])
@pytest.mark.parametrize("probability", [0.0, 0.4, 0.8, 1.0])
def test_drafting_is_never_much_worse_than_the_best_fixed_length_or_none(
    seconds: Seconds, streams: int, probability: float
) -> None:
    world = World(seconds, streams, probability)
    rate = world.rate()
    off = streams / seconds(streams, 0)
    assert rate >= 0.99 * off
    assert rate >= 0.8 * world.best_rate()


@pytest.mark.parametrize("streams", [1, 4, 16])
def test_a_step_never_becomes_much_longer(streams: int) -> None:
    world = World(usual_rows, streams, 1.0, noise=0.0)
    world.rate(500)
    assert max(world.step()[1] for _ in range(200)) < 1.05 * MOST_SLOWDOWN * usual_rows(streams, 0)


def test_copying_is_drafted_long_and_guessing_short() -> None:
    lengths = {}
    for probability in (0.3, 0.97):
        world = World(usual_rows, 1, probability)
        world.rate(500)
        lengths[probability] = [world.step()[2] for _ in range(100)]
    assert sum(lengths[0.97]) / 100 > 6
    assert sum(lengths[0.3]) / 100 < 4


def test_nothing_is_drafted_before_a_plain_step_was_measured() -> None:
    policy = Policy()
    policy.begin_step(1)
    assert policy.choose(1.0, 16) == 0
    policy.cost.observe(1, 0, 0.004)
    policy.begin_step(1)
    assert policy.choose(1.0, 16) > 0


def test_a_clock_that_stands_still_says_nothing() -> None:
    policy = Policy()
    policy.cost.observe(1, 0, 0.0)
    assert not policy.begin_step(1)


def test_nothing_is_drafted_for_many_streams_or_none() -> None:
    assert not Policy().begin_step(MOST_STREAMS + 1)
    assert not Policy().begin_step(0)


def test_a_draft_is_never_longer_than_its_limit() -> None:
    world = World(cheap_rows, 1, 1.0)
    world.rate(200)
    world.policy.begin_step(1)
    assert world.policy.choose(1.0, 3) == 3
    assert world.policy.choose(1.0, 0) == 0


def test_a_cost_that_was_measured_too_high_is_measured_again() -> None:
    world = World(usual_rows, 1, 0.95, noise=0.0)
    for _ in range(50):
        world.policy.cost.observe(1, 0, 0.004)
        for rows in (1, 2, 4, 8, 16, 32):
            world.policy.cost.observe(1, rows, 0.1)
    assert world.step()[2] == 0
    world.rate(3000)
    assert sum(world.step()[2] for _ in range(50)) > 100


def test_one_slow_step_changes_little() -> None:
    cost = DecodeCost()
    for _ in range(50):
        cost.observe(1, 0, 0.004)
        cost.observe(1, 8, 0.006)
    before = cost.rows(1).cost(8)
    cost.observe(1, 0, 1.0)
    cost.observe(1, 8, 5.0)
    assert before == pytest.approx(0.5, rel=0.01)
    assert cost.rows(1).cost(8) < 2 * before


def test_other_sequences_are_measured_plain_before_their_drafts_count() -> None:
    cost = DecodeCost()
    cost.observe(1, 0, 0.004)
    cost.observe(1, 8, 0.008)
    before = cost.rows(1).cost(8)
    cost.version += 1  # a sequence with a much longer context
    assert not cost.is_fresh(1)
    cost.observe(1, 8, 0.016)
    assert cost.rows(1).cost(8) == before
    cost.observe(1, 0, 0.008)
    assert cost.is_fresh(1)


def test_the_two_slopes_are_found() -> None:
    rng = random.Random(3)
    cost = RowCost(0.1)
    for _ in range(400):
        rows = rng.randrange(1, 25)
        true = 0.02 * min(rows, KNEE) + 0.2 * max(0, rows - KNEE)
        cost.observe(rows, (1.0 + true) * rng.lognormvariate(0.0, 0.1) - 1.0)
    assert cost.cost(KNEE) == pytest.approx(0.08, abs=0.05)
    assert cost.cost(24) == pytest.approx(4.08, rel=0.1)
    assert cost.hope(24) < cost.cost(24)


def test_what_is_known_of_long_drafts_says_something_of_short_ones() -> None:
    cost = RowCost(0.1)
    for _ in range(20):
        cost.observe(20, 20.0)
    assert cost.cost(2) > 1.0


def test_a_sequence_is_judged_by_itself_once_it_has_a_history() -> None:
    policy = Policy()
    good, bad = Counts(), Counts()
    for _ in range(50):
        policy.acceptance.observe(MATCH, good, 6, 6)
        policy.acceptance.observe(MATCH, bad, 6, 0)
    assert policy.acceptance.estimate(MATCH, good) > 0.9
    assert policy.acceptance.estimate(MATCH, bad) < 0.15
    assert 0.15 < policy.acceptance.estimate(MATCH, Counts()) < 0.95
