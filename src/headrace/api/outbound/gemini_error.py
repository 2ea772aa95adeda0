"""How Gemini's API says no (google.rpc.Status), as our errors: by its status, or by that of HTTP where there is none.

What is wrong with our own credentials at a backend is not the caller's to know or mend. Knows no streams.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from headrace.api.outbound.gemini_frames import ERRORS, Status
from headrace.api.outbound.messages_error import MAX_MESSAGE_CHARS, retry_after_s
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

# google.rpc.Code -> ours.
KINDS: Final[Mapping[str, type[HeadraceError]]] = {
    "INVALID_ARGUMENT": InvalidRequest,
    "OUT_OF_RANGE": InvalidRequest,
    "UNIMPLEMENTED": InvalidRequest,
    "NOT_FOUND": NotFound,
    "RESOURCE_EXHAUSTED": RateLimited,
    "UNAVAILABLE": Overloaded,
    "DEADLINE_EXCEEDED": UpstreamTimeout,
    "INTERNAL": UpstreamFault,
    "UNKNOWN": UpstreamFault,
    "ABORTED": UpstreamFault,
    "CANCELLED": UpstreamFault,
    # Ours to mend, and so without their words.
    "FAILED_PRECONDITION": UpstreamFault,  # no billing, or not from this country
    "UNAUTHENTICATED": UpstreamFault,
    "PERMISSION_DENIED": UpstreamFault,
}
OURS: Final = frozenset({"FAILED_PRECONDITION", "UNAUTHENTICATED", "PERMISSION_DENIED"})

STATUSES: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}

# A wrong key is an invalid argument to Gemini.
_OUR_KEY: Final = "API_KEY_"
_TOO_LONG: Final = re.compile(
    r"input token count .* exceeds the maximum|exceeds the maximum number of tokens", re.IGNORECASE
)
_DELAY: Final = re.compile(r"(\d+(?:\.\d+)?)s")


class _Refusal(msgspec.Struct):
    error: Status | None = None


def read_error(status: int, headers: Headers, body: bytes) -> HeadraceError:
    """What a refusal means to our caller."""
    try:
        # A stream's refusal may come as a list of one.
        read: list[_Refusal] | _Refusal = msgspec.json.decode(body, type=list[_Refusal] | _Refusal)
        first = (read[0] if read else _Refusal()) if isinstance(read, list) else read
        said = first.error or Status()
    except ERRORS:
        said = Status()
    if status == 413:
        return PayloadTooLarge(said.message[:MAX_MESSAGE_CHARS] or "the backend found the request too large.")
    return make_error(said, status, retry_after_s(headers))


def make_error(said: Status, status: int, after_s: float | None = None) -> HeadraceError:
    """The error that a status means, in its maker's words where they are the caller's business."""
    kind = said.status if said.status in KINDS else STATUSES.get(said.code or status, "UNKNOWN")
    details = said.details or []
    is_key = any(isinstance(one.reason, str) and one.reason.startswith(_OUR_KEY) for one in details)
    if kind in OURS or is_key:
        return UpstreamFault(
            f"the backend did not accept this gateway's own credentials with status {status}; an operator must mend it."
        )
    message = (
        said.message[:MAX_MESSAGE_CHARS] or f"the backend refused the request with status {status} and said no more"
    )
    found: Callable[..., HeadraceError] = KINDS[kind]
    if found is InvalidRequest and _TOO_LONG.search(message):
        found = ContextTooLong
    for one in details:
        if isinstance(one.retry_delay, str) and (match := _DELAY.fullmatch(one.retry_delay)):
            after_s = float(match[1]) if after_s is None else after_s
    return found(message, retry_after_s=after_s)
