"""Attempts one after the other until one begins an answer: retries only of named errors, within the route's budget, and
never of a caller's own mistake.

A target that could not be asked (its breaker, its line, a field that its protocol lacks) costs no attempt. Knows no
order: `turns.py`.
"""

from headrace.core.errors import UnsupportedField
from headrace.gateway.attempts import Said, attempt
from headrace.gateway.hedging import race
from headrace.gateway.passage import Passage
from headrace.gateway.retry_budget import RetryBudget
from headrace.gateway.settings import RetrySettings
from headrace.gateway.turns import Turns


async def answer_in_turn(passage: Passage, retry: RetrySettings, budget: RetryBudget, max_queue: int) -> Said:
    """The first answer that somebody begins. Raises the last error of those who were asked."""
    parts = passage.parts
    budget.add_request(parts.clock.monotonic_s())
    candidate = passage.candidates[0]
    said = await (race if passage.hedges else attempt)(passage, candidate, max_queue)
    if isinstance(said, Said):
        return said
    turns = Turns(passage.candidates, retry, parts.random)
    failures = said
    while True:
        for failure in failures:
            if not failure.was_asked or isinstance(failure.error, UnsupportedField):
                turns.pass_over(failure.candidate)
            elif failure.error.code in retry.on and budget.take(parts.clock.monotonic_s()):
                turns.fail(failure.candidate, failure.error)
            else:
                raise failure.error
        following = turns.next()
        while following is not None and not passage.can_ask(following[0]):
            turns.pass_over(following[0])
            following = turns.next()
        if following is None:
            raise failures[-1].error
        candidate, delay_s = following
        if delay_s > 0.0:
            await _back_off(passage, delay_s)
        said = await attempt(passage, candidate, max_queue)
        if isinstance(said, Said):
            return said
        failures = said


async def _back_off(passage: Passage, delay_s: float) -> None:
    started_s = passage.clock.monotonic_s()
    await passage.parts.sleep(delay_s)
    passage.wait_s += passage.clock.monotonic_s() - started_s
