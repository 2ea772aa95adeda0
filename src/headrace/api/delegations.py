"""Revoked delegations: `/v1/delegations/revoked`. Knows no tokens."""

from typing import Annotated, Literal

import msgspec

from headrace.api.openai_refusal import refuse_body
from headrace.core.delegating import Revoked

MAX_IDS = 256


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
