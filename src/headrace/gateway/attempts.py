"""Which target is asked after which, and when: retries, fallbacks, hedges. Each only before anything of an answer is
there.

    the route's own candidates, each once -> the same again, after a backoff -> fallbacks, each once -> those again

`RetrySettings.max_attempts` counts all of it, and one attempt at least is kept for a fallback. A caller's own mistake
is never asked twice; a target that could not be asked (its breaker, its line, a field that its protocol lacks) costs no
attempt. Knows no sockets: an upstream is asked for bytes or events.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, replace
from random import Random

from headrace.core.errors import HeadraceError, Unavailable, UnsupportedField, UpstreamFault
from headrace.core.events import Event
from headrace.core.gateway import EventReply, RawReply, RawStream, Reply
from headrace.core.request import Request
from headrace.gateway.admission import Line
from headrace.gateway.answer import EventAnswer, PieceAnswer
from headrace.gateway.contract import Candidate, Standing, UpstreamReply, UpstreamStream
from headrace.gateway.passage import Attempt, Passage
from headrace.gateway.retry_budget import RetryBudget
from headrace.gateway.settings import RetrySettings, Target


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
                self.attempt.hear(payload.first)
                self.attempt.end(None, GeneratorExit())
                await payload.events.aclose()
            elif isinstance(payload, UpstreamReply):
                self.attempt.end(payload.usage, None)
            else:
                self.attempt.end(payload.usage, GeneratorExit())
                await payload.pieces().aclose()
        finally:
            self.attempt.end(None, GeneratorExit())

    def reply(self, passage: Passage) -> Reply:
        """What the caller gets."""
        payload, attempt = self.payload, self.attempt
        passage.hand_over(attempt)
        if isinstance(payload, UpstreamReply):
            attempt.heard.num_bytes = len(payload.body)
            attempt.end(payload.usage, None)
            passage.settle("ok")
            return RawReply(status=payload.status, headers=payload.headers, body=payload.body, taken=passage.taken)
        if isinstance(payload, Opened):
            return EventReply(events=opened(passage, attempt, payload), taken=passage.taken)
        chunks = PieceAnswer(passage, attempt, payload)
        return RawStream(status=payload.status, headers=payload.headers, chunks=chunks, taken=passage.taken)


def opened(passage: Passage, attempt: Attempt, payload: Opened) -> EventAnswer:
    """The events of an attempt on their way to a reader."""
    return EventAnswer(passage, attempt, payload.events, payload.first)


@dataclass(frozen=True, slots=True)
class Failure:
    """Who gave no answer, and why. `was_asked`: something was sent."""

    candidate: Candidate
    error: HeadraceError
    was_asked: bool = True


class Turns:
    """Whose turn it is after a failure: values in, values out. See the module."""

    def __init__(self, candidates: Iterable[Candidate], retry: RetrySettings, random: Random) -> None:
        self._own = [one for one in candidates if not one.is_fallback]
        self._fallbacks = [one for one in candidates if one.is_fallback]
        self._retry = retry
        self._random = random
        self._num_asked: dict[int, int] = {}  # by identity: a target may stand in a plan twice
        self._rest_s: dict[int, float] = {}
        self._num_left = retry.max_attempts

    def pass_over(self, candidate: Candidate) -> None:
        """It could not be asked, which costs no attempt; it is not tried again."""
        (self._fallbacks if candidate.is_fallback else self._own).remove(candidate)

    def fail(self, candidate: Candidate, error: HeadraceError) -> None:
        """It was asked and failed."""
        key = id(candidate)
        self._num_left -= 1
        self._num_asked[key] = self._num_asked.get(key, 0) + 1
        rest_s = error.retry_after_s or 0.0
        if rest_s > self._retry.max_backoff_s:
            self.pass_over(candidate)
        else:
            self._rest_s[key] = rest_s

    def next(self) -> tuple[Candidate, float] | None:
        """Who is asked next, and after how many seconds; None if nobody is."""
        if self._num_left <= 0:
            return None
        asked = self._num_asked
        new_own = [one for one in self._own if id(one) not in asked]
        new_fallbacks = [one for one in self._fallbacks if id(one) not in asked]
        if new_own and (self._num_left > 1 or not new_fallbacks):
            return new_own[0], 0.0
        if self._own and self._num_left > len(new_fallbacks):
            return self._again(self._own)
        if new_fallbacks:
            return new_fallbacks[0], 0.0
        return self._again(self._fallbacks) if self._fallbacks else None

    def _again(self, candidates: list[Candidate]) -> tuple[Candidate, float]:
        candidate = min(candidates, key=lambda one: self._num_asked.get(id(one), 0))
        num_asked = self._num_asked.get(id(candidate), 0)
        if not num_asked:
            return candidate, 0.0
        backoff_s = min(self._retry.max_backoff_s, self._retry.backoff_s * 2.0 ** (num_asked - 1))
        backoff_s *= 0.5 + 0.5 * self._random.random()
        return candidate, max(backoff_s, self._rest_s.get(id(candidate), 0.0))


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


async def attempt(passage: Passage, candidate: Candidate, max_queue: int) -> Said | list[Failure]:
    """Ask one target once; if it gave no answer, that is the list's only failure."""
    parts, target = passage.parts, candidate.target
    line = parts.admission.line(target.backend)
    try:
        raw = passage.raw_for(candidate)
        request = None if raw is not None else _request_for(passage, candidate)
        if not line.take():
            await _queue(passage, line, max_queue)
    except HeadraceError as error:
        return [Failure(candidate, error, was_asked=False)]
    is_trial = parts.standings.begin(target)
    if is_trial is None:
        line.leave()
        return [Failure(candidate, _not_asked(parts.standings.standing(target), target), was_asked=False)]
    is_whole = raw is not None and not passage.ask.shape.is_stream
    one = passage.begin(candidate, line, is_trial=is_trial, is_whole=is_whole)
    upstream = parts.upstreams[target.backend]
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
        return [Failure(candidate, error)]
    except BaseException as error:
        one.end(None, error)
        raise
    finally:
        passage.wait_s += passage.clock.monotonic_s() - sent_s
    return Said(one, payload)


def _not_asked(standing: Standing, target: Target) -> Unavailable:
    return Unavailable(
        f"the backend {target.backend!r} takes no requests for {target.model!r} now: "
        f"{standing.reason or 'another request is trying whether it is back'}.",
        retry_after_s=standing.retry_after_s,
    )


async def race(passage: Passage, first: Candidate, max_queue: int) -> Said | list[Failure]:
    """Ask the first; when nothing came of it for the plan's time, another one too. Who says something first has it; the
    other's work ends, and is charged as what was cancelled."""
    started_s, waited_s, queue_s = passage.clock.monotonic_s(), passage.wait_s, passage.taken.queue_s
    delay_s = passage.plan.hedge_after_s
    assert delay_s is not None
    tasks = [asyncio.create_task(attempt(passage, first, max_queue))]
    timer = asyncio.ensure_future(passage.parts.sleep(delay_s))
    try:
        await asyncio.wait((tasks[0], timer), return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done() and (second := _second(passage, first)) is not None:
            tasks.append(asyncio.create_task(attempt(passage, second, 0)))
        return await _fastest(tasks)
    finally:
        timer.cancel()
        await _end_losers(tasks)
        # Both waited at the same time; it is told once.
        passage.taken.queue_s = max(
            queue_s, min(passage.taken.queue_s, queue_s + passage.clock.monotonic_s() - started_s)
        )
        passage.wait_s = waited_s + passage.clock.monotonic_s() - started_s - (passage.taken.queue_s - queue_s)


def _second(passage: Passage, first: Candidate) -> Candidate | None:
    """Who can be asked beside the first: another of the route's own, of the same tier, with a place that is free."""
    parts = passage.parts
    for one in passage.candidates:
        if one.target == first.target or one.is_fallback or one.tier != first.tier or not passage.can_ask(one):
            continue
        if parts.admission.line(one.target.backend).has_room and parts.standings.standing(one.target).share > 0.0:
            return one
    return None


async def _fastest(tasks: "list[asyncio.Task[Said | list[Failure]]]") -> Said | list[Failure]:
    waiting = set(tasks)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task in done and isinstance(said := task.result(), Said):
                tasks.remove(task)
                return said
    return [failure for task in tasks if isinstance(said := task.result(), list) for failure in said]


async def _end_losers(tasks: "list[asyncio.Task[Said | list[Failure]]]") -> None:
    for task in tasks:
        task.cancel()
    for said in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(said, Said):
            await said.close()


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
    """The neutral request as a target is asked: its own name of the model, and the bound of the answer that was
    reserved for."""
    request = passage.decode()
    limits, bound = request.limits, candidate.max_tokens
    if bound is not None and limits.max_tokens is None:
        limits = replace(limits, max_tokens=bound, fits_context=True)
    elif bound is not None and limits.max_tokens is not None and limits.max_tokens > bound:
        limits = replace(limits, max_tokens=bound)
    if request.model == candidate.target.model and limits is request.limits:
        return request
    return replace(request, model=candidate.target.model, limits=limits)
