"""The one table from `core.errors` to OpenAI's error shape, and the headers that say whether trying again can help.

Knows no sockets. A new class in `core.errors` needs a row here only where its OpenAI `type` differs from its parent's.
"""

import math

import msgspec

from headrace.core.errors import (
    DeadlineExceeded,
    EngineFault,
    HeadraceError,
    InvalidRequest,
    ModelFileError,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    Unauthenticated,
    Unavailable,
)

# `type` as OpenAI's clients know it; looked up along the class's ancestors, so the nearest row wins.
TYPES: dict[type[HeadraceError], str] = {
    InvalidRequest: "invalid_request_error",
    Unauthenticated: "invalid_request_error",  # OpenAI answers a wrong key with this type and code invalid_api_key
    NotFound: "invalid_request_error",
    PayloadTooLarge: "invalid_request_error",
    RateLimited: "rate_limit_error",
    DeadlineExceeded: "timeout_error",
    Overloaded: "server_error",
    Unavailable: "server_error",
    EngineFault: "server_error",
    ModelFileError: "server_error",
    HeadraceError: "invalid_request_error",
}

# Messages repeat values that a caller sent; a bound keeps a refusal smaller than what it refuses.
MAX_MESSAGE_CHARS = 2000


class ErrorBody(msgspec.Struct):
    """The four fields of OpenAI's error object, all always present."""

    message: str
    type: str
    param: str | None
    code: str | None


def error_type(error: HeadraceError) -> str:
    """OpenAI's `type` of an error: the row of its class or of its nearest ancestor."""
    return next(TYPES[cls] for cls in type(error).__mro__ if cls in TYPES)


def encode_error(error: HeadraceError) -> bytes:
    """`{"error": {...}}`, for a response body and for a line in a stream alike."""
    message = error.message
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[: MAX_MESSAGE_CHARS - 1] + "…"
    # A lone surrogate cannot be sent; it can only come from a defect, which must not hide the error itself.
    message = message.encode("utf-8", "replace").decode("utf-8")
    code = "model_not_found" if isinstance(error, NotFound) and error.param == "model" else error.code
    body = ErrorBody(message=message, type=error_type(error), param=error.param, code=code)
    return msgspec.json.encode({"error": body})


def error_headers(error: HeadraceError) -> list[tuple[bytes, bytes]]:
    """Headers that go with an error: OpenAI's clients obey `x-should-retry`, everybody else `retry-after`."""
    headers = [(b"x-should-retry", b"true" if error.retryable else b"false")]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", str(max(0, math.ceil(error.retry_after_s))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="headrace"'))
    elif error.status == 403:
        headers.append((b"www-authenticate", b'Bearer realm="headrace", error="insufficient_scope"'))
    return headers
