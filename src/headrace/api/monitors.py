"""What monitors have against accounts, for operators: `GET /v1/monitors`, `POST /v1/monitors/clear`. Ours, in the shape
of OpenAI's lists. Knows no monitor.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from headrace.api.openai_refusal import refuse_body
from headrace.core.errors import InvalidRequest
from headrace.core.monitors import Flag, Monitors


class FlagAnswer(msgspec.Struct):
    """One thing that is held against an account; times are Unix time."""

    account: str
    object: Literal["monitor.flag"]
    tenant: str
    monitor: str
    score: float
    action: Literal["note", "label", "throttle", "refuse"]
    reason: str
    count: int
    since: int
    last: int
    evidence: str | None
    is_shadow: bool


class MonitorsAnswer(msgspec.Struct):
    """All of them."""

    object: Literal["list"]
    mode: Literal["shadow", "enforce"]
    num_unwatched: int
    data: list[FlagAnswer]


class ClearBody(msgspec.Struct, forbid_unknown_fields=True):
    """Whose flags are taken back."""

    account: str


class ClearAnswer(msgspec.Struct):
    """Those that there were."""

    object: Literal["list"]
    data: list[FlagAnswer]


def encode_monitors(monitors: Monitors) -> bytes:
    """What they have."""
    mode: Literal["shadow", "enforce"] = "enforce" if monitors.mode == "enforce" else "shadow"
    return msgspec.json.encode(MonitorsAnswer("list", mode, monitors.num_unwatched, _all(monitors.flags())))


def encode_cleared(flags: Iterable[Flag]) -> bytes:
    """What they had."""
    return msgspec.json.encode(ClearAnswer("list", _all(flags)))


def decode_clear(data: bytes) -> str:
    """Whose flags are to be taken back. Raises InvalidRequest."""
    try:
        account = msgspec.json.decode(data, type=ClearBody).account
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, ClearBody)
    if not account:
        raise InvalidRequest("account: is empty; GET /v1/monitors lists those that are flagged.", param="account")
    return account


def _all(flags: Iterable[Flag]) -> list[FlagAnswer]:
    return [
        FlagAnswer(
            account=one.account,
            object="monitor.flag",
            tenant=one.tenant,
            monitor=one.monitor,
            score=one.score,
            action=one.action,  # type: ignore[arg-type]
            reason=one.reason,
            count=one.count,
            since=int(one.since_s),
            last=int(one.last_s),
            evidence=one.evidence_id or None,
            is_shadow=one.is_shadow,
        )
        for one in flags
    ]
