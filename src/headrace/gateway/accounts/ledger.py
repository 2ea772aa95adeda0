"""The ledger: what everybody may spend in each window, has spent, and has set aside for requests that run.

    spent + reserved <= ceiling <= limit        of every account, always, for charges within their bound

An *account* is a subject over one kind of window, its *period* the window that goes on now. A reservation holds the
periods that it was made in, so what it is charged counts there, whenever it ends. A period's *ceiling* is what was
promised on disk that it may reach (a lease): a process whose machine loses power can have spent no more than that. One
that was never seen has none, so the first request in it asks for one, and learns what had been spent before.

Values in, values out: no clock, no files, no waiting; money in whole billionths. Time never goes back here: a clock
that does leaves every window as it is until time has caught up.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.core.errors import BudgetExceeded
from headrace.core.usage import NANOS
from headrace.gateway.accounts.calendar import NEVER, bounds, show
from headrace.gateway.accounts.subjects import Owner, Rulebook, tightest
from headrace.gateway.contract import Bound
from headrace.gateway.settings import BudgetSettings, Window
from headrace.memory.usage import Mark

NO_LIMIT: Final = 1 << 62
"""More than any account can be charged, and still a number that SQLite holds."""

UNKNOWN: Final = -1
"""The ceiling of a period whose sums were not read yet: less than any charge, so that the first one asks."""


@dataclass(slots=True, eq=False)
class Period:
    """An account's current window. Its `room` is what may still be reserved: ceiling - spent - reserved."""

    account: "Account"
    mark: Mark
    end_s: int
    room_nanos: int = UNKNOWN
    room_tokens: int = UNKNOWN
    ceiling_nanos: int = UNKNOWN
    ceiling_tokens: int = UNKNOWN
    spent_nanos: int = 0
    spent_tokens: int = 0
    is_known: bool = False
    changed_at: int = 0  # the number of the last charge, by which one sees whether it is on disk

    @property
    def used_nanos(self) -> int:
        """Spent and reserved."""
        return self.ceiling_nanos - self.room_nanos

    @property
    def used_tokens(self) -> int:
        """Spent and reserved."""
        return self.ceiling_tokens - self.room_tokens

    @property
    def is_idle(self) -> bool:
        """Whether nothing is reserved in it."""
        return self.used_nanos == self.spent_nanos and self.used_tokens == self.spent_tokens


@dataclass(slots=True, eq=False)
class Account:
    """A subject over one kind of window: its limits, and the names of the budgets that they are of."""

    owner: Owner
    window: Window
    limit_nanos: int = NO_LIMIT
    limit_tokens: int = NO_LIMIT
    nanos_budget: str = ""
    tokens_budget: str = ""
    period: Period = None  # type: ignore[assignment]  # set by whoever makes one, in the same step

    @property
    def subject(self) -> str:
        """Whose it is, as it is written."""
        kind, name = self.owner
        return f"{kind}:{name}" if name else kind

    @property
    def is_limited(self) -> bool:
        """Whether a budget still holds for it."""
        return self.limit_nanos < NO_LIMIT or self.limit_tokens < NO_LIMIT

    def turn(self, now_s: float) -> Period:
        """Begin the window of this moment."""
        start_s, end_s = bounds(self.window, now_s)
        self.period = Period(self, (self.subject, self.window.value, start_s), end_s)
        return self.period


@dataclass(frozen=True, slots=True)
class Lease:
    """A higher ceiling that a period wants: so much above what is used of it, within the limit."""

    period: Period
    more_nanos: int
    more_tokens: int


@dataclass(frozen=True, slots=True)
class Wanting:
    """Leases without which a request cannot be let through. With them it is to be tried again."""

    leases: tuple[Lease, ...]


@dataclass(frozen=True, slots=True)
class Granted:
    """What the disk says of a leased period: what had been spent in it before this process, and its ceilings, NO_LIMIT
    where none were asked for."""

    spent_nanos: int
    spent_tokens: int
    ceiling_nanos: int
    ceiling_tokens: int


class Ledger:
    """All accounts that were asked for, at most `max_accounts` of them beside those that are in use."""

    def __init__(self, budgets: Iterable[BudgetSettings] = (), *, max_accounts: int = 100_000) -> None:
        self._max_accounts = max_accounts
        self._accounts: dict[tuple[Owner, Window], Account] = {}
        self._rules: Rulebook[BudgetSettings] = Rulebook(())
        self._charges = 0
        self.configure(budgets)

    def __len__(self) -> int:
        return len(self._accounts)

    @property
    def charges(self) -> int:
        """How many there have been."""
        return self._charges

    def configure(self, budgets: Iterable[BudgetSettings]) -> None:
        """Take other budgets. What is spent and reserved stays as it is, also where a limit is now below it."""
        self._rules = Rulebook(budgets)
        for account in self._accounts.values():
            self._limit(account)
            period = account.period
            if period.is_known:
                used_nanos, used_tokens = period.used_nanos, period.used_tokens
                _lift_nanos(period, _new_ceiling(period.ceiling_nanos, account.limit_nanos, used_nanos))
                _lift_tokens(period, _new_ceiling(period.ceiling_tokens, account.limit_tokens, used_tokens))

    def accounts(self, owners: Iterable[Owner], now_s: float) -> tuple[Account, ...]:
        """The accounts of these subjects that a budget holds for."""
        found = []
        for owner in owners:
            for window in dict.fromkeys(rule.window for rule in self._rules.rules(owner)):
                account = self._accounts.get((owner, window))
                if account is None:
                    account = Account(owner, window)
                    self._limit(account)
                    account.turn(now_s)
                    self._accounts[owner, window] = account
                if account.is_limited:
                    found.append(account)
        return tuple(found)

    def reserve(self, accounts: Sequence[Account], bound: Bound, now_s: float) -> list[Period] | Wanting:
        """Set the bound aside in all of the accounts, and return the periods that `settle` wants to have; or in none,
        and say which leases are wanting. Raises BudgetExceeded, naming the budget."""
        nanos, tokens = bound.nanos, bound.tokens
        periods = []
        for account in accounts:
            period = account.period
            if now_s >= period.end_s:
                period = account.turn(now_s)
            if nanos > period.room_nanos or tokens > period.room_tokens:
                leases = self._leases(accounts, bound, now_s)
                if leases:
                    return Wanting(tuple(leases))
                periods = [account.period for account in accounts]
                break
            periods.append(period)
        for period in periods:
            period.room_nanos -= nanos
            period.room_tokens -= tokens
        return periods

    def settle(self, periods: Sequence[Period], bound: Bound, nanos: int, tokens: int) -> int:
        """Charge what a reservation really took, give back the rest; the number of the charge."""
        self._charges = number = self._charges + 1
        for period in periods:
            period.room_nanos += bound.nanos - nanos
            period.room_tokens += bound.tokens - tokens
            period.spent_nanos += nanos
            period.spent_tokens += tokens
            period.changed_at = number
        return number

    def cancel(self, periods: Sequence[Period], bound: Bound) -> None:
        """Give back a reservation that came to nothing."""
        for period in periods:
            period.room_nanos += bound.nanos
            period.room_tokens += bound.tokens

    def grant(self, lease: Lease, granted: Granted) -> None:
        """Take in what the disk holds for a period now."""
        period, account = lease.period, lease.period.account
        if not period.is_known:
            # Nothing could be reserved or charged before, so what was spent is what the disk says.
            period.is_known = True
            period.spent_nanos, period.spent_tokens = granted.spent_nanos, granted.spent_tokens
            period.ceiling_nanos, period.ceiling_tokens = granted.spent_nanos, granted.spent_tokens
            period.room_nanos = period.room_tokens = 0
        # A lease that was asked for before there was a limit is none under it.
        if (granted.ceiling_nanos < NO_LIMIT) == (account.limit_nanos < NO_LIMIT):
            _lift_nanos(period, min(max(period.ceiling_nanos, granted.ceiling_nanos), account.limit_nanos))
        if (granted.ceiling_tokens < NO_LIMIT) == (account.limit_tokens < NO_LIMIT):
            _lift_tokens(period, min(max(period.ceiling_tokens, granted.ceiling_tokens), account.limit_tokens))

    def thin(self, touched: Mapping[Period, Bound]) -> list[Lease]:
        """Leases for those of the periods that come near their ceilings, so that no request has to wait for one. With
        each period stands what the dearest request in it set aside."""
        found = []
        for period, bound in touched.items():
            lease, account = _lease(period, bound), period.account
            is_low = (period.ceiling_nanos < account.limit_nanos and period.room_nanos < lease.more_nanos // 2) or (
                period.ceiling_tokens < account.limit_tokens and period.room_tokens < lease.more_tokens // 2
            )
            if is_low and period is account.period:
                found.append(lease)
        return found

    def forget(self, written: int) -> list[Account]:
        """If there are too many accounts, let go of those that nobody uses and whose charges up to number `written`,
        which are on disk, are all. They are found again there."""
        excess = len(self._accounts) - self._max_accounts
        if excess <= 0:
            return []
        gone = []
        for account in self._accounts.values():
            if account.period.is_idle and account.period.changed_at <= written:
                gone.append(account)
                if len(gone) >= excess + self._max_accounts // 10:
                    break
        for account in gone:
            del self._accounts[account.owner, account.window]
        return gone

    def find(self, owner: Owner, window: Window) -> Account | None:
        """An account that is in memory."""
        return self._accounts.get((owner, window))

    def known(self) -> list[Account]:
        """Accounts whose sums are in memory."""
        return [account for account in self._accounts.values() if account.period.is_known]

    def _limit(self, account: Account) -> None:
        rules = [rule for rule in self._rules.rules(account.owner) if rule.window is account.window]
        money = tightest(rules, lambda rule: rule.money)
        tokens = tightest(rules, lambda rule: rule.tokens)
        account.limit_nanos, account.nanos_budget = (NO_LIMIT, "") if money is None else (nanos_of(money[0]), money[1])
        account.limit_tokens, account.tokens_budget = (NO_LIMIT, "") if tokens is None else (int(tokens[0]), tokens[1])

    def _leases(self, accounts: Sequence[Account], bound: Bound, now_s: float) -> list[Lease]:
        found, over = [], []
        for account in accounts:
            period = account.period if now_s < account.period.end_s else account.turn(now_s)
            if not period.is_known:
                found.append(_lease(period, bound))
            # Who spends nothing of a measure is not kept out by it, also where it is overdrawn.
            elif (bound.nanos > 0 and period.used_nanos + bound.nanos > account.limit_nanos) or (
                bound.tokens > 0 and period.used_tokens + bound.tokens > account.limit_tokens
            ):
                over.append(account)
            elif 0 < bound.nanos > period.room_nanos or 0 < bound.tokens > period.room_tokens:
                found.append(_lease(period, bound))
        if over:
            raise _exceeded(max(over, key=lambda account: account.period.end_s), bound, now_s)
        return found


def nanos_of(money: float) -> int:
    """A budget in billionths, rounded down: never more than was allowed."""
    return math.floor(round(money * NANOS, 3))


def _new_ceiling(ceiling: int, limit: int, used: int) -> int:
    """A ceiling under another limit. One that there was no limit on is no lease: the next request asks for one."""
    if limit >= NO_LIMIT:
        return NO_LIMIT
    return min(limit, used if ceiling >= NO_LIMIT else ceiling)


def _lease(period: Period, bound: Bound) -> Lease:
    account = period.account
    return Lease(
        period,
        bound.nanos + _slack(account.limit_nanos, bound.nanos),
        bound.tokens + _slack(account.limit_tokens, bound.tokens),
    )


def _slack(limit: int, charge: int) -> int:
    """What a loss of power may cost an account: a twentieth of its limit at most, and not much more than what a second
    of traffic needs."""
    return min(limit // 20, max(1024 * charge, limit // 1000))


def _lift_nanos(period: Period, ceiling: int) -> None:
    period.room_nanos += ceiling - period.ceiling_nanos
    period.ceiling_nanos = ceiling


def _lift_tokens(period: Period, ceiling: int) -> None:
    period.room_tokens += ceiling - period.ceiling_tokens
    period.ceiling_tokens = ceiling


def _exceeded(account: Account, bound: Bound, now_s: float) -> BudgetExceeded:
    period = account.period
    if bound.nanos > 0 and period.used_nanos + bound.nanos > account.limit_nanos:
        name, asked = account.nanos_budget, f"{bound.nanos / NANOS:.9g}"
        left = f"{max(0, account.limit_nanos - period.used_nanos) / NANOS:.9g} of {account.limit_nanos / NANOS:.9g}"
        reserved = period.used_nanos - period.spent_nanos
        held = f"{reserved / NANOS:.9g}" if reserved else ""
    else:
        name, asked = account.tokens_budget, f"{bound.tokens} tokens"
        left = f"{max(0, account.limit_tokens - period.used_tokens)} of {account.limit_tokens} tokens"
        reserved = period.used_tokens - period.spent_tokens
        held = f"{reserved}" if reserved else ""
    is_last = period.end_s >= NEVER
    until = "for good" if is_last else f"until {show(period.end_s)}, when the next {account.window} begins"
    running = f" ({held} are set aside for requests that run, and come back in part)" if held else ""
    return BudgetExceeded(
        f"budget {name!r} of {account.subject}: the request could cost {asked}, and {left} are left{running} {until}; "
        "ask for less (max_tokens bounds it), or have the budget raised.",
        retry_after_s=None if is_last else max(1.0, period.end_s - now_s),
    )
