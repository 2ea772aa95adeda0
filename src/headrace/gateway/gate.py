"""The gateway: every request planned, reserved for, attempted and settled, whatever protocol it came in.

    ask --> room? --> overseers --> plan --> reserve --> kept answer? --> attempts --> answer --> settle --> shadow?
                                                            (each way out of here settles, exactly once)

`run` is `ask` in neutral form, so that whoever holds this as a backend is under the same policies. Each request keeps
the parts that it began with; `replace` puts others in their place for those that come. Knows no policies: its parts do.
"""

import itertools
from asyncio import CancelledError, current_task
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Final

from headrace.core.backend import ModelCard, Probe
from headrace.core.errors import BudgetExceeded, HeadraceError, NotFound
from headrace.core.events import Event
from headrace.core.gateway import WATCH, Ask, EventReply, Reply
from headrace.core.request import Principal, Request
from headrace.core.shape import Shape
from headrace.gateway.contract import AnswerCache, Kept
from headrace.gateway.escalation import escalate
from headrace.gateway.offers import offers
from headrace.gateway.parts import Parts
from headrace.gateway.passage import Passage
from headrace.gateway.replay import replay
from headrace.gateway.retries import answer_in_turn
from headrace.gateway.retry_budget import RetryBudget
from headrace.gateway.routing.blocks import opening_of
from headrace.gateway.routing.filters import likely_tokens
from headrace.gateway.routing.warmth import engine_share
from headrace.gateway.settings import ENGINE, RouteSettings
from headrace.gateway.shadow import Shadows
from headrace.gateway.verifiers import needs_logprobs

MAX_BUDGETS: Final = 4096
"""Routes whose recent retries are remembered."""
MAX_MODEL_CHARS: Final = 512
"""Of the name that is asked for: records, metrics and the last requests keep it, and a caller makes it up."""


class Gate:
    """Implements `core.gateway.Gateway`."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._budgets: dict[str, RetryBudget] = {}
        self._plain = RouteSettings(name="", candidates=())
        self._numbers = itertools.count(1)
        self.shadows = Shadows()

    @property
    def parts(self) -> Parts:
        """Those that the next request gets."""
        return self._parts

    def replace(self, parts: Parts) -> Parts:
        """Go on with other parts; those before, which requests under way go on with."""
        before, self._parts = self._parts, parts
        self._budgets = {
            name: budget
            for name, budget in self._budgets.items()
            if self._route(before, name).retry == self._route(parts, name).retry
        }
        return before

    async def ask(self, ask: Ask) -> Reply:
        """Answer in the caller's protocol or in events. Raises one HeadraceError if nothing of an answer is there."""
        parts = self._parts
        clock, shape = parts.clock, ask.shape
        _check_name(shape.model)
        started_s = clock.monotonic_s()
        passage = Passage(parts, ask, started_s, clock.unix_s())
        passage.enter()
        try:
            if parts.overseers:
                passage.oversee()
                if passage.taken.receipt is not None and (watch := WATCH.get()) is not None:
                    watch(passage.taken)
            share = None
            if parts.engine is not None and (target := parts.planner.asks_engine(shape)) is not None:
                share = await engine_share(parts.engine, target, passage.decode)
            passage.follow(parts.planner.plan(shape, decode=passage.decode, engine_share=share))
        except BaseException as error:
            passage.abandon(error)
            raise
        try:
            if shape.deadline_s is not None:
                passage.waiter = current_task()
                parts.deadlines.add(passage, shape.deadline_s)
            if passage.plan.shadow is not None:
                passage.on_ok = self.shadows.follow
            route = self._route(parts, passage.plan.route)
            await _reserve(passage, route)
            if parts.cache is not None and (kept := await _find_kept(passage, parts.cache)) is not None:
                return replay(passage, kept)
            if passage.escalates and not passage.can_decode():
                passage.escalates = False  # only its backend understands it: it passes as it is, unread
            if passage.escalates:
                passage.adds_logprobs = _adds_logprobs(passage, route)
                return await escalate(passage, route, self._budget(passage.plan.route, route))
            said = await answer_in_turn(passage, route.retry, self._budget(passage.plan.route, route), route.max_queue)
            return said.reply(passage)
        except CancelledError as error:
            ended = passage.end_of(error)
            passage.refuse(ended)
            raise ended from None
        except BaseException as error:
            passage.refuse(error)
            raise
        finally:
            passage.waiter = None

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """Answer a neutral request in events, under the same policies."""
        # Services ask several times on behalf of one request; each time is accounted for by itself.
        shape = replace(Shape.of(request, prefix=opening_of(request)), id=f"{request.id}.{next(self._numbers)}")
        reply = await self.ask(Ask(shape=shape, decode=lambda: request))
        assert isinstance(reply, EventReply)
        if (watch := WATCH.get()) is not None:
            watch(reply.taken)
        try:
            async for event in reply.events:
                yield event
        finally:
            await reply.events.aclose()

    def models(self) -> tuple[ModelCard, ...]:
        """Names that can be asked for: routes, and models of backends."""
        return self._parts.planner.models()

    def models_for(self, principal: Principal) -> tuple[ModelCard, ...]:
        """Those of them that somebody may ask for."""
        return self._parts.planner.models(principal)

    def passes(self, model: str, dialect: str) -> bool:
        """Whether every backend that a name can lead to takes bytes of a dialect, and no policy reads its answers."""
        parts = self._parts
        targets = parts.planner.targets(model)
        takes = all(dialect in parts.upstreams[target.backend].dialects for target in targets)
        is_read = any(overseer.reads_answers for overseer in parts.overseers)
        return takes and bool(targets) and not is_read and not self._route(parts, model).escalation.verifiers

    async def probe(self, request: Request) -> Probe:
        """What the request would meet at the backend that it would go to first. A remote one is not asked: its tokens
        are what is likely of the text."""
        parts, shape = self._parts, Shape.of(request)
        target = parts.planner.plan(shape).candidates[0].target
        if target.backend == ENGINE and parts.engine is not None:
            return await parts.engine.probe(replace(request, model=target.model))
        likely, answer = likely_tokens(shape), shape.max_tokens or 0
        return Probe(likely - answer, 0, likely <= parts.tariffs.model(target).context_length)

    async def release(self, session: str, tenant: str = "local") -> None:
        """Free what the embedded engine has pinned for a tenant's session."""
        if self._parts.engine is not None:
            await self._parts.engine.release(session, tenant)

    async def close(self) -> None:
        """End what runs beside requests."""
        await self.shadows.close()

    def _route(self, parts: Parts, name: str) -> RouteSettings:
        return parts.settings.routes.get(name, self._plain)

    def _budget(self, name: str, route: RouteSettings) -> RetryBudget:
        budget = self._budgets.get(name)
        if budget is None:
            if len(self._budgets) >= MAX_BUDGETS:  # clients name models of open backends
                self._budgets.clear()
            budget = self._budgets[name] = RetryBudget(route.retry)
        return budget


def _check_name(model: str) -> None:
    if len(model) > MAX_MODEL_CHARS:
        raise NotFound(
            f"Model {model[:100]}... is no name: it has {len(model)} characters, and none has more than "
            f"{MAX_MODEL_CHARS}.",
            param="model",
            code="model_not_found",
        )


async def _reserve(passage: Passage, route: RouteSettings) -> None:
    """Set aside what the request can cost at most; where that is too much, what it costs at those that it fits for."""
    accounts, shape, plan = passage.parts.accounts, passage.ask.shape, passage.plan
    if len(plan.candidates) == 1:
        passage.reservation = await accounts.reserve(shape, plan.route, plan.candidates[0].bound)
        return
    refusal: HeadraceError | None = None
    for offer in offers(plan, route):
        try:
            passage.reservation = await accounts.reserve(shape, plan.route, offer.bound)
        except BudgetExceeded as error:
            refusal = refusal or error
            continue
        passage.candidates = offer.candidates
        passage.hedges, passage.escalates = offer.hedges, offer.escalates
        passage.note(offer.note)
        return
    assert refusal is not None
    raise refusal


async def _find_kept(passage: Passage, cache: AnswerCache) -> Kept | None:
    """An answer that was given before; else somebody may take in the one that comes."""
    ask = Ask(shape=passage.ask.shape, decode=passage.decode, raw=passage.ask.raw)
    kept = await cache.find(ask, passage.plan)
    if kept is None and (keeper := cache.keeper(ask, passage.plan)) is not None and passage.can_decode():
        passage.keeper = keeper
    return kept


def _adds_logprobs(passage: Passage, route: RouteSettings) -> bool:
    return needs_logprobs(route.escalation.verifiers) and passage.decode().logprobs is None
