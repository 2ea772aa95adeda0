"""One target asked once: for bytes where it speaks the caller's protocol and no policy reads the answer, else for
events.

The first of an answer is read ahead, so that what fails before it is a `Failure` and nothing was told. Knows no order
of targets (`turns.py`) and no sockets.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from headrace.core.errors import HeadraceError, Unavailable, UnsupportedField, UpstreamFault
from headrace.core.events import Event
from headrace.core.gateway import EventReply, RawReply, RawStream, Reply
from headrace.core.request import Request
from headrace.core.tracing import TRACE
from headrace.gateway.admission import Line
from headrace.gateway.answer import EventAnswer, PieceAnswer
from headrace.gateway.contract import Candidate, Standing, UpstreamReply, UpstreamStream
from headrace.gateway.passage import Attempt, Passage
from headrace.gateway.settings import Target


@dataclass(frozen=True, slots=True)
class Opened:
    """An answer in events, its first read ahead."""

    events: AsyncGenerator[Event, None]
    first: Event


@dataclass(frozen=True, slots=True)
class Said:
    """Who said something, and what: a whole answer or the beginning of one."""

    attempt: Attempt
    payload: UpstreamReply | UpstreamStream | Opened

    async def close(self) -> None:
        """Nobody wants it: another was faster."""
        payload = self.payload
        try:
            if isinstance(payload, Opened):
                self.attempt.end(None, GeneratorExit())
                await payload.events.aclose()
            elif isinstance(payload, UpstreamReply):
                self.attempt.end(payload.usage, None)
            else:
                self.attempt.end(payload.usage, GeneratorExit())
                await payload.pieces().aclose()
        finally:
            self.attempt.end(None, GeneratorExit())

    def stream(self, passage: Passage) -> EventAnswer | PieceAnswer | None:
        """What is still to come, on its way to a reader; None of a whole answer, which is settled by this."""
        payload, attempt = self.payload, self.attempt
        passage.hand_over(attempt)
        if isinstance(payload, UpstreamReply):
            attempt.heard.num_bytes = len(payload.body)
            attempt.end(payload.usage, None)
            if passage.chain is not None:
                passage.chain.add(payload.body)  # what it raises, the passage is settled by
            passage.settle("ok")
            return None
        if isinstance(payload, Opened):
            return EventAnswer(passage, attempt, payload.events, payload.first)
        return PieceAnswer(passage, attempt, payload)

    def reply(self, passage: Passage) -> Reply:
        """What the caller gets."""
        payload, stream, taken = self.payload, self.stream(passage), passage.taken
        if isinstance(stream, EventAnswer):
            return EventReply(events=stream, taken=taken)
        if isinstance(payload, UpstreamReply):
            return RawReply(status=payload.status, headers=payload.headers, body=payload.body, taken=taken)
        assert isinstance(stream, PieceAnswer)
        assert not isinstance(payload, Opened)
        return RawStream(status=payload.status, headers=payload.headers, chunks=stream, taken=taken)


@dataclass(frozen=True, slots=True)
class Failure:
    """Who gave no answer, and why. `was_asked`: something was sent."""

    candidate: Candidate
    error: HeadraceError
    was_asked: bool = True


async def attempt(
    passage: Passage, candidate: Candidate, max_queue: int, *, is_hedge: bool = False
) -> Said | list[Failure]:
    """Ask one target once; if it gave no answer, that is the list's only failure. `is_hedge`: beside another."""
    parts, target = passage.parts, candidate.target
    line = parts.admission.line(target.backend)
    try:
        raw = passage.raw_for(candidate)
        request = None if raw is not None else _request_for(passage, candidate)
        if not line.take():
            await _queue(passage, line, max_queue)
    except HeadraceError as error:
        passage.pass_over(candidate, error, is_hedge=is_hedge)
        return [Failure(candidate, error, was_asked=False)]
    is_trial = parts.standings.begin(target)
    if is_trial is None:
        line.leave()
        refusal = _not_asked(parts.standings.standing(target), target)
        passage.pass_over(candidate, refusal, is_hedge=is_hedge)
        return [Failure(candidate, refusal, was_asked=False)]
    is_whole = raw is not None and not passage.ask.shape.is_stream
    one = passage.begin(candidate, line, is_trial=is_trial, is_whole=is_whole, is_hedge=is_hedge)
    upstream = parts.upstreams[target.backend]
    # Whoever is asked finds its place in the trace, and passes it on.
    unset = None if one.trace is None else TRACE.set(one.trace.place)
    sent_s = passage.clock.monotonic_s()
    try:
        payload: UpstreamReply | UpstreamStream | Opened
        if request is not None:
            payload = await _open(upstream.run(request), one)
        else:
            assert raw is not None
            payload = await upstream.relay(raw, target, max_tokens=candidate.max_tokens)
            one.heard.has_begun = True
            if not isinstance(payload, UpstreamReply):
                one.answer()
    except HeadraceError as error:
        one.end(None, error)
        # What a protocol cannot say is found out before anything is sent.
        was_asked = not isinstance(error, UnsupportedField)
        if one.asked is not None:
            one.asked.was_asked = was_asked
        return [Failure(candidate, error, was_asked=was_asked)]
    except BaseException as error:
        one.end(None, error)
        raise
    finally:
        passage.wait_s += passage.clock.monotonic_s() - sent_s
        if unset is not None:
            TRACE.reset(unset)
    return Said(one, payload)


def _not_asked(standing: Standing, target: Target) -> Unavailable:
    return Unavailable(
        f"the backend {target.backend!r} takes no requests for {target.model!r} now: "
        f"{standing.reason or 'another request is trying whether it is back'}.",
        retry_after_s=standing.retry_after_s,
    )


async def _open(events: AsyncGenerator[Event, None], one: Attempt) -> Opened:
    try:
        first = await anext(events)
        one.hear(first)
    except StopAsyncIteration:
        raise UpstreamFault("the backend's answer ended before it began.") from None
    except BaseException:
        await events.aclose()
        raise
    return Opened(events, first)


async def _queue(passage: Passage, line: Line, max_queue: int) -> None:
    started_s = passage.clock.monotonic_s()
    try:
        await line.wait(passage.ask.shape.principal.priority, max_queue)
    finally:
        passage.taken.queue_s += passage.clock.monotonic_s() - started_s


def _request_for(passage: Passage, candidate: Candidate) -> Request:
    """The neutral request as a target is asked, and as those who oversee it prepare it."""
    request = bounded = _bounded(passage, candidate)
    if passage.chain is not None:
        request = passage.chain.prepare(bounded, candidate.target)
        if request is not bounded and not _means_the_same(request, bounded):
            passage.keeper = None  # what it answers is not the answer to what was asked
    return request


def _means_the_same(request: Request, asked: Request) -> bool:
    """Whether an answer to one is one to the other: where nobody asked for a seed, any will do."""
    sampling = request.sampling
    if asked.sampling.seed is None and sampling.seed is not None:
        request = replace(request, sampling=replace(sampling, seed=None))
    return request == asked


def _bounded(passage: Passage, candidate: Candidate) -> Request:
    """It has the target's own name of the model, and the bound of the answer that was reserved for."""
    request = passage.decode()
    limits, bound = request.limits, candidate.max_tokens
    if bound is not None and limits.max_tokens is None:
        limits = replace(limits, max_tokens=bound, fits_context=True)
    elif bound is not None and limits.max_tokens is not None and limits.max_tokens > bound:
        limits = replace(limits, max_tokens=bound)
    if passage.adds_logprobs:
        return replace(request, model=candidate.target.model, limits=limits, logprobs=0)
    if request.model == candidate.target.model and limits is request.limits:
        return request
    return replace(request, model=candidate.target.model, limits=limits)
