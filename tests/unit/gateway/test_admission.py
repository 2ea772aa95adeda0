"""Lines before backends and the bound on all requests: who gets a place, who is shed, what they are told."""

import asyncio

import pytest
from tests.doubles_gateway import HandClock, backend, in_loop

from headrace.core.errors import Overloaded
from headrace.gateway.admission import Admission, Line


def line(limit: int = 1) -> tuple[Line, HandClock]:
    clock = HandClock()
    return Line("a", limit, clock), clock


def wait(of: Line, priority: int = 0, max_waiting: int = 10) -> "asyncio.Task[None]":
    return asyncio.create_task(of.wait(priority, max_waiting))


async def turn() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


@in_loop
async def test_places_go_by_priority_then_by_arrival() -> None:
    of, _ = line()
    assert of.take()
    tasks = {}
    for name, priority in (("first", 0), ("second", 0), ("urgent", 5)):
        tasks[name] = wait(of, priority)
        await turn()
    served = []
    for _ in range(3):
        of.leave()
        await turn()
        served += [name for name, task in tasks.items() if task.done() and name not in served]
    assert served == ["urgent", "first", "second"]
    of.leave()
    assert (of.num_running, of.num_waiting) == (0, 0)


@in_loop
async def test_nobody_overtakes_those_who_wait() -> None:
    of, _ = line()
    assert of.take()
    waiting = wait(of)
    await turn()
    of.limit = 2
    assert not of.take()
    of.fill()
    await waiting
    assert of.num_running == 2


@in_loop
async def test_a_full_line_sheds_its_last_for_one_of_higher_priority_and_refuses_others() -> None:
    of, _ = line()
    assert of.take()
    early, late = wait(of, 0, 2), wait(of, 0, 2)
    await turn()
    with pytest.raises(Overloaded):
        await of.wait(0, 2)
    urgent = wait(of, 1, 2)
    await turn()
    with pytest.raises(Overloaded, match="'a'"):
        await late
    assert not early.done()
    of.leave()
    await turn()
    assert urgent.done()
    of.leave()
    await early
    of.leave()
    assert of.num_running == 0


@in_loop
async def test_who_is_cancelled_in_line_leaves_it_and_one_who_just_got_a_place_gives_it_on() -> None:
    of, _ = line()
    assert of.take()
    gone, stays = wait(of), wait(of)
    await turn()
    gone.cancel()
    await turn()
    assert of.num_waiting == 1
    third = wait(of)
    await turn()
    of.leave()  # `stays` has the place now, and has not run since
    stays.cancel()
    await turn()
    assert stays.cancelled()
    assert third.done()
    of.leave()
    assert (of.num_running, of.num_waiting) == (0, 0)


@in_loop
async def test_what_the_shed_are_told_to_wait_is_what_the_line_needs_at_the_pace_that_was_seen() -> None:
    of, clock = line()
    for _ in range(5):
        assert of.take()
        clock.now_s += 2.0
        of.leave()
    assert of.take()
    waiting = [wait(of, 0, 3) for _ in range(3)]
    await turn()
    with pytest.raises(Overloaded) as refused:
        await of.wait(0, 3)
    # Five places in eight seconds since the first of them, and four are needed.
    assert refused.value.retry_after_s == pytest.approx(4 * 8 / 5)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    of.leave()


@in_loop
async def test_a_full_gateway_sheds_who_waits_at_a_lower_priority_and_else_refuses() -> None:
    clock = HandClock()
    admission = Admission(2, {"a": backend("a", max_concurrency=1)}, clock)
    of = admission.line("a")
    admission.enter(0)
    assert of.take()
    admission.enter(0)
    waiting = wait(of, 0)
    await turn()
    with pytest.raises(Overloaded, match="max_in_flight 2"):
        admission.enter(0)
    admission.enter(1)
    with pytest.raises(Overloaded):
        await waiting


@in_loop
async def test_other_bounds_hold_at_once_and_let_in_those_who_wait() -> None:
    clock = HandClock()
    admission = Admission(9, {"a": backend("a", max_concurrency=1)}, clock)
    of = admission.line("a")
    assert of.take()
    waiting = wait(of)
    await turn()
    admission.replace(9, {"a": backend("a", max_concurrency=2)})
    await waiting
    assert admission.line("a") is of
    gone = wait(of)
    await turn()
    admission.replace(9, {})
    await gone


@in_loop
async def test_who_is_going_already_can_be_shed() -> None:
    of, _ = line()
    assert of.take()
    gone = wait(of, 0, 1)
    await turn()
    urgent = wait(of, 1, 1)
    gone.cancel()  # before the urgent one begins, which sees it still in line
    await turn()
    assert gone.cancelled()
    assert of.num_waiting == 1
    of.leave()
    await urgent
