"""Why a request would go where it would: `POST /v1/gateway/explain`. Knows no routes and no settings."""

from typing import Annotated, Literal

import msgspec

from headrace.api.openai_refusal import refuse_body
from headrace.core.explanation import Explanation, Question, Verdict


class ExplainBody(msgspec.Struct, forbid_unknown_fields=True):
    """The request that nobody makes: what it would ask for, how long it would be, and whose it would be."""

    model: Annotated[str, msgspec.Meta(min_length=1)]
    tenant: str = "local"
    user: str | None = None
    session: str | None = None
    labels: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    prompt_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 100
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] | None = None
    text: str | None = None


class VerdictAnswer(msgspec.Struct):
    """One target. `place` is null for one that is not asked; `scores` are what each policy measured."""

    target: str
    route: str
    place: int | None
    reason: str
    is_fallback: bool
    scores: dict[str, float | None]
    max_prompt_and_answer_tokens: int
    max_cost: float
    max_tokens: int | None


class ExplainAnswer(msgspec.Struct):
    """The order now. `num_used` is how many of it a request can use; `refusal` is what its client would be told."""

    object: Literal["gateway.explanation"]
    model: str
    route: str
    policies: tuple[str, ...]
    reason: str
    refusal: str | None
    shadow: str | None
    num_used: int
    targets: list[VerdictAnswer]


_decode = msgspec.json.Decoder(ExplainBody).decode


def decode_question(body: bytes) -> Question:
    """What is asked. Raises InvalidRequest naming the field."""
    try:
        asked = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, body, ExplainBody)
    return Question(
        model=asked.model,
        tenant=asked.tenant,
        user=asked.user,
        session=asked.session,
        labels=frozenset(asked.labels),
        needs=frozenset(asked.needs),
        prompt_tokens=asked.prompt_tokens,
        max_tokens=asked.max_tokens,
        text=asked.text,
    )


def encode_explanation(told: Explanation) -> bytes:
    """The answer's body."""
    return msgspec.json.encode(
        ExplainAnswer(
            object="gateway.explanation",
            model=told.model,
            route=told.route,
            policies=told.policies,
            reason=told.reason,
            refusal=told.refusal,
            shadow=told.shadow,
            num_used=told.num_used,
            targets=[_verdict(one) for one in told.verdicts],
        )
    )


def _verdict(one: Verdict) -> VerdictAnswer:
    return VerdictAnswer(
        target=one.target,
        route=one.route,
        place=one.place,
        reason=one.reason,
        is_fallback=one.is_fallback,
        scores=dict(one.scores),
        max_prompt_and_answer_tokens=one.num_tokens,
        max_cost=one.cost_nanos / 1e9,
        max_tokens=one.max_tokens,
    )
