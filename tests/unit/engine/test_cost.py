"""The cost of steps, learnt: against machines whose cost is known."""

import random

import pytest

from headrace.engine.cost import READS_UNIT, Load, StepCost


def seconds(load: Load, fixed: float = 2e-3, token: float = 5e-4, read: float = 1e-5) -> float:
    return fixed + load.num_tokens * token + load.num_reads / READS_UNIT * read


def drive(cost: StepCost, num_steps: int = 60, noise: float = 0.0, **machine: float) -> None:
    """Decodes of eight streams, and chunks of a prompt beside them."""
    draws = random.Random(1)
    context = 0
    for step in range(num_steps):
        chunk = draws.choice([0, 16, 64, 128])
        load = Load(8 + chunk, 8 * (200 + step) + chunk * context)
        context += chunk
        cost.observe(load, seconds(load, **machine) * (1 + noise * draws.uniform(-1, 1)))


def test_nothing_is_said_before_enough_steps_ran() -> None:
    cost = StepCost()
    assert cost.room(Load(8, 1000), 0, 0.1) is None
    assert cost.expect(Load(8, 1000)) == 0.0


def test_a_steady_machine_is_learnt() -> None:
    cost = StepCost()
    drive(cost)
    for load in (Load(8, 2000), Load(136, 400_000), Load(300, 3_000_000)):
        assert cost.expect(load) == pytest.approx(seconds(load), rel=0.02)


def test_the_room_fills_the_budget_and_shrinks_with_the_context() -> None:
    cost = StepCost()
    drive(cost)
    base = Load(8, 2000)
    rooms = []
    for context in (0, 4096, 16_384):
        room = cost.room(base, context, 0.1)
        assert room is not None
        whole = Load(8 + room, 2000 + room * context + room * room // 2)
        assert seconds(whole) == pytest.approx(0.1, rel=0.03)
        rooms.append(room)
    assert rooms == sorted(rooms, reverse=True) and rooms[0] > rooms[-1]


def test_a_budget_that_is_spent_leaves_no_room() -> None:
    cost = StepCost()
    drive(cost)
    assert cost.room(Load(8, 2000), 0, 1e-3) == 0


def test_it_follows_a_machine_that_becomes_slower() -> None:
    cost = StepCost()
    drive(cost)
    drive(cost, 300, token=2e-3)
    load = Load(100, 50_000)
    assert cost.expect(load) == pytest.approx(seconds(load, token=2e-3), rel=0.05)


def test_one_interrupted_step_does_not_decide() -> None:
    cost = StepCost()
    drive(cost, noise=0.1)
    load = Load(100, 50_000)
    before = cost.expect(load)
    cost.observe(Load(8, 2000), 5.0)
    assert cost.expect(load) < 2 * before


def test_steps_that_never_vary_stay_finite_for_ever() -> None:
    cost = StepCost()
    load = Load(1, 100)
    for _ in range(20_000):
        cost.observe(load, 4e-3)
    assert cost.expect(load) == pytest.approx(4e-3, rel=0.05)
    assert max(abs(value) for row in cost._spread for value in row) < 1e9
    room = cost.room(load, 0, 0.1)
    assert room is not None and room > 0


def test_a_clock_that_stands_still_is_no_reason_to_fail() -> None:
    cost = StepCost()
    for _ in range(10):
        cost.observe(Load(8, 100), 0.0)
    assert cost.room(Load(8, 100), 0, 0.1) is None
