"""Accounts: the ledger and the limits joined to a journal, which survives the process, and to the store, which lasts.

A request is reserved in memory and appended to the journal before it goes anywhere, and settled the same way; neither
waits for anything, but for a period that needs a lease, which waits for one synced transaction. A few times a second
what was settled goes to the store in one transaction, and a generation of the journal that holds nothing else is
deleted. At start everything in the journals of processes that ended is written to the store: settled as it was,
reserved and not settled at its whole bound. If the machine had lost power meanwhile, the leases are charged.

One process at a time keeps budgets in a state directory; several may share it that keep none, each with a journal of
its own. Knows no file format and no protocol.
"""

import asyncio
import contextlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from headrace.core.clock import Clock
from headrace.core.errors import Conflict, DiskFull, HeadraceError, Unavailable
from headrace.core.shape import Shape
from headrace.core.usage import UsageRecord
from headrace.gateway.accounts.frames import (
    MAX_NANOS,
    MAX_TOKENS,
    encode_open,
    encode_reserved,
    encode_settled,
    interrupted,
    tame,
)
from headrace.gateway.accounts.ledger import NO_LIMIT, Account, Granted, Lease, Ledger, Period, Wanting
from headrace.gateway.accounts.limits import Gate, Limits
from headrace.gateway.accounts.recovery import take_journal
from headrace.gateway.accounts.rules import Rules, load_rules
from headrace.gateway.accounts.subjects import Party
from headrace.gateway.contract import Bound
from headrace.gateway.settings import BudgetSettings, LimitSettings
from headrace.memory import usage
from headrace.memory.claim import Claim
from headrace.memory.journal import Journal
from headrace.memory.store import Store
from headrace.memory.usage import Entry, LeaseAsk, Leased, Mark, values_of

_log = logging.getLogger("headrace.accounts")

RUN_BITS: Final = 32
"""A record's number is its run's, moved up so far, and its own within the run."""

MAX_LINES: Final = 65_536
MAX_PENDING: Final = 200_000
SWEEP_S: Final = 3600.0
PERIODS_KEPT_S: Final = 100 * 86_400
RETRY_S: Final = 1.0
BACK_S: Final = 60.0
CLAIM_TRIES: Final = 40
CLAIM_WAIT_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How often what was settled is written, in seconds, and the size at which the journal is begun anew, in bytes."""

    tick_s: float = 0.2
    max_journal_bytes: int = 8 * 2**20
    usage_days: int = 90


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What accounts stand on: `folder` holds the journals, `boot` names this start of the machine, and `write` is how
    bytes come into a file."""

    store: Store
    folder: Path
    clock: Clock
    boot: str
    write: Callable[[int, bytes], int]


@dataclass(frozen=True, slots=True)
class _Lines:
    """Everything that a request of one party falls under."""

    accounts: tuple[Account, ...]
    gates: tuple[Gate, ...]


@dataclass(slots=True, eq=False)
class Held:
    """A reservation; see `gateway.contract.Reservation`."""

    owner: "Accounts"
    number: int
    marks: tuple[Mark, ...]
    periods: Sequence[Period]
    gates: tuple[Gate, ...]
    bound: Bound
    payload: bytes
    values: tuple[Any, ...] | None = None

    def settle(self, record: UsageRecord) -> None:
        """See `gateway.contract.Reservation`."""
        if self.values is None:
            self.owner.take_in(self, record)


class Accounts:
    """See `gateway.contract.Accounts`. `open` it before the first request and `close` it after the last."""

    def __init__(
        self,
        around: Surroundings,
        budgets: Sequence[BudgetSettings] = (),
        limits: Sequence[LimitSettings] = (),
        rhythm: Rhythm = Rhythm(),
    ) -> None:
        self._around = around
        self._store, self._clock = around.store, around.clock
        self._rhythm = rhythm
        self._fixed = Rules(tuple(budgets), tuple(limits))
        self.rules = self._fixed
        """In force: those of the settings, and those that were set while a server ran."""
        self.ledger = Ledger()
        self.limits = Limits()
        self._claim = Claim(around.folder / "lock")
        self._journal: Journal | None = None
        self._run = 0
        self._number = 0
        self._now_s = 0.0
        self._lines: dict[tuple[str, str | None, str | None, tuple[str, ...], str], _Lines] = {}
        self._sees_users = self._sees_tags = True
        self._open: dict[int, Held] = {}
        self._pending: list[Held] = []
        self._unwritten: dict[int, bytes] = {}  # settled, and not in the journal because the disk was full
        self._retired: list[Account] = []
        self._wanted: dict[Period, Lease] = {}
        self._leasing: asyncio.Task[None] | None = None
        self._draining = asyncio.Lock()
        self._wake = asyncio.Event()
        self._sweep_at_s = 0.0
        self._is_failing = False
        self._drainer: asyncio.Task[None] | None = None

    # Life --------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Take in what processes before this one left, and begin.

        Raises Conflict if another process is in the way, and Unavailable if journal or store cannot be used.
        """
        self._around.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            await self._hold_soon(alone=bool(await self._read_rules()))
            self._journal, is_damaged = await take_journal(self._store, self._around.folder, self._around.write)
            if self._claim.is_alone or self._claim.take(alone=True):
                await self._charge_leases(is_damaged=is_damaged)
            self._hold(alone=bool(self.rules.budgets))
            self._run = await self._store.call(usage.begin_run, self._around.boot, self._clock.unix_s())
            self._number = self._run << RUN_BITS
            assert self._journal is not None
            self._journal.drop_before(self._journal.begin([encode_open(self._run, self._around.boot)]))
        except BaseException:
            self._let_go()
            raise
        self._sweep_at_s = self._clock.monotonic_s()
        self._take_rules(self.rules)
        self._drainer = asyncio.create_task(self._drain_now_and_then(), name="headrace-accounts")
        self._wake.set()

    async def close(self) -> None:
        """Write everything and end. A reservation that is still open is charged whole. Raises what the store raises;
        the journal then keeps what could not be written."""
        if self._journal is None:
            return
        if self._drainer is not None:
            self._drainer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._drainer
        for held in list(self._open.values()):
            self.take_in(held, interrupted(held.payload))
        try:
            while self._pending:
                await self._drain()
            await self._store.call_durably(usage.end_run, self._run, holds_leases=bool(self._claim.is_alone))
            self._journal.remove()
            self._journal = None
        finally:
            self._let_go()

    async def configure(self, budgets: Sequence[BudgetSettings], limits: Sequence[LimitSettings]) -> None:
        """Take other settings, and read again what is set beside them; what is spent and reserved stays. Raises
        InvalidRequest and Conflict, and then changes nothing."""
        before, self._fixed = self._fixed, Rules(tuple(budgets), tuple(limits))
        try:
            await self.reread()
        except BaseException:
            self._fixed = before
            raise

    async def reread(self) -> None:
        """Read again what is set beside the settings. Raises as `configure`."""
        rules = self._fixed.with_stored(*await self._store.call(load_rules))
        if rules.budgets:
            self.hold_alone()
        self._take_rules(rules)

    def _take_rules(self, rules: Rules) -> None:
        self.rules = rules
        kinds = {one.subject.kind for one in rules.budgets} | {one.subject.kind for one in rules.limits}
        self._sees_users, self._sees_tags = "user" in kinds, "tag" in kinds
        self.ledger.configure(rules.budgets)
        self.limits.configure(rules.limits)
        self._lines.clear()

    def hold_alone(self) -> None:
        """Be ready to keep budgets. Raises Conflict while another process shares the state directory."""
        self._hold(alone=True)

    @property
    def fixed(self) -> Rules:
        """Those of the settings."""
        return self._fixed

    # Requests ----------------------------------------------------------------------------------------------------

    async def reserve(self, shape: Shape, route: str, bound: Bound) -> Held:
        """See `gateway.contract.Accounts`. Raises DiskFull and Unavailable too."""
        while True:
            made = self._reserve(shape, route, bound)
            if isinstance(made, Held):
                return made
            await self._lease(made)

    def take_in(self, held: Held, record: UsageRecord) -> None:
        """Settle a reservation, once: charge, give back the rest, and keep the record."""
        values: tuple[Any, ...] = values_of(record)
        nanos, tokens = record.cost_nanos, record.prompt_tokens + record.completion_tokens
        try:
            payload = encode_settled(held.number, held.marks, values)
            is_wild = nanos > MAX_NANOS or tokens > MAX_TOKENS or record.saved_nanos > MAX_NANOS
        except (OverflowError, UnicodeEncodeError):
            is_wild = True
        if is_wild:
            _log.error("request %s: what is told of it is cut to what can be kept", ascii(record.request_id))
            values = tame(values)
            payload = encode_settled(held.number, held.marks, values)
            record = UsageRecord(**dict(zip(usage.COLUMNS, values, strict=True)))
            nanos, tokens = record.cost_nanos, record.prompt_tokens + record.completion_tokens
        held.values = values
        bound, periods = held.bound, held.periods
        del self._open[held.number]
        if periods:
            self.ledger.settle(periods, bound, nanos, tokens)
            if nanos > bound.nanos or tokens > bound.tokens:
                # Charged as it is told: hiding it would not make it cheaper. The budget may be overdrawn by it.
                _log.warning(
                    "request %s took more than it was bound to: %d of %d tokens, %d of %d billionths",
                    values[0], tokens, bound.tokens, nanos, bound.nanos,
                )  # fmt: skip
        if held.gates:
            self.limits.leave(held.gates, bound.tokens - tokens)
        try:
            assert self._journal is not None
            self._journal.append(payload)
        except HeadraceError:
            self._unwritten[held.number] = payload
        self._pending.append(held)
        self._wake.set()

    def _reserve(self, shape: Shape, route: str, bound: Bound) -> Held | Wanting:
        principal = shape.principal
        # Of what no rule names, any number of callers are one.
        user, tags = principal.user if self._sees_users else None, shape.tags if self._sees_tags else ()
        party = (principal.tenant, principal.key, user, tags, route)
        lines = self._lines.get(party)
        unix_s = self._clock.unix_s()
        # The ledger's time never goes back: a window that has ended does not begin again.
        now_s = self._now_s = max(unix_s, self._now_s)
        if lines is None:
            lines = self._find(Party(*party), now_s)
            self._lines[party] = lines
        if self._unwritten or self._journal is None or len(self._pending) > MAX_PENDING:
            raise self._refusal()
        gates, accounts = lines.gates, lines.accounts
        monotonic_s = 0.0
        if gates:
            monotonic_s = self._clock.monotonic_s()
            self.limits.check(gates, bound.tokens, monotonic_s)
        periods: list[Period] = []
        if accounts:
            made = self.ledger.reserve(accounts, bound, now_s)
            if isinstance(made, Wanting):
                return made
            periods = made
        marks = tuple([period.mark for period in periods])
        number = self._number + 1
        try:
            payload = encode_reserved(number, marks, shape, route, unix_s, bound)
            self._journal.append(payload)
        except HeadraceError:
            self.ledger.cancel(periods, bound)
            raise
        if gates:
            self.limits.enter(gates, bound.tokens, monotonic_s)
        self._number = number
        held = self._open[number] = Held(self, number, marks, periods, gates, bound, payload)
        return held

    def _find(self, party: Party, now_s: float) -> _Lines:
        if len(self._lines) >= MAX_LINES:
            self._lines.clear()
        owners = tuple(party.owners())
        return _Lines(self.ledger.accounts(owners, now_s), self.limits.gates(owners))

    def _refusal(self) -> HeadraceError:
        if self._journal is None:
            return Unavailable("The accounts are not open; try again in a moment.", retry_after_s=RETRY_S)
        self._wake.set()
        if self._unwritten:
            return DiskFull(
                f"{len(self._unwritten)} requests could not be written down as they ended, and nothing is answered "
                f"that could not be accounted for; free some space on the disk of {self._around.folder}."
            )
        return Unavailable(
            f"{len(self._pending)} usage records wait for the state database, which does not take them; see the log.",
            retry_after_s=RETRY_S,
        )

    # Leases ------------------------------------------------------------------------------------------------------

    async def _lease(self, wanting: Wanting) -> None:
        for lease in wanting.leases:
            self._wanted[lease.period] = lease
        if self._leasing is None:
            self._leasing = asyncio.create_task(self._grant(), name="headrace-leases")
            self._leasing.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._leasing)

    async def _grant(self) -> None:
        leases, self._wanted = list(self._wanted.values()), {}
        try:
            granted = await self._store.call_durably(usage.grant, list(map(_ask, leases)))
        finally:
            self._leasing = None
        self._take_leases(leases, granted)

    def _take_leases(self, leases: Sequence[Lease], granted: Sequence[Leased]) -> None:
        for lease, leased in zip(leases, granted, strict=True):
            ceilings = [NO_LIMIT if ceiling is None else ceiling for ceiling in leased.ceilings]
            self.ledger.grant(lease, Granted(*leased.spent, *ceilings))

    # Writing -----------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Write what was settled so far. Raises what the store raises; it is tried again."""
        await self._drain()

    async def _drain_now_and_then(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(RETRY_S if self._is_failing else self._rhythm.tick_s)
            self._wake.clear()
            try:
                await self._drain()
                await self._sweep()
                self._is_failing = False
            except Exception as error:
                self._wake.set()
                if not self._is_failing:
                    defect = None if isinstance(error, HeadraceError) else error
                    _log.error("usage records are kept in memory and tried again: %s", error, exc_info=defect)
                self._is_failing = True

    async def _drain(self) -> None:
        async with self._draining:
            journal = self._journal
            assert journal is not None
            generation = 0
            self._write_again(journal)
            if journal.num_bytes > self._rhythm.max_journal_bytes:
                opening = [encode_open(self._run, self._around.boot), *[held.payload for held in self._open.values()]]
                with contextlib.suppress(HeadraceError):  # goes on in the old one
                    generation = journal.begin(opening)
            batch, self._pending = self._pending, []
            charges = self.ledger.charges
            retired = [one.period.mark for one in self._retired if self.ledger.find(one.owner, one.window) is None]
            leases = self.ledger.thin({period: held.bound for held in batch for period in held.periods})
            call = self._store.call_durably if leases else self._store.call
            entries = [Entry(held.number, held.marks, held.values or ()) for held in batch]
            try:
                granted = await call(_write, entries, retired, list(map(_ask, leases)))
            except BaseException:
                self._pending[:0] = batch
                raise
            self._take_leases(leases, granted)
            for held in batch:
                self._unwritten.pop(held.number, None)
            if generation:
                journal.drop_before(generation)
            self._retired = self.ledger.forget(charges)
            if self._retired or self.limits.forget(self._clock.monotonic_s()):
                self._lines.clear()
            self._follow_the_clock()

    def _follow_the_clock(self) -> None:
        """Go back in time too, if the clock went back far and nothing depends on the windows that are open: everything
        is on disk, where each window's own sums are found again."""
        unix_s = self._clock.unix_s()
        if unix_s < self._now_s - BACK_S and not (self._open or self._pending or self._leasing):
            self._now_s = unix_s
            self._retired = []  # what they are leased only grows until another process begins
            self.ledger = Ledger(self.rules.budgets)
            self._lines.clear()

    def _write_again(self, journal: Journal) -> None:
        """What a full disk kept out of the journal. Whatever goes to the store meanwhile need not be there."""
        with contextlib.suppress(HeadraceError):
            for number, payload in list(self._unwritten.items()):
                journal.append(payload)
                del self._unwritten[number]

    async def _sweep(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s < self._sweep_at_s:
            return
        unix_s = self._clock.unix_s()
        before_s = unix_s - self._rhythm.usage_days * 86_400
        # Some at a time, so that nobody waits long for the store.
        if not await self._store.call(usage.delete_old, before_s, unix_s - PERIODS_KEPT_S):
            self._sweep_at_s = now_s + SWEEP_S

    # What was left by others ---------------------------------------------------------------------------------------

    async def _read_rules(self) -> tuple[BudgetSettings, ...]:
        self.rules = self._fixed.with_stored(*await self._store.call(load_rules))
        return self.rules.budgets

    async def _hold_soon(self, *, alone: bool) -> None:
        """Hold the folder, and wait a little for who is just beginning or ending."""
        for _ in range(CLAIM_TRIES):
            if self._claim.take(alone=alone):
                return
            await asyncio.sleep(CLAIM_WAIT_S)
        self._hold(alone=alone)

    def _hold(self, *, alone: bool) -> None:
        if self._claim.is_alone != alone and not self._claim.take(alone=alone):
            raise Conflict(
                f"Another Headrace process keeps accounts in {self._around.folder}, and budgets are kept by one alone; "
                "stop it, or give this one another state directory (--home).",
                code="ledger_in_use",
            )

    async def _charge_leases(self, *, is_damaged: bool) -> None:
        charged = await self._store.call_durably(usage.end_lost_runs, self._around.boot, is_damaged=is_damaged)
        if charged:
            _log.warning(
                "the machine stopped without warning: %d budgets are charged what they may have spent", len(charged)
            )

    def _let_go(self) -> None:
        if self._journal is not None:
            with contextlib.suppress(HeadraceError):
                self._journal.sync()
            self._journal.close()
            self._journal = None
        self._claim.close()


def _ask(lease: Lease) -> LeaseAsk:
    period, account = lease.period, lease.period.account
    return LeaseAsk(
        period.mark,
        (period.used_nanos, period.used_tokens) if period.is_known else None,
        (lease.more_nanos, lease.more_tokens),
        (
            None if account.limit_nanos >= NO_LIMIT else account.limit_nanos,
            None if account.limit_tokens >= NO_LIMIT else account.limit_tokens,
        ),
    )


def _write(
    connection: sqlite3.Connection, entries: Sequence[Entry], retired: Sequence[Mark], asks: Sequence[LeaseAsk]
) -> list[Leased]:
    usage.write(connection, entries)
    usage.drop_leases(connection, retired)
    return usage.grant(connection, asks)
