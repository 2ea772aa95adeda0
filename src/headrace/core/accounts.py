"""What an operator and a caller may see and change of accounts: keys, budgets, limits, usage. Values and protocols.

Money is in billionths of the price list's unit, times are Unix seconds; None is "no bound", or "never". Knows neither
how they look on the wire (`api/accounts.py`) nor where they are kept.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from headrace.core.request import Principal
from headrace.core.usage import UsageRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRights:
    """What a key's requests are under; see `Principal`."""

    tenant: str = "local"
    scopes: frozenset[str] = frozenset({"generate"})
    priority: int = 0
    share: float = 1.0
    user: str | None = None
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    expires_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedKey:
    """A key without the key. `is_fixed`: it is of the settings file, and changed there."""

    name: str
    rights: KeyRights
    created_s: float
    is_disabled: bool = False
    is_fixed: bool = False


class KeyBook(Protocol):
    """The keys in force. What is changed holds for the next request."""

    async def list_keys(self) -> tuple[IssuedKey, ...]:
        """All of them."""
        ...

    async def add_key(self, name: str, rights: KeyRights) -> tuple[IssuedKey, str]:
        """Issue one; its text is told this once. Raises InvalidRequest, Conflict."""
        ...

    async def set_disabled(self, name: str, *, is_disabled: bool) -> IssuedKey:
        """Have one not be valid for now, or valid again. Raises NotFound, Conflict."""
        ...

    async def remove_key(self, name: str) -> None:
        """Take one back. Raises NotFound, and Conflict for the last one, and for those of the settings file."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetRule:
    """A budget; subject and window as they are written: `key:laptop`, `month`. `money` is in the price list's unit.
    `is_fixed`: it is of the settings file, and changed there."""

    name: str
    subject: str
    window: str
    money: float | None = None
    tokens: int | None = None
    is_fixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRule:
    """A limit; see `BudgetRule`."""

    name: str
    subject: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    is_fixed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a subject stands under a budget in the window that goes on now."""

    budget: str
    subject: str
    window: str
    started_s: int
    resets_s: int | None
    spent_nanos: int
    spent_tokens: int
    reserved_nanos: int = 0
    reserved_tokens: int = 0
    limit_nanos: int | None = None
    limit_tokens: int | None = None

    @property
    def left_nanos(self) -> int | None:
        """What may still be reserved."""
        if self.limit_nanos is None:
            return None
        return max(0, self.limit_nanos - self.spent_nanos - self.reserved_nanos)

    @property
    def left_tokens(self) -> int | None:
        """What may still be reserved."""
        if self.limit_tokens is None:
            return None
        return max(0, self.limit_tokens - self.spent_tokens - self.reserved_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetState:
    """A budget and where its subjects stand, those first who have spent most; `has_more` if there are more of them."""

    rule: BudgetRule
    standings: tuple[Standing, ...]
    has_more: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Which requests: those for which everything given here holds. `since_s` is in, `until_s` is not."""

    equals: Mapping[str, str] = field(default_factory=dict)  # by column: tenant, key, user, route, model, ...
    tag: str | None = None
    since_s: float | None = None
    until_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """A page of single records, newest first: `limit` of those before the one with the number `after`."""

    which: UsageFilter = UsageFilter()
    limit: int = 100
    after: int | None = None


@dataclass(frozen=True, slots=True)
class UsagePage:
    """Records with their numbers, and whether there are more."""

    records: tuple[tuple[int, UsageRecord], ...]
    has_more: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageSum:
    """Requests of one group, a value for each that was grouped by."""

    group: Mapping[str, str]
    num_requests: int
    num_failed: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cost_nanos: int
    saved_nanos: int


class AccountBook(Protocol):
    """Budgets, limits and usage."""

    async def budgets(self) -> tuple[BudgetState, ...]:
        """All of them."""
        ...

    async def set_budget(self, rule: BudgetRule) -> BudgetState:
        """Add one, or change the one of that name. Raises InvalidRequest, Conflict."""
        ...

    async def remove_budget(self, name: str) -> None:
        """Take one back. Raises NotFound, Conflict."""
        ...

    async def limits(self) -> tuple[LimitRule, ...]:
        """All of them."""
        ...

    async def set_limit(self, rule: LimitRule) -> LimitRule:
        """Add one, or change the one of that name. Raises InvalidRequest, Conflict."""
        ...

    async def remove_limit(self, name: str) -> None:
        """Take one back. Raises NotFound, Conflict."""
        ...

    async def records(self, query: UsageQuery) -> UsagePage:
        """Single records, those included that ended a moment ago."""
        ...

    async def sums(self, by: tuple[str, ...], which: UsageFilter) -> tuple[UsageSum, ...]:
        """Sums by some of tenant, key, user, tag, route, model, backend and day; the largest cost first, days in order.
        They outlive single records, and know whole days only."""
        ...

    async def standings(self, principal: Principal) -> tuple[Standing, ...]:
        """What a caller may see: budgets of its own tenant, key and user."""
        ...
