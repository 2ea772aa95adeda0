"""What an operator may see and change of budgets, limits and usage while a server runs: `core.accounts.AccountBook`.

What is set here is stored first and in force when the call returns; rules of the settings file are changed there. What
was settled a moment ago is written before anything is counted. Knows no wire format.
"""

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Protocol

from headrace.core.accounts import (
    BudgetRule,
    BudgetState,
    LimitRule,
    Standing,
    UsageFilter,
    UsagePage,
    UsageQuery,
    UsageSum,
)
from headrace.core.clock import Clock
from headrace.core.errors import Conflict, InvalidRequest, NotFound
from headrace.core.request import Principal
from headrace.gateway.accounts.calendar import NEVER, bounds
from headrace.gateway.accounts.ledger import NO_LIMIT, Account, Ledger
from headrace.gateway.accounts.rules import Rules, budget_settings, limit_settings
from headrace.gateway.accounts.subjects import EACH, Owner, Party
from headrace.gateway.settings import BudgetSettings, LimitSettings
from headrace.memory import rules as stored
from headrace.memory import usage_reports
from headrace.memory.store import Store

MAX_STANDINGS: Final = 100
"""Subjects that are listed of a budget for each."""

MAX_STORED: Final = 10_000
"""Rules that can be set while a server runs."""


class Kept(Protocol):
    """What keeps accounts: `accounts.Accounts` in a server, or nobody but the store."""

    @property
    def ledger(self) -> Ledger:
        """Budgets, and what memory knows of them."""
        ...

    @property
    def rules(self) -> Rules:
        """In force."""
        ...

    @property
    def fixed(self) -> Rules:
        """Those of the settings file."""
        ...

    def hold_alone(self) -> None:
        """Be ready to keep budgets. Raises Conflict."""
        ...

    async def reread(self) -> None:
        """Put in force what was set beside the settings file."""
        ...

    async def drain(self) -> None:
        """Write what was settled so far."""
        ...


class AccountService:
    """See `core.accounts.AccountBook`."""

    def __init__(self, accounts: Kept, store: Store, clock: Clock) -> None:
        self._accounts = accounts
        self._store = store
        self._clock = clock

    async def budgets(self) -> tuple[BudgetState, ...]:
        """See `core.accounts.AccountBook`."""
        return tuple([await self._state(one) for one in self._accounts.rules.budgets])

    async def set_budget(self, rule: BudgetRule) -> BudgetState:
        """See `core.accounts.AccountBook`."""
        settings = budget_settings(rule)
        _check_free(rule.name, self._accounts.fixed.budgets, self._accounts.rules.budgets, "budget")
        self._accounts.hold_alone()
        await self._store.call(stored.save_budget, rule)
        await self._accounts.reread()
        return await self._state(settings)

    async def remove_budget(self, name: str) -> None:
        """See `core.accounts.AccountBook`."""
        _check_not_fixed(name, self._accounts.fixed.budgets, "budget")
        if not await self._store.call(stored.delete_budget, name):
            raise _missing(name, self._accounts.rules.budgets, "budget")
        await self._accounts.reread()

    async def limits(self) -> tuple[LimitRule, ...]:
        """See `core.accounts.AccountBook`."""
        fixed = {one.name for one in self._accounts.fixed.limits}
        return tuple(_limit_rule(one, is_fixed=one.name in fixed) for one in self._accounts.rules.limits)

    async def set_limit(self, rule: LimitRule) -> LimitRule:
        """See `core.accounts.AccountBook`."""
        settings = limit_settings(rule)
        _check_free(rule.name, self._accounts.fixed.limits, self._accounts.rules.limits, "limit")
        await self._store.call(stored.save_limit, rule)
        await self._accounts.reread()
        return _limit_rule(settings, is_fixed=False)

    async def remove_limit(self, name: str) -> None:
        """See `core.accounts.AccountBook`."""
        _check_not_fixed(name, self._accounts.fixed.limits, "limit")
        if not await self._store.call(stored.delete_limit, name):
            raise _missing(name, self._accounts.rules.limits, "limit")
        await self._accounts.reread()

    async def records(self, query: UsageQuery) -> UsagePage:
        """See `core.accounts.AccountBook`."""
        await self._accounts.drain()
        return await self._store.call(usage_reports.find_records, query)

    async def sums(self, by: tuple[str, ...], which: UsageFilter) -> tuple[UsageSum, ...]:
        """See `core.accounts.AccountBook`."""
        usage_reports.check_names(by, usage_reports.GROUPS, "by")
        await self._accounts.drain()
        return await self._store.call(usage_reports.find_sums, by, which)

    async def standings(self, principal: Principal) -> tuple[Standing, ...]:
        """See `core.accounts.AccountBook`."""
        party = Party(principal.tenant, principal.key, principal.user, (), "")
        own = [owner for owner in party.owners() if owner[0] in {"tenant", "key", "user"}]
        accounts = self._accounts.ledger.accounts(own, self._clock.unix_s())
        return tuple(await self._stand([account for account in accounts if account.is_limited]))

    async def _state(self, settings: BudgetSettings) -> BudgetState:
        subject, window, now_s = settings.subject, settings.window, self._clock.unix_s()
        is_fixed = settings.name in {one.name for one in self._accounts.fixed.budgets}
        if subject.name == EACH:
            start_s, _ = bounds(window, now_s)
            rows = await self._store.call(
                usage_reports.find_periods, subject.kind, window.value, start_s, MAX_STANDINGS + 1
            )
            found = [mark[0].partition(":")[2] for mark, _ in rows]
            found += [one.owner[1] for one in self._accounts.ledger.known() if one.owner[0] == subject.kind]
            names = list(dict.fromkeys(found))
        else:
            names = [subject.name]
        owners: list[Owner] = [(subject.kind, name) for name in names[:MAX_STANDINGS]]
        accounts = [one for one in self._accounts.ledger.accounts(owners, now_s) if one.window is window]
        # One whose measures are all told by budgets of its own does not stand under this one.
        accounts = [one for one in accounts if settings.name in {one.nanos_budget, one.tokens_budget}]
        standings = [_under(settings.name, one) for one in await self._stand(accounts)]
        return BudgetState(
            rule=_budget_rule(settings, is_fixed=is_fixed),
            standings=tuple(sorted(standings, key=lambda one: (-one.spent_nanos, -one.spent_tokens, one.subject))),
            has_more=len(names) > MAX_STANDINGS,
        )

    async def _stand(self, accounts: Iterable[Account]) -> list[Standing]:
        """Where accounts stand: as memory knows them, or, if nothing was asked under one since the start, the store."""
        await self._accounts.drain()
        listed, now_s = list(accounts), self._clock.unix_s()
        for account in listed:
            if now_s >= account.period.end_s:
                account.turn(now_s)
        unknown = [account for account in listed if not account.period.is_known]
        sums = await self._store.call(usage_reports.find_spent, [account.period.mark for account in unknown])
        spent = dict(zip(map(id, unknown), sums, strict=True))
        return [_standing(account, spent.get(id(account))) for account in listed]


def _standing(account: Account, spent: tuple[int, int] | None) -> Standing:
    period = account.period
    nanos, tokens = spent if spent is not None else (period.spent_nanos, period.spent_tokens)
    return Standing(
        budget=account.nanos_budget or account.tokens_budget,
        subject=account.subject,
        window=account.window.value,
        started_s=period.mark[2],
        resets_s=None if period.end_s >= NEVER else period.end_s,
        spent_nanos=nanos,
        spent_tokens=tokens,
        reserved_nanos=0 if spent is not None else period.used_nanos - period.spent_nanos,
        reserved_tokens=0 if spent is not None else period.used_tokens - period.spent_tokens,
        limit_nanos=None if account.limit_nanos >= NO_LIMIT else account.limit_nanos,
        limit_tokens=None if account.limit_tokens >= NO_LIMIT else account.limit_tokens,
    )


def _under(budget: str, standing: Standing) -> Standing:
    return replace(standing, budget=budget)


def _budget_rule(one: BudgetSettings, *, is_fixed: bool) -> BudgetRule:
    return BudgetRule(
        name=one.name,
        subject=str(one.subject),
        window=one.window.value,
        money=one.money,
        tokens=one.tokens,
        is_fixed=is_fixed,
    )


def _limit_rule(one: LimitSettings, *, is_fixed: bool) -> LimitRule:
    return LimitRule(
        name=one.name,
        subject=str(one.subject),
        requests_per_minute=one.requests_per_minute,
        tokens_per_minute=one.tokens_per_minute,
        concurrency=one.concurrency,
        is_fixed=is_fixed,
    )


_Rules = Iterable[BudgetSettings] | Iterable[LimitSettings]


def _check_free(name: str, fixed: _Rules, known: _Rules, what: str) -> None:
    _check_not_fixed(name, fixed, what)
    names = {one.name for one in known}
    if name not in names and len(names) >= MAX_STORED:
        raise InvalidRequest(
            f"name: there are {len(names)} {what}s; remove some, or use one for each (*).", param="name"
        )


def _check_not_fixed(name: str, fixed: _Rules, what: str) -> None:
    if name in {one.name for one in fixed}:
        raise Conflict(
            f"name: the {what} {name!r} is of the settings file; change it there and reload.",
            param="name",
            code="fixed",
        )


def _missing(name: str, known: _Rules, what: str) -> NotFound:
    names = ", ".join(one.name for one in known) or "none"
    return NotFound(f"name: there is no {what} {name[:100]!r}; existing: {names[:1000]}.", param="name")
