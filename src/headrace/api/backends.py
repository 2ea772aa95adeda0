"""A gateway's backends for its operators: `GET /v1/gateway/backends`, `POST /v1/gateway/backends/{name}/drain` and
`/resume`. Ours, in the shape of OpenAI's lists. Knows no gateway.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from headrace.core.service import BackendState, ModelState

_DIGITS = 6


def encode_backends(backends: Iterable[BackendState]) -> bytes:
    """The list."""
    return msgspec.json.encode({"object": "list", "data": [_backend(one) for one in backends]})


def encode_backend(backend: BackendState) -> bytes:
    """One of them."""
    return msgspec.json.encode(_backend(backend))


def _backend(one: BackendState) -> dict[str, Any]:
    return {
        "id": one.name,
        "object": "gateway.backend",
        "kind": one.kind,
        "is_draining": one.is_draining,
        "health": one.health,
        "share": round(one.share, _DIGITS),
        "last_error": one.last_error or None,
        "num_running": one.num_running,
        "num_waiting": one.num_waiting,
        "max_concurrency": one.max_concurrency,
        "models": [_model(model) for model in one.models],
    }


def _model(one: ModelState) -> dict[str, Any]:
    return {
        "id": one.name,
        "breaker": one.breaker,
        "num_failed": one.num_failed,
        "retry_in_s": _rounded(one.retry_in_s),
        "num_in_flight": one.num_in_flight,
        "seconds_per_token": _rounded(one.seconds_per_token),
        "output_tokens": _rounded(one.output_tokens),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, _DIGITS)
