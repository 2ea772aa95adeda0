"""The admin protocol of accounts, our own: JSON objects of keys, budgets, limits and usage.

Money is a number in the price list's unit, beside it the same in billionths (`_nanos`), which sums exactly. Times are
Unix seconds, and in queries a date (2026-11-26) too. What a body or a query does not know is refused by name.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from headrace.api.openai_refusal import show
from headrace.core.accounts import (
    BudgetRule,
    BudgetState,
    IssuedKey,
    KeyRights,
    LimitRule,
    Standing,
    UsageFilter,
    UsagePage,
    UsageQuery,
    UsageSum,
)
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import SCOPES
from headrace.core.usage import NANOS, UsageRecord

MAX_PAGE: Final = 1000
MAX_BY: Final = 4
_MAX_TEXT: Final = 400
_RECORD_FIELDS: Final = tuple(UsageRecord.__dataclass_fields__)
_RIGHTS: Final = ("tenant", "scopes", "priority", "share", "user", "tags", "labels", "routes", "expires")
_TEXT_FILTERS: Final = ("tenant", "key", "user", "route", "model", "backend", "outcome", "request_id", "asked_model")


@dataclass(frozen=True, slots=True)
class KeyOrder:
    """A key to be issued."""

    name: str
    rights: KeyRights


@dataclass(frozen=True, slots=True)
class UsageAsk:
    """What a query of usage asks for: single records, or sums by some columns."""

    query: UsageQuery
    by: tuple[str, ...] | None


def decode_key(body: bytes) -> KeyOrder:
    """A key to be issued. Raises InvalidRequest naming the field."""
    fields = _object(body, ("name", *_RIGHTS))
    default = KeyRights()
    for scope in _texts(fields, "scopes"):
        if scope not in SCOPES:
            raise InvalidRequest(f"scopes: {scope[:100]!r} is none; give some of {', '.join(SCOPES)}.", param="scopes")
    rights = KeyRights(
        tenant=_text(fields, "tenant") or default.tenant,
        scopes=frozenset(_texts(fields, "scopes") or default.scopes),
        priority=_whole(fields, "priority") or 0,
        share=1.0 if (share := _number(fields, "share")) is None else share,
        user=_text(fields, "user"),
        tags=tuple(_texts(fields, "tags")),
        labels=frozenset(_texts(fields, "labels")),
        routes=frozenset(_texts(fields, "routes")),
        expires_s=None if fields.get("expires") is None else _moment("expires", fields["expires"]),
    )
    return KeyOrder(_needed(fields, "name"), rights)


def decode_key_change(body: bytes) -> bool:
    """Whether a key is to be disabled. Raises InvalidRequest."""
    is_disabled = _object(body, ("is_disabled",)).get("is_disabled")
    if not isinstance(is_disabled, bool):
        raise InvalidRequest(f"is_disabled: {show(is_disabled)} is neither true nor false.", param="is_disabled")
    return is_disabled


def decode_budget(body: bytes) -> BudgetRule:
    """A budget. Raises InvalidRequest for a field of the wrong kind; what it says is checked by who keeps it."""
    fields = _object(body, ("name", "subject", "window", "money", "tokens"))
    return BudgetRule(
        name=_needed(fields, "name"),
        subject=_needed(fields, "subject"),
        window=_needed(fields, "window"),
        money=_number(fields, "money"),
        tokens=_whole(fields, "tokens"),
    )


def decode_limit(body: bytes) -> LimitRule:
    """A limit. Raises InvalidRequest as `decode_budget`."""
    fields = _object(body, ("name", "subject", "requests_per_minute", "tokens_per_minute", "concurrency"))
    return LimitRule(
        name=_needed(fields, "name"),
        subject=_needed(fields, "subject"),
        requests_per_minute=_whole(fields, "requests_per_minute"),
        tokens_per_minute=_whole(fields, "tokens_per_minute"),
        concurrency=_whole(fields, "concurrency"),
    )


def read_usage(given: Mapping[str, Sequence[str]]) -> UsageAsk:
    """What a query string asks for. Raises InvalidRequest naming the field."""
    known = (*_TEXT_FILTERS, "tag", "since", "until", "by", "limit", "after")
    for name, values in given.items():
        if name not in known:
            raise UnsupportedField(
                f"{name[:100]}: is not known here; possible are {', '.join(known)}.", param=name[:100]
            )
        if len(values) > 1:
            raise InvalidRequest(f"{name}: is given {len(values)} times; give it once.", param=name)
    query = {name: values[0] for name, values in given.items()}
    which = UsageFilter(
        equals={name: query[name] for name in _TEXT_FILTERS if name in query},
        tag=query.get("tag"),
        since_s=_moment("since", query["since"]) if "since" in query else None,
        until_s=_moment("until", query["until"]) if "until" in query else None,
    )
    by = tuple(dict.fromkeys(part.strip() for part in query["by"].split(","))) if "by" in query else None
    if by is not None and len(by) > MAX_BY:
        raise InvalidRequest(f"by: {len(by)} given; give at most {MAX_BY}.", param="by")
    limit = _in_query(query, "limit", 100, 1, MAX_PAGE)
    after = _in_query(query, "after", 0, 1, 2**63 - 1) if "after" in query else None
    return UsageAsk(UsageQuery(which=which, limit=limit, after=after), by)


def encode_keys(keys: Iterable[IssuedKey]) -> bytes:
    """A list of keys."""
    return _list([_key(one) for one in keys])


def encode_key(key: IssuedKey, text: str | None = None) -> bytes:
    """One key; `text` is the key itself, told when it is issued."""
    return msgspec.json.encode(_key(key) | ({} if text is None else {"secret": text}))


def encode_budgets(budgets: Iterable[BudgetState]) -> bytes:
    """A list of budgets."""
    return _list([_budget(one) for one in budgets])


def encode_budget(budget: BudgetState) -> bytes:
    """One budget."""
    return msgspec.json.encode(_budget(budget))


def encode_limits(limits: Iterable[LimitRule]) -> bytes:
    """A list of limits."""
    return _list([_limit(one) for one in limits])


def encode_limit(limit: LimitRule) -> bytes:
    """One limit."""
    return msgspec.json.encode(_limit(limit))


def encode_standings(standings: Sequence[Standing]) -> bytes:
    """What a caller sees of its own budgets."""
    return msgspec.json.encode({"object": "accounts.me", "budgets": [_standing(one) for one in standings]})


def encode_deleted(kind: str, name: str) -> bytes:
    """The answer to a deletion."""
    return msgspec.json.encode({"object": f"accounts.{kind}.deleted", "name": name, "deleted": True})


def encode_records(page: UsagePage) -> bytes:
    """A page of single records; `last` is what the next page comes after."""
    data = [
        {"object": "accounts.usage", "number": number}
        | {name: getattr(record, name) for name in _RECORD_FIELDS}
        | {"cost": record.cost_nanos / NANOS, "saved": record.saved_nanos / NANOS}
        for number, record in page.records
    ]
    last = page.records[-1][0] if page.records else None
    return msgspec.json.encode({"object": "list", "data": data, "has_more": page.has_more, "last": last})


def encode_sums(sums: Iterable[UsageSum]) -> bytes:
    """Sums by group."""
    return _list(
        [
            {
                "object": "accounts.usage.sum",
                "group": dict(one.group),
                "num_requests": one.num_requests,
                "num_failed": one.num_failed,
                "prompt_tokens": one.prompt_tokens,
                "cached_tokens": one.cached_tokens,
                "completion_tokens": one.completion_tokens,
                "cost": one.cost_nanos / NANOS,
                "cost_nanos": one.cost_nanos,
                "saved": one.saved_nanos / NANOS,
                "saved_nanos": one.saved_nanos,
            }
            for one in sums
        ]
    )


def _list(data: list[dict[str, Any]]) -> bytes:
    return msgspec.json.encode({"object": "list", "data": data, "has_more": False})


def _key(one: IssuedKey) -> dict[str, Any]:
    rights = one.rights
    return {
        "object": "accounts.key",
        "name": one.name,
        "tenant": rights.tenant,
        "scopes": sorted(rights.scopes),
        "priority": rights.priority,
        "share": rights.share,
        "user": rights.user,
        "tags": list(rights.tags),
        "labels": sorted(rights.labels),
        "routes": sorted(rights.routes),
        "created": one.created_s,
        "expires": rights.expires_s,
        "is_disabled": one.is_disabled,
        "is_fixed": one.is_fixed,
    }


def _budget(one: BudgetState) -> dict[str, Any]:
    rule = one.rule
    return {
        "object": "accounts.budget",
        "name": rule.name,
        "subject": rule.subject,
        "window": rule.window,
        "money": rule.money,
        "tokens": rule.tokens,
        "is_fixed": rule.is_fixed,
        "standings": [_standing(standing) for standing in one.standings],
        "has_more": one.has_more,
    }


def _standing(one: Standing) -> dict[str, Any]:
    left = one.left_nanos
    return {
        "budget": one.budget,
        "subject": one.subject,
        "window": one.window,
        "started_at": one.started_s,
        "resets_at": one.resets_s,
        "spent": one.spent_nanos / NANOS,
        "spent_nanos": one.spent_nanos,
        "reserved": one.reserved_nanos / NANOS,
        "reserved_nanos": one.reserved_nanos,
        "left": None if left is None else left / NANOS,
        "left_nanos": left,
        "spent_tokens": one.spent_tokens,
        "reserved_tokens": one.reserved_tokens,
        "left_tokens": one.left_tokens,
    }


def _limit(one: LimitRule) -> dict[str, Any]:
    return {
        "object": "accounts.limit",
        "name": one.name,
        "subject": one.subject,
        "requests_per_minute": one.requests_per_minute,
        "tokens_per_minute": one.tokens_per_minute,
        "concurrency": one.concurrency,
        "is_fixed": one.is_fixed,
    }


def _object(body: bytes, known: Sequence[str]) -> dict[str, Any]:
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"body: not valid JSON ({error}); send an object with {', '.join(known)}.") from error
    if not isinstance(fields, dict):
        raise InvalidRequest(f"body: not a JSON object; send one with {', '.join(known)}.")
    for name in fields:
        if name not in known:
            raise UnsupportedField(
                f"{name[:100]}: is not known here; possible are {', '.join(known)}.", param=name[:100]
            )
    return fields


def _needed(fields: Mapping[str, Any], name: str) -> str:
    text = _text(fields, name)
    if not text:
        raise InvalidRequest(f"{name}: is missing; give a text.", param=name)
    return text


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not (isinstance(value, str) and len(value) <= _MAX_TEXT):
        raise InvalidRequest(f"{name}: {show(value)} is not a text of at most {_MAX_TEXT} characters.", param=name)
    return value


def _texts(fields: Mapping[str, Any], name: str) -> list[str]:
    if (value := fields.get(name)) is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) and 0 < len(one) <= _MAX_TEXT for one in value):
        raise InvalidRequest(f"{name}: {show(value)} is not a list of texts with something in them.", param=name)
    return value


def _whole(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is not None and type(value) is not int:
        raise InvalidRequest(f"{name}: {show(value)} is not a whole number.", param=name)
    return value


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InvalidRequest(f"{name}: {show(value)} is not a number.", param=name)
    return float(value)


def _in_query(query: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise InvalidRequest(f"{name}: {text[:100]!r} is not a whole number in [{least}, {most}].", param=name)
    return int(text)


def _moment(name: str, value: Any) -> float:
    """Unix seconds, or a date and perhaps a time, in UTC unless it says otherwise."""
    readers: tuple[Callable[[Any], float], ...] = (_seconds, _date)
    for read in readers:
        try:
            return read(value)
        except (ValueError, TypeError, OverflowError):
            continue
    raise InvalidRequest(
        f"{name}: {show(value)} is neither Unix seconds nor a date such as 2026-11-26 or 2026-11-26T12:00:00Z.",
        param=name,
    )


def _seconds(value: Any) -> float:
    seconds = math.nan if isinstance(value, bool) else float(value)
    if not 0 <= seconds < 253_402_300_800:  # the year 10000
        raise ValueError(value)
    return seconds


def _date(value: Any) -> float:
    moment = datetime.fromisoformat(value)
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()
