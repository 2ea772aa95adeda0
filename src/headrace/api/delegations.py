"""Delegations that callers ask for, and those that were taken back: `/v1/delegations`. Knows no tokens."""

from typing import Annotated, Literal

import msgspec

from headrace.api.openai_refusal import refuse_body
from headrace.core.delegating import Delegated, DelegationOrder, Revoked
from headrace.core.trust import Effect

MAX_IDS = 256


Names = Annotated[list[Annotated[str, msgspec.Meta(min_length=1, max_length=256)]], msgspec.Meta(max_length=64)]
Amount = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class DelegateBody(msgspec.Struct, forbid_unknown_fields=True):
    """A part of the caller's own rights, `to` a SPIFFE ID or an agent's name, for `expires_in` seconds. `max_cost` is
    in the unit of the prices; null: not bounded by it, an empty list: nothing."""

    to: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    expires_in: Annotated[int, msgspec.Meta(ge=1, le=366 * 86_400)] = 3600
    models: Names | None = None
    tools: Names | None = None
    effects: list[Literal["read", "write", "egress"]] | None = None
    labels: Names | None = None
    max_cost: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None
    max_calls: Amount | None = None
    max_depth: Amount | None = None


class DelegatedAnswer(msgspec.Struct):
    """`token` is told this once; `id` takes it back, and all that is made of it."""

    id: str
    object: Literal["delegation"]
    token: str
    expires_at: float


class RevokeBody(msgspec.Struct, forbid_unknown_fields=True):
    """Ids of blocks, as `headrace delegate inspect` tells them."""

    ids: Annotated[
        list[Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{128}$")]], msgspec.Meta(min_length=1, max_length=MAX_IDS)
    ]
    reason: Annotated[str, msgspec.Meta(max_length=1024)] = ""


class RevokedAnswer(msgspec.Struct):
    """One that is void since `revoked_at`, Unix time in seconds."""

    id: str
    object: Literal["delegation.revoked"]
    revoked_at: float
    reason: str


class RevokedList(msgspec.Struct):
    """Oldest first."""

    object: Literal["list"]
    data: list[RevokedAnswer]


_decode = msgspec.json.Decoder(RevokeBody).decode
_decode_order = msgspec.json.Decoder(DelegateBody).decode
_NANOS = 10**9


def decode_order(body: bytes) -> DelegationOrder:
    """What is handed on. Raises InvalidRequest naming the field."""
    try:
        asked = _decode_order(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, body, DelegateBody)
    return DelegationOrder(
        to=asked.to,
        lifetime_s=float(asked.expires_in),
        models=None if asked.models is None else frozenset(asked.models),
        tools=None if asked.tools is None else frozenset(asked.tools),
        effects=None if asked.effects is None else frozenset(Effect[one.upper()] for one in asked.effects),
        labels=None if asked.labels is None else frozenset(asked.labels),
        max_cost_nanos=None if asked.max_cost is None else round(asked.max_cost * _NANOS),
        max_calls=asked.max_calls,
        max_depth=asked.max_depth,
    )


def encode_delegated(made: Delegated) -> bytes:
    """The answer's body."""
    return msgspec.json.encode(
        DelegatedAnswer(id=made.id, object="delegation", token=made.token, expires_at=made.expires_s)
    )


def decode_revocation(body: bytes) -> RevokeBody:
    """What is revoked. Raises InvalidRequest naming the field."""
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, body, RevokeBody)


def encode_revoked(revoked: tuple[Revoked, ...]) -> bytes:
    """The answer's body."""
    data = [
        RevokedAnswer(id=one.id, object="delegation.revoked", revoked_at=one.revoked_s, reason=one.reason)
        for one in revoked
    ]
    return msgspec.json.encode(RevokedList(object="list", data=data))
