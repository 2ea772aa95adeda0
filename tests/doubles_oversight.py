"""Overseers by script: each counts what it is told, and a call that must not be fails the test.

Knows no policy: what one says is the test's.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from headrace.core.errors import HeadraceError
from headrace.core.events import Event
from headrace.core.request import Request
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Case
from headrace.gateway.settings import Target


@dataclass(slots=True)
class ScriptedReceipt:
    """As `Receipt`; remembers each call of `seal`, of which the first counts. Where it `waits`, `reached` says that
    somebody does; `go` lets the record be in the log, or not, by `fault`."""

    id: str = "prov_1"
    seals: list[bytes | None] = field(default_factory=list)
    waits: bool = False
    fault: HeadraceError | None = None
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    def seal(self, digest: bytes | None) -> bytes | None:
        """As `Receipt`."""
        self.seals.append(digest)
        return b'{"sealed":true}' if len(self.seals) == 1 else None

    async def kept(self) -> None:
        """As `Receipt`."""
        assert self.waits
        assert self.seals, "nothing was sealed that could be kept"
        self.reached.set()
        await self.go.wait()
        if self.fault is not None:
            raise self.fault


@dataclass(slots=True)
class ScriptedOversight:
    """One request as its overseer was told of it."""

    owner: "ScriptedOverseer"
    case: Case
    number: int
    heard: list[Event] = field(default_factory=list)
    pieces: list[bytes] = field(default_factory=list)
    records: list[UsageRecord] = field(default_factory=list)

    @property
    def reads_answer(self) -> bool:
        """As the owner says."""
        return self.owner.reads_answers

    def allows(self, target: Target) -> bool:
        """As the owner says."""
        self._check_open()
        return target.backend not in self.owner.refuses

    def prepare(self, request: Request, target: Target) -> Request:
        """As the owner says."""
        self._check_open()
        return self.owner.on_prepare(request, target)

    def hear(self, event: Event) -> Sequence[Event]:
        """As the owner says."""
        self._check_open()
        self.heard.append(event)
        return self.owner.on_hear(self, event)

    def add(self, piece: bytes) -> None:
        """As the owner says."""
        self._check_open()
        assert not self.reads_answer, "bytes passed one who reads the answer"
        self.pieces.append(piece)
        self.owner.on_add(self, piece)

    def end(self, record: UsageRecord) -> None:
        """Once."""
        assert not self.records, f"{record.request_id} is ended twice"
        self.records.append(record)
        self.owner.on_end(record)

    def _check_open(self) -> None:
        assert not self.records, "it is asked after its end"


@dataclass(slots=True)
class ScriptedOverseer:
    """As `Overseer`. Refuses requests by `error` (of `errors` one a request, the last for ever), and backends by name;
    the callbacks do the rest. `begun` are the oversights of all requests that it let through."""

    reads_answers: bool = True
    errors: list[HeadraceError | None] = field(default_factory=list)
    refuses: frozenset[str] = frozenset()
    on_prepare: Callable[[Request, Target], Request] = lambda request, target: request
    on_hear: Callable[[ScriptedOversight, Event], Sequence[Event]] = lambda oversight, event: (event,)
    on_add: Callable[[ScriptedOversight, bytes], None] = lambda oversight, piece: None
    on_end: Callable[[UsageRecord], None] = lambda record: None
    gives_receipts: bool = False
    holds_answers: bool = False
    begun: list[ScriptedOversight] = field(default_factory=list)
    receipts: list[ScriptedReceipt] = field(default_factory=list)

    def begin(self, case: Case) -> ScriptedOversight:
        """As `Overseer`."""
        assert case.plan is None
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0] if self.errors else None
        if error is not None:
            raise error
        if self.gives_receipts:
            receipt = ScriptedReceipt(f"prov_{len(self.receipts)}", waits=self.holds_answers)
            self.receipts.append(receipt)
            case.taken.receipt = receipt
        one = ScriptedOversight(self, case, len(self.begun))
        self.begun.append(one)
        return one
