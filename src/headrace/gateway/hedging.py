"""Two targets asked for one answer: the second when nothing came of the first for a while.

Who says something first has it. The other's work ends and is charged as what was cancelled; what both can cost was
reserved. Knows no order of candidates.
"""

import asyncio
from asyncio import CancelledError
from collections.abc import Iterable
from typing import Any

from headrace.gateway.attempts import Failure, Said, attempt
from headrace.gateway.contract import Candidate
from headrace.gateway.passage import Passage
from headrace.gateway.retry_budget import RetryBudget


class Contest:
    """Attempts at one answer. A contender that says something too late closes what it has by itself."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage
        self.is_over = False
        self.winner: Said | None = None
        self.failures: list[Failure] = []

    async def contend(self, candidate: Candidate, max_queue: int, *, is_hedge: bool = False) -> None:
        """Ask one target."""
        said = await attempt(self._passage, candidate, max_queue, is_hedge=is_hedge)
        if isinstance(said, list):
            self.failures += said
        elif self.is_over:
            await said.close()
        else:
            self.is_over = True
            self.winner = said


async def race(passage: Passage, first: Candidate, max_queue: int, budget: RetryBudget) -> Said | list[Failure]:
    """The first answer of two targets that begins, or why there is none. A hedge is taken out of the route's budget of
    retries, so that a backend that is slow for everybody is not asked twice by all."""
    clock, taken = passage.clock, passage.taken
    started_s, waited_s, queue_s = clock.monotonic_s(), passage.wait_s, taken.queue_s
    contest = Contest(passage)
    tasks: list[asyncio.Future[Any]] = [asyncio.create_task(contest.contend(first, max_queue))]
    assert passage.plan.hedge_after_s is not None
    timer = asyncio.ensure_future(passage.parts.sleep(passage.plan.hedge_after_s))
    try:
        await asyncio.wait((tasks[0], timer), return_when=asyncio.FIRST_COMPLETED)
        second = None if tasks[0].done() else _second(passage, first)
        if second is not None and budget.take(clock.monotonic_s()):
            tasks.append(asyncio.create_task(contest.contend(second, 0, is_hedge=True)))
        waiting = set(tasks)
        while waiting and contest.winner is None:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a defect comes out
        await _end([timer, *tasks])
    except BaseException:
        contest.is_over = True
        unwanted = [] if contest.winner is None else [asyncio.create_task(contest.winner.close())]
        await _end([timer, *tasks], unwanted)
        raise
    # Both waited at the same time, which is told once.
    queued_s = min(taken.queue_s - queue_s, clock.monotonic_s() - started_s)
    taken.queue_s = queue_s + queued_s
    passage.wait_s = waited_s + clock.monotonic_s() - started_s - queued_s
    return contest.winner or contest.failures


def _second(passage: Passage, first: Candidate) -> Candidate | None:
    """Who can be asked beside the first: another of the route's own, of the same tier, with a place that is free."""
    parts = passage.parts
    for one in passage.candidates:
        if one.target == first.target or one.is_fallback or one.tier != first.tier or not passage.can_ask(one):
            continue
        if parts.admission.line(one.target.backend).has_room and parts.standings.standing(one.target).share > 0.0:
            return one
    return None


async def _end(tasks: "Iterable[asyncio.Future[Any]]", closing: "Iterable[asyncio.Future[Any]]" = ()) -> None:
    """Cancel some, and wait until these and others have ended, also if we are cancelled meanwhile: what they hold is
    let go of in them."""
    for task in tasks:
        task.cancel()
    waiting, cancelled = {*tasks, *closing}, None
    while waiting:
        try:
            _, waiting = await asyncio.wait(waiting)
        except CancelledError as error:
            cancelled = error
            waiting = {task for task in waiting if not task.done()}
    if cancelled is not None:
        raise cancelled
