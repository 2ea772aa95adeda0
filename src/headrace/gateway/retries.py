"""Attempts one after the other until one begins an answer: retries only of named errors, within the route's budget, and
never of a caller's own mistake.

A target that could not be asked (its breaker, its line, a field that its protocol lacks) costs nothing of it. Knows no
order: `turns.py`.
"""

from headrace.core.errors import ContextTooLong, InvalidRequest
from headrace.gateway.attempts import Failure, Said, attempt
from headrace.gateway.contract import Candidate
from headrace.gateway.hedging import race
from headrace.gateway.passage import Passage
from headrace.gateway.retry_budget import RetryBudget
from headrace.gateway.settings import RetrySettings
from headrace.gateway.turns import Turns


async def answer_in_turn(passage: Passage, retry: RetrySettings, budget: RetryBudget, max_queue: int) -> Said:
    """The first answer that somebody begins. Raises the last error of those who were asked, of others if nobody was."""
    parts = passage.parts
    budget.add_request(parts.clock.monotonic_s())
    candidate = passage.candidates[0]
    if passage.hedges:
        said = await race(passage, candidate, max_queue, budget)
    else:
        said = await attempt(passage, candidate, max_queue)
    if isinstance(said, Said):
        return said
    turns = Turns(passage.candidates, retry, parts.random)
    failures = said
    worst = failures[-1]
    while True:
        asked = [failure for failure in failures if failure.was_asked]
        worst = asked[-1] if asked else worst if worst.was_asked else failures[-1]
        following = _following(passage, turns, failures, retry)
        if following is None or (asked and not budget.take(parts.clock.monotonic_s())):
            raise worst.error
        candidate, delay_s = following
        if delay_s > 0.0:
            await _back_off(passage, delay_s)
        said = await attempt(passage, candidate, max_queue)
        if isinstance(said, Said):
            return said
        failures = said


def _following(
    passage: Passage, turns: Turns, failures: list[Failure], retry: RetrySettings
) -> tuple[Candidate, float] | None:
    """Who is asked after these failures. Raises an error after which nobody is."""
    for failure in failures:
        error = failure.error
        is_named = error.code in retry.on
        if not failure.was_asked or (is_named and isinstance(error, ContextTooLong)):
            turns.pass_over(failure.candidate)  # what was too long for one may fit another
        elif is_named and not isinstance(error, InvalidRequest):
            turns.fail(failure.candidate, error)
        else:
            raise error
    following = turns.next()
    while following is not None and not passage.can_ask(following[0]):
        turns.pass_over(following[0])
        following = turns.next()
    return following


async def _back_off(passage: Passage, delay_s: float) -> None:
    started_s = passage.clock.monotonic_s()
    await passage.parts.sleep(delay_s)
    passage.wait_s += passage.clock.monotonic_s() - started_s
