"""A gateway's backends for its operators: `GET /v1/gateway/backends`, `POST /v1/gateway/backends/{name}/drain` and
`/resume`. Ours, in the shape of OpenAI's lists. Knows no gateway.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from headrace.core.service import BackendState, ModelState

_DIGITS = 6


class ModelAnswer(msgspec.Struct):
    """One model of a backend as requests have found it."""

    id: str
    breaker: Literal["closed", "open", "trying", "resting"]
    num_failed: int
    retry_in_s: float | None
    num_in_flight: int
    seconds_per_token: float | None
    output_tokens: float | None


class BackendAnswer(msgspec.Struct):
    """One backend as it stands now."""

    id: str
    object: Literal["gateway.backend"]
    kind: str
    is_draining: bool
    health: Literal["well", "failing", "warming", "unchecked"]
    share: float
    last_error: str | None
    num_running: int
    num_waiting: int
    max_concurrency: int | None
    models: list[ModelAnswer]


class BackendsAnswer(msgspec.Struct):
    """All of them."""

    object: Literal["list"]
    data: list[BackendAnswer]


def encode_backends(backends: Iterable[BackendState]) -> bytes:
    """The list."""
    return msgspec.json.encode(BackendsAnswer("list", [_backend(one) for one in backends]))


def encode_backend(backend: BackendState) -> bytes:
    """One of them."""
    return msgspec.json.encode(_backend(backend))


def _backend(one: BackendState) -> BackendAnswer:
    return BackendAnswer(
        id=one.name,
        object="gateway.backend",
        kind=one.kind,
        is_draining=one.is_draining,
        health=one.health,
        share=round(one.share, _DIGITS),
        last_error=one.last_error or None,
        num_running=one.num_running,
        num_waiting=one.num_waiting,
        max_concurrency=one.max_concurrency,
        models=[_model(model) for model in one.models],
    )


def _model(one: ModelState) -> ModelAnswer:
    return ModelAnswer(
        id=one.name,
        breaker=one.breaker,
        num_failed=one.num_failed,
        retry_in_s=_rounded(one.retry_in_s),
        num_in_flight=one.num_in_flight,
        seconds_per_token=_rounded(one.seconds_per_token),
        output_tokens=_rounded(one.output_tokens),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
