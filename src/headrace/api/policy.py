"""Questions to the policies: `POST /v1/policy/decide`, and which are in force: `GET /v1/policy`. Knows no policies."""

from typing import Annotated, Any, Literal

import msgspec

from headrace.api.openai_refusal import refuse_body
from headrace.core.deciding import PoliciesInForce
from headrace.core.policy import Question, Value
from headrace.core.request import Principal
from headrace.core.trust import Decision

MAX_QUESTIONS = 64

Texts = Annotated[list[Annotated[str, msgspec.Meta(max_length=4096)]], msgspec.Meta(max_length=256)]
Given = dict[str, bool | int | Annotated[str, msgspec.Meta(max_length=4096)] | Texts]


class AskedQuestion(msgspec.Struct, forbid_unknown_fields=True):
    """May the caller do `action` to `resource`? See `headrace policy schema` for attributes and context."""

    resource: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    action: Literal["request", "route", "tool"] = "tool"
    attributes: Given = {}
    context: Given = {}


class DecideBody(msgspec.Struct, forbid_unknown_fields=True):
    """Up to 64 questions."""

    questions: Annotated[list[AskedQuestion], msgspec.Meta(min_length=1, max_length=MAX_QUESTIONS)]


class DecisionAnswer(msgspec.Struct):
    """What is decided. `is_enforced` is false where policies are only watched."""

    action: str
    resource: str
    is_allowed: bool
    is_enforced: bool
    policies: list[str]
    reason: str


class DecideAnswer(msgspec.Struct):
    """In the order of the questions."""

    object: Literal["list"]
    data: list[DecisionAnswer]


class PolicyAnswer(msgspec.Struct):
    """A policy. Decisions name it by its `id`; `place` is FILE:LINE, `text` its Cedar."""

    object: Literal["policy"]
    id: str
    place: str
    effect: Literal["permit", "forbid"]
    reason: str
    text: str


class PoliciesAnswer(msgspec.Struct):
    """The policies in force."""

    object: Literal["list"]
    mode: Literal["off", "shadow", "enforce"]
    data: list[PolicyAnswer]


_MODES: dict[str, Literal["off", "shadow", "enforce"]] = {"off": "off", "shadow": "shadow", "enforce": "enforce"}
_decode = msgspec.json.Decoder(DecideBody).decode


def decode_questions(body: bytes, principal: Principal) -> tuple[Question, ...]:
    """What a caller asks about itself. Raises InvalidRequest naming the field."""
    try:
        asked = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, body, DecideBody)
    return tuple(
        Question(
            principal=principal,
            action=one.action,
            resource=one.resource,
            attributes=_values(one.attributes),
            context=_values(one.context),
        )
        for one in asked.questions
    )


def encode_decisions(decisions: tuple[Decision, ...]) -> bytes:
    """The answer's body."""
    data = [
        DecisionAnswer(
            action=one.action,
            resource=one.resource,
            is_allowed=one.is_allowed,
            is_enforced=one.is_enforced,
            policies=list(one.policies),
            reason=one.reason,
        )
        for one in decisions
    ]
    return msgspec.json.encode(DecideAnswer(object="list", data=data))


def encode_policies(shown: PoliciesInForce) -> bytes:
    """The answer's body."""
    data = [
        PolicyAnswer("policy", one.id, one.place, "forbid" if one.is_forbid else "permit", one.reason, one.text)
        for one in shown.policies
    ]
    return msgspec.json.encode(PoliciesAnswer("list", _MODES[shown.mode], data))


def _values(given: dict[str, Any]) -> dict[str, Value]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
