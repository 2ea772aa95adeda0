"""The one place that turns `core.errors` into each dialect's error shape, and the headers that say whether trying again
can help.

Knows no sockets. A new class in `core.errors` needs a row in a table here only where it differs from its parent's. A
stream that has begun ends with a dialect's `frame`; there the status can say nothing any more.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from headrace.api.sse import encode_frame
from headrace.core.errors import (
    DeadlineExceeded,
    EngineFault,
    Forbidden,
    HeadraceError,
    InvalidRequest,
    ModelFileError,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    Unauthenticated,
    Unavailable,
    UpstreamFault,
)

# Messages repeat values that a caller sent; a bound keeps a refusal smaller than what it refuses.
MAX_MESSAGE_CHARS: Final = 2000
# OpenAI's clients do not wait longer, and give up at once if they are told to.
MAX_RETRY_AFTER_S: Final = 120

UNSUPPORTED_THREAD: Final = "thread_unsupported_request"
"""The one code that Anthropic's clients read: they then do without conversations that the server holds."""

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
    UpstreamFault: "server_error",
    ModelFileError: "server_error",
    HeadraceError: "invalid_request_error",
}

# The same as Anthropic's clients know it.
ANTHROPIC_TYPES: dict[type[HeadraceError], str] = {
    InvalidRequest: "invalid_request_error",
    Unauthenticated: "authentication_error",
    Forbidden: "permission_error",
    NotFound: "not_found_error",
    PayloadTooLarge: "request_too_large",
    RateLimited: "rate_limit_error",
    DeadlineExceeded: "timeout_error",
    Overloaded: "overloaded_error",
    Unavailable: "overloaded_error",
    EngineFault: "api_error",
    UpstreamFault: "api_error",
    ModelFileError: "api_error",
    HeadraceError: "invalid_request_error",
}


@dataclass(frozen=True, slots=True)
class ErrorDialect:
    """How one protocol says no.

    `body` makes the JSON of an error from it and the request's id, for a whole response and for a frame alike;
    `statuses` are the HTTP statuses that differ from `core.errors`; `id_header` is the header that its clients look for
    the request's id in, beside x-request-id.
    """

    name: str
    body: Callable[[HeadraceError, str], bytes]
    frame: Callable[[bytes], bytes]
    statuses: Mapping[type[HeadraceError], int] = field(default_factory=dict)
    id_header: bytes | None = None

    def status(self, error: HeadraceError) -> int:
        """The HTTP status of an error."""
        return next((self.statuses[cls] for cls in type(error).__mro__ if cls in self.statuses), error.status)

    def encode_frame(self, error: HeadraceError, request_id: str) -> bytes:
        """What ends a stream that has begun."""
        return self.frame(self.body(error, request_id))


def error_type(error: HeadraceError) -> str:
    """OpenAI's `type` of an error: the row of its class or of its nearest ancestor."""
    return _look_up(error, TYPES)


def error_message(error: HeadraceError) -> str:
    """The sentence, no longer than MAX_MESSAGE_CHARS."""
    message = error.message
    if len(message) > MAX_MESSAGE_CHARS:
        message = message[: MAX_MESSAGE_CHARS - 1] + "…"
    # A lone surrogate cannot be sent; it can only come from a defect, which must not hide the error itself.
    return message.encode("utf-8", "replace").decode("utf-8")


def error_code(error: HeadraceError) -> str:
    """OpenAI's `code` of an error."""
    return "model_not_found" if isinstance(error, NotFound) and error.param == "model" else error.code


def error_fields(error: HeadraceError) -> dict[str, Any]:
    """The four fields of OpenAI's error object, all always present."""
    return {
        "message": error_message(error),
        "type": error_type(error),
        "param": error.param,
        "code": error_code(error),
    }


def encode_error(error: HeadraceError, request_id: str = "") -> bytes:
    """OpenAI's `{"error": {...}}`."""
    return msgspec.json.encode({"error": error_fields(error)})


def encode_anthropic_error(error: HeadraceError, request_id: str) -> bytes:
    """Anthropic's `{"type": "error", ...}`; its clients read type and message alone."""
    body: dict[str, Any] = {"type": _look_up(error, ANTHROPIC_TYPES), "message": error_message(error)}
    if error.code == UNSUPPORTED_THREAD:
        body["details"] = {"error_code": error.code}
    return msgspec.json.encode({"type": "error", "error": body, "request_id": request_id})


def encode_ollama_error(error: HeadraceError, request_id: str) -> bytes:
    """Ollama's `{"error": "..."}`."""
    return msgspec.json.encode({"error": error_message(error)})


def error_headers(error: HeadraceError) -> list[tuple[bytes, bytes]]:
    """Headers that go with an error: the vendors' clients obey `x-should-retry`, everybody else `retry-after`."""
    headers = [(b"x-should-retry", b"true" if error.retryable else b"false")]
    if error.retry_after_s is not None:
        # Who is told not to try again by itself is told the truth about when it helps, hours away as it may be.
        longest_s = MAX_RETRY_AFTER_S if error.retryable else error.retry_after_s
        seconds = max(0, math.ceil(min(error.retry_after_s, longest_s)))
        headers.append((b"retry-after", str(seconds).encode()))
    if isinstance(error, Unauthenticated):
        challenges = error.challenges or ('Bearer realm="headrace"',)
        headers += [(b"www-authenticate", challenge.encode("ascii", "replace")) for challenge in challenges]
        if error.nonce is not None:
            headers.append((b"dpop-nonce", error.nonce.encode("ascii", "replace")))
    elif error.status == 403:
        headers.append((b"www-authenticate", b'Bearer realm="headrace", error="insufficient_scope"'))
    return headers


def _look_up(error: HeadraceError, table: Mapping[type[HeadraceError], str]) -> str:
    return next(table[cls] for cls in type(error).__mro__ if cls in table)


def _anthropic_frame(body: bytes) -> bytes:
    return b"event: error\n" + encode_frame(body)


def _ollama_frame(body: bytes) -> bytes:
    return body + b"\n"


OPENAI: Final = ErrorDialect("openai", encode_error, encode_frame)
ANTHROPIC: Final = ErrorDialect(
    "anthropic",
    encode_anthropic_error,
    _anthropic_frame,
    # 529 is what Anthropic's clients know as "overloaded, try again".
    statuses={Overloaded: 529, Unavailable: 529, DeadlineExceeded: 504},
    id_header=b"request-id",
)
OLLAMA: Final = ErrorDialect("ollama", encode_ollama_error, _ollama_frame)
