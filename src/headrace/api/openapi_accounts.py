"""Shapes of accounts for the OpenAPI document: what clients may rely on in answers, and a row for each route.

Only the document is made from them. The codec does not use them, so that tests can hold each against the other.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from headrace.api.accounts import MAX_PAGE
from headrace.api.openapi_operation import Operation

_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=400)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class KeyOrderBody(msgspec.Struct, forbid_unknown_fields=True):
    """A key to be issued; `expires` is Unix time or a date."""

    name: _Name
    tenant: str | None = None
    scopes: (
        list[Literal["generate", "metrics", "admin", "accounts", "logprobs", "audit", "endorse", "observe"]] | None
    ) = None
    priority: int | None = None
    share: float | None = None
    user: str | None = None
    tags: list[_Text] | None = None
    labels: list[_Text] | None = None
    routes: list[_Text] | None = None
    expires: float | str | None = None


class KeyChangeBody(msgspec.Struct, forbid_unknown_fields=True):
    """Whether a key is not valid for now."""

    is_disabled: bool


class KeyAnswer(msgspec.Struct, omit_defaults=True):
    """A key; `secret` is the key itself, told when it is issued and never again."""

    object: Literal["accounts.key"]
    name: str
    tenant: str
    scopes: list[str]
    priority: int
    share: float
    user: str | None
    tags: list[str]
    labels: list[str]
    routes: list[str]
    created: float
    expires: float | None
    is_disabled: bool
    is_fixed: bool
    secret: str | msgspec.UnsetType = msgspec.UNSET


class KeyAnswerList(msgspec.Struct):
    """All keys."""

    object: Literal["list"]
    data: list[KeyAnswer]


class BudgetBody(msgspec.Struct, forbid_unknown_fields=True):
    """A budget: money, tokens, or both."""

    name: _Name
    subject: _Text
    window: Literal["minute", "hour", "day", "week", "month", "total"]
    money: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None
    tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None


class StandingAnswer(msgspec.Struct):
    """Where a subject stands; money in the price list's unit and in billionths, times in Unix seconds."""

    budget: str
    subject: str
    window: str
    started_at: int
    resets_at: int | None
    spent: float
    spent_nanos: int
    reserved: float
    reserved_nanos: int
    left: float | None
    left_nanos: int | None
    spent_tokens: int
    reserved_tokens: int
    left_tokens: int | None


class BudgetAnswer(msgspec.Struct):
    """A budget and where its subjects stand."""

    object: Literal["accounts.budget"]
    name: str
    subject: str
    window: str
    money: float | None
    tokens: int | None
    is_fixed: bool
    standings: list[StandingAnswer]
    has_more: bool


class BudgetAnswerList(msgspec.Struct):
    """All budgets."""

    object: Literal["list"]
    data: list[BudgetAnswer]


class LimitBody(msgspec.Struct, forbid_unknown_fields=True):
    """A limit: one of the measures at least."""

    name: _Name
    subject: _Text
    requests_per_minute: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tokens_per_minute: Annotated[int, msgspec.Meta(ge=1)] | None = None
    concurrency: Annotated[int, msgspec.Meta(ge=1)] | None = None


class LimitAnswer(msgspec.Struct):
    """A limit."""

    object: Literal["accounts.limit"]
    name: str
    subject: str
    requests_per_minute: int | None
    tokens_per_minute: int | None
    concurrency: int | None
    is_fixed: bool


class LimitAnswerList(msgspec.Struct):
    """All limits."""

    object: Literal["list"]
    data: list[LimitAnswer]


class UsageAnswerList(msgspec.Struct):
    """Single records, or sums by group."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    has_more: bool


class OwnAnswer(msgspec.Struct):
    """A caller's own budgets."""

    object: Literal["accounts.me"]
    budgets: list[StandingAnswer]


class GoneAnswer(msgspec.Struct):
    """A rule or a key that was taken back."""

    object: Literal["accounts.key.deleted", "accounts.budget.deleted", "accounts.limit.deleted"]
    name: str
    deleted: Literal[True]


_USAGE: Final[dict[str, Any]] = {
    **dict.fromkeys(("tenant", "key", "user", "tag", "route", "model", "backend"), str),
    **dict.fromkeys(("outcome", "request_id", "asked_model", "since", "until", "by"), str),
    "limit": Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)],
    "after": Annotated[int, msgspec.Meta(ge=1)],
}

ACCOUNT_OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("GET", "/v1/accounts/keys"): Operation("Every key, without the keys.", answer=KeyAnswerList),
    ("POST", "/v1/accounts/keys"): Operation("Issue a key.", KeyOrderBody, KeyAnswer),
    ("PATCH", "/v1/accounts/keys/{name}"): Operation("Disable or enable a key.", KeyChangeBody, KeyAnswer),
    ("DELETE", "/v1/accounts/keys/{name}"): Operation("Take a key back.", answer=GoneAnswer),
    ("GET", "/v1/accounts/budgets"): Operation("Every budget and where it stands.", answer=BudgetAnswerList),
    ("POST", "/v1/accounts/budgets"): Operation("Set a budget.", BudgetBody, BudgetAnswer),
    ("DELETE", "/v1/accounts/budgets/{name}"): Operation("Take a budget back.", answer=GoneAnswer),
    ("GET", "/v1/accounts/limits"): Operation("Every limit.", answer=LimitAnswerList),
    ("POST", "/v1/accounts/limits"): Operation("Set a limit.", LimitBody, LimitAnswer),
    ("DELETE", "/v1/accounts/limits/{name}"): Operation("Take a limit back.", answer=GoneAnswer),
    ("GET", "/v1/accounts/usage"): Operation("What was used.", answer=UsageAnswerList, query=_USAGE),
    ("GET", "/v1/accounts/me"): Operation("Where your own budgets stand.", answer=OwnAnswer),
}
