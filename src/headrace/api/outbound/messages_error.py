"""How Anthropic's Messages says no, as our errors: by the kind of the error, or by the status where there is none.

What is wrong with our own credentials at a backend is not the caller's to know or mend. Knows no streams.
"""

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from headrace.api.outbound.messages_frames import Frame, Problem
from headrace.core.errors import (
    ContextTooLong,
    HeadraceError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    UpstreamFault,
    UpstreamTimeout,
)
from headrace.core.gateway import Headers

MAX_MESSAGE_CHARS: Final = 1000

# Kind of error -> ours; source: platform.claude.com/docs, errors.
KINDS: Final[Mapping[str, type[HeadraceError]]] = {
    "invalid_request_error": InvalidRequest,
    "not_found_error": NotFound,
    "request_too_large": PayloadTooLarge,
    "rate_limit_error": RateLimited,
    "overloaded_error": Overloaded,
    "timeout_error": UpstreamTimeout,
    "api_error": UpstreamFault,
    # Ours to mend, and so without their words.
    "authentication_error": UpstreamFault,
    "permission_error": UpstreamFault,
    "billing_error": UpstreamFault,
}
OURS: Final = frozenset({"authentication_error", "permission_error", "billing_error"})

STATUSES: Final[Mapping[int, str]] = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    422: "invalid_request_error",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}

# An account without money is a caller's mistake in their words, and not in ours.
_UNPAID: Final = "Your credit balance is too low"

# How Anthropic's servers begin the sentence about a prompt that does not fit.
_TOO_LONG: Final = ("prompt is too long", "input length and `max_tokens` exceed context limit")


def read_error(status: int, headers: Headers, body: bytes) -> HeadraceError:
    """What a refusal means to our caller."""
    try:
        problem = msgspec.json.decode(body, type=Frame).error or Problem()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        problem = Problem()
    kind = problem.type if problem.type in KINDS else STATUSES.get(status, "api_error")
    return make_error(kind, problem.message, retry_after_s(headers), status)


def make_error(kind: str, said: str, after_s: float | None = None, status: int | None = None) -> HeadraceError:
    """An error of a kind, in its maker's words where they are the caller's business."""
    found: Callable[..., HeadraceError] = KINDS.get(kind, UpstreamFault)
    seen = "" if status is None else f" with status {status}"
    if kind in OURS or said.startswith(_UNPAID):
        return UpstreamFault(
            f"the backend did not accept this gateway's own credentials{seen}; an operator must mend it."
        )
    message = said[:MAX_MESSAGE_CHARS] or f"the backend refused the request{seen} and said no more"
    if found is InvalidRequest and message.startswith(_TOO_LONG):
        found = ContextTooLong
    return found(message, retry_after_s=after_s)


def retry_after_s(headers: Headers) -> float | None:
    """Seconds of a `retry-after` header, None without one that is a number."""
    for name, value in headers:
        if name.lower() == b"retry-after" and value.strip().isdigit():
            return float(value)
    return None
