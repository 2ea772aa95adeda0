"""Endorsements as callers make and see them: `/v1/endorsements`. Knows no judge and no tools."""

from typing import Annotated, Literal

import msgspec

from headrace.api.openai_refusal import refuse_body
from headrace.core.endorsing import Endorsement, EndorsementOrder, WithheldCall

DAY_S = 86_400
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class EndorseBody(msgspec.Struct, forbid_unknown_fields=True):
    """Either `call`, the digest of one exact call, or `argument` and its exact `value`. `uses` null: any number."""

    tool: Text
    call: Annotated[str, msgspec.Meta(pattern="^sha256:[0-9a-f]{64}$")] | None = None
    argument: Text | None = None
    value: str | int | float | None = None
    session: Text | None = None
    subject: Text | None = None
    expires_in: Annotated[int, msgspec.Meta(ge=1, le=30 * DAY_S)] = 600
    uses: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] | None = 1
    reason: Annotated[str, msgspec.Meta(max_length=1024)] = ""


class EndorsementAnswer(msgspec.Struct):
    """One that holds until `expires_at`, Unix time, for `uses_left` more calls; null: any number."""

    id: str
    object: Literal["endorsement", "endorsement.withdrawn"]
    tool: str
    call: str | None
    argument: str | None
    value: str | int | float | None
    session: str | None
    subject: str | None
    by: str
    reason: str
    created_at: float
    expires_at: float
    uses_left: int | None
    num_used: int


class EndorsementList(msgspec.Struct):
    """Oldest first."""

    object: Literal["list"]
    data: list[EndorsementAnswer]


class DoubtAnswer(msgspec.Struct):
    """An argument that nobody trusted has said, `*`: none tells who asked for the call. `value` null: too long to be
    endorsed by itself, or there is no single one."""

    argument: str
    value: str | int | float | None


class WithheldAnswer(msgspec.Struct):
    """A call that was withheld. `arguments` are its JSON text, empty if that is too long to be shown."""

    object: Literal["endorsement.withheld"]
    tool: str
    call: str
    arguments: str
    in_doubt: list[DoubtAnswer]
    session: str | None
    subject: str
    request: str
    policies: list[str]
    reason: str
    withheld_at: float


class WithheldList(msgspec.Struct):
    """The latest last."""

    object: Literal["list"]
    data: list[WithheldAnswer]


_decode = msgspec.json.Decoder(EndorseBody).decode


def decode_order(body: bytes) -> EndorsementOrder:
    """What is endorsed. Raises InvalidRequest naming the field."""
    try:
        asked = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, body, EndorseBody)
    return EndorsementOrder(
        tool=asked.tool,
        lifetime_s=float(asked.expires_in),
        call=asked.call,
        argument=asked.argument,
        value=asked.value,
        session=asked.session,
        subject=asked.subject,
        uses=asked.uses,
        reason=asked.reason,
    )


def encode_endorsement(one: Endorsement, *, is_withdrawn: bool = False) -> bytes:
    """The answer's body."""
    return msgspec.json.encode(_told(one, is_withdrawn=is_withdrawn))


def encode_endorsements(kept: tuple[Endorsement, ...]) -> bytes:
    """The answer's body."""
    return msgspec.json.encode(EndorsementList(object="list", data=[_told(one) for one in kept]))


def encode_withheld(calls: tuple[WithheldCall, ...]) -> bytes:
    """The answer's body."""
    data = [
        WithheldAnswer(
            object="endorsement.withheld",
            tool=one.tool,
            call=one.call,
            arguments=one.arguments,
            in_doubt=[DoubtAnswer(argument=doubt.argument, value=_value(doubt.value)) for doubt in one.doubts],
            session=one.session,
            subject=one.subject,
            request=one.request_id,
            policies=list(one.policies),
            reason=one.reason,
            withheld_at=one.at_s,
        )
        for one in calls
    ]
    return msgspec.json.encode(WithheldList(object="list", data=data))


def _told(one: Endorsement, *, is_withdrawn: bool = False) -> EndorsementAnswer:
    return EndorsementAnswer(
        id=one.id,
        object="endorsement.withdrawn" if is_withdrawn else "endorsement",
        tool=one.tool,
        call=one.call,
        argument=one.argument,
        value=_value(one.value),
        session=one.session,
        subject=one.subject,
        by=one.by,
        reason=one.reason,
        created_at=one.made_s,
        expires_at=one.until_s,
        uses_left=one.uses,
        num_used=one.num_used,
    )


def _value(form: str | None) -> str | int | float | None:
    """What canonical JSON tells."""
    found: str | int | float | None = None if form is None else msgspec.json.decode(form, type=str | int | float)
    return found
