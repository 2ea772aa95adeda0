"""Answers that may be given again, as the gateway asks for them: who may get which, and how one is told again.

    request --decode--> identity --store--> the same request was answered: exact
                            '--likeness--> the same was asked in other words: semantic

An answer is kept only when it has come to its end by itself. It is given again only to its tenant, for requests with
the same labels to the same route, and only while the target that gave it is among those that this request may go to: a
route that was changed, or a backend that is no longer cleared, takes its answers with it. Knows no prices.
"""

from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection, Sequence
from dataclasses import replace
from typing import Final, Protocol

from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError
from headrace.core.events import ChoiceFinished, Event, Finished, FinishReason, Raw, Started
from headrace.core.gateway import Ask
from headrace.core.shape import Shape
from headrace.gateway.answer_cache.guards import may_share
from headrace.gateway.answer_cache.identity import Identity, identify, is_eligible
from headrace.gateway.answer_cache.store import AnswerStore, Entry, num_bytes_of
from headrace.gateway.contract import Kept, Plan
from headrace.gateway.settings import Target

EXACT: Final = "exact"
SEMANTIC: Final = "semantic"
MAX_SOUGHT: Final = 4096
"""Requests whose identity is remembered between looking for their answer and keeping it."""


class Likeness(Protocol):
    """Tells how much two questions mean the same."""

    async def meaning(self, question: str, shape: Shape) -> bytes | None:
        """The meaning of a question, None if it cannot be told now."""
        ...

    def alike(self, meaning: bytes, others: Sequence[bytes]) -> list[int]:
        """Which of the others are as alike as is asked, the most alike first."""
        ...


class GatewayAnswerCache:
    """Implements `gateway.contract.AnswerCache`. Without `likeness` only the same request finds an answer."""

    def __init__(self, store: AnswerStore, clock: Clock, likeness: Likeness | None = None) -> None:
        self._store = store
        self._clock = clock
        self._likeness = likeness
        # By the asking itself: ids of requests are a caller's to choose, and two may choose the same.
        self._sought: OrderedDict[int, tuple[Ask, Identity | None, bytes | None]] = OrderedDict()

    @property
    def store(self) -> AnswerStore:
        """What is kept, for who counts it."""
        return self._store

    async def find(self, ask: Ask, plan: Plan) -> Kept | None:
        """A kept answer, if there is one that this caller may get."""
        if not is_eligible(ask.shape):
            return None
        identity = self._identify(ask, plan)
        if identity is None:
            self._remember(ask, None, None)
            return None
        targets = {candidate.target for candidate in plan.candidates}
        entry = self._store.find(identity, self._clock.monotonic_s())
        if entry is not None and entry.target in targets:
            return _kept(EXACT, entry, ask)
        meaning = None
        if self._likeness is not None and identity.question:
            meaning = await self._likeness.meaning(identity.question, ask.shape)
            if meaning is not None and (entry := self._most_alike(identity, meaning, targets)) is not None:
                self._store.use(entry)
                return _kept(SEMANTIC, entry, ask)
        self._remember(ask, identity, meaning)
        return None

    def keeper(self, ask: Ask, plan: Plan) -> "AnswerKeeper | None":
        """Who takes in the answer of this request, None if it may not be kept."""
        if not is_eligible(ask.shape):
            return None
        sought = self._sought.pop(id(ask), None)
        _, identity, meaning = (ask, self._identify(ask, plan), None) if sought is None else sought
        return None if identity is None else AnswerKeeper(self._store, self._clock, identity, meaning)

    def keep_only(self, tenants: Collection[str]) -> int:
        """Drop the answers of all other tenants, who are no more; how many there were."""
        return self._store.keep_only(tenants)

    def _identify(self, ask: Ask, plan: Plan) -> Identity | None:
        try:
            request = ask.decode()
        except HeadraceError:
            return None  # a backend may know what we do not
        return identify(ask.shape, request, plan.route, compares=self._likeness is not None)

    def _remember(self, ask: Ask, identity: Identity | None, meaning: bytes | None) -> None:
        self._sought[id(ask)] = (ask, identity, meaning)
        if len(self._sought) > MAX_SOUGHT:
            self._sought.popitem(last=False)

    def _most_alike(self, identity: Identity, meaning: bytes, targets: set[Target]) -> Entry | None:
        assert self._likeness is not None
        entries = [one for one in self._store.alike(identity, self._clock.monotonic_s()) if one.target in targets]
        for index in self._likeness.alike(meaning, [entry.vector or b"" for entry in entries]):
            if may_share(identity.question, entries[index].identity.question):
                return entries[index]
        return None


class AnswerKeeper:
    """Takes in one answer as it passes, and keeps it when it is whole."""

    def __init__(self, store: AnswerStore, clock: Clock, identity: Identity, meaning: bytes | None) -> None:
        self._store = store
        self._clock = clock
        self._identity = identity
        self._meaning = meaning
        self._target: Target | None = None
        self._events: list[Event] = []
        self._num_bytes = 0
        self._is_kept = False  # or given up

    def begin(self, target: Target) -> None:
        """Who gives it."""
        self._target = target
        self._events.clear()
        self._num_bytes = num_bytes_of(self._identity) + len(self._meaning or b"")
        self._is_kept = False

    def add(self, event: Event) -> None:
        """The next event. What was withheld, or passes unread, is not kept: the next time may be another's."""
        if self._is_kept or self._target is None:
            return
        self._events.append(event)
        self._num_bytes += num_bytes_of(event)
        is_withheld = isinstance(event, ChoiceFinished) and event.reason is FinishReason.FILTERED
        if is_withheld or isinstance(event, Raw) or self._num_bytes > self._store.max_entry_bytes:
            self._is_kept = True
            self._events.clear()
        elif isinstance(event, Finished):
            self._is_kept = True
            self._store.keep(
                Entry(
                    identity=self._identity,
                    target=self._target,
                    events=tuple(self._events),
                    num_bytes=self._num_bytes,
                    kept_s=self._clock.monotonic_s(),
                    vector=self._meaning,
                )
            )
            self._events.clear()


def _kept(kind: str, entry: Entry, ask: Ask) -> Kept:
    begun = next((event.request_id for event in entry.events if isinstance(event, Started)), "")
    return Kept(kind=kind, target=entry.target, events=_told_again(entry.events, ask.shape.id), source=begun)


async def _told_again(events: Sequence[Event], request_id: str) -> AsyncGenerator[Event, None]:
    """The events of an answer for another request. Nothing is written to a backend's cache this time."""
    for event in events:
        if isinstance(event, Started):
            yield replace(event, request_id=request_id, cache_miss=None, cache_writes=())
        elif isinstance(event, Finished):
            yield replace(event, usage=replace(event.usage, cache_writes=()))
        else:
            yield event
