"""A tier up when an answer is not good enough: each tier but the last is heard to its end, and told if the verifiers
have no objection; the last is told as it comes.

What every tier used is charged. Nothing of a refused answer is seen by the caller. Knows no policies: candidates come
with their tiers.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from headrace.core.errors import HeadraceError, InvalidRequest, UpstreamFault
from headrace.core.events import Event, Finished, TextDelta, Usage
from headrace.core.gateway import EventReply, Reply
from headrace.gateway.answer import EventAnswer
from headrace.gateway.attempts import Opened, Said
from headrace.gateway.offers import tiers_of
from headrace.gateway.passage import Passage
from headrace.gateway.retries import answer_in_turn
from headrace.gateway.retry_budget import RetryBudget
from headrace.gateway.settings import RouteSettings
from headrace.gateway.verifiers import objection


async def escalate(passage: Passage, route: RouteSettings, budget: RetryBudget) -> Reply:
    """The first answer that nobody objects to, or the last tier's. Raises what the last tier raises, and what is the
    caller's own mistake."""
    tiers = tiers_of(passage.candidates)
    for tier in tiers[:-1]:
        passage.candidates = tier
        try:
            said = await answer_in_turn(passage, route.retry, budget, route.max_queue)
            events = await _hear_out(said)
        except InvalidRequest:
            raise
        except HeadraceError as error:
            passage.note(f"a tier up from {tier[0].tier} ({error.code})")
            continue
        refused = objection(route.escalation.verifiers, passage.decode(), events)
        if not refused:
            passage.hand_over(said.attempt)
            told = _told(events, strips=passage.adds_logprobs)
            return EventReply(events=EventAnswer(passage, Settled(), told), taken=passage.taken)
        passage.note(f"a tier up from {tier[0].tier} ({refused})")
    passage.candidates = tiers[-1]
    passage.adds_logprobs = False  # nobody looks at the last
    said = await answer_in_turn(passage, route.retry, budget, route.max_queue)
    return said.reply(passage)


class Settled:
    """Stands for an attempt that was heard to its end before anything of it is told."""

    def hear(self, event: Event) -> None:
        """It was heard."""

    def end(self, usage: Usage | None, error: BaseException | None) -> None:
        """It has ended."""


async def _hear_out(said: Said) -> list[Event]:
    attempt, payload = said.attempt, said.payload
    assert isinstance(payload, Opened)
    events = [payload.first]
    try:
        async for event in payload.events:
            attempt.hear(event)
            events.append(event)
            if isinstance(event, Finished):
                attempt.end(event.usage, None)
    except BaseException as error:
        attempt.end(None, error)
        raise
    finally:
        await payload.events.aclose()
    if not attempt.is_over:
        cut = UpstreamFault("the backend's answer ended before it was whole.")
        attempt.end(None, cut)
        raise cut
    return events


async def _told(events: Sequence[Event], *, strips: bool) -> AsyncGenerator[Event, None]:
    for event in events:
        yield replace(event, logprobs=()) if strips and isinstance(event, TextDelta) else event
