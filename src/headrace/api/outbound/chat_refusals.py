"""Errors in the words of OpenAI's routes and of those who speak them too: whole bodies, and frames of a stream.

Seen in bodies: `{"error": {...}}`, `{"error": "..."}` (Ollama), FastAPI's `{"detail": ...}`, vLLM's older
`{"object": "error", "message": ...}`, `{"message": ...}` (Mistral, Cohere), text, HTML, nothing.
"""

from typing import Any, Final

import msgspec

from headrace.api.outbound.refusals import Refusal, explain_refusal, retry_after_s
from headrace.core.errors import HeadraceError
from headrace.core.gateway import Headers

# Types and codes that stand for a status, where a stream's error has none.
_STATUSES: Final = {
    "invalid_request_error": 400,
    "BadRequestError": 400,
    "context_length_exceeded": 400,
    "exceed_context_size_error": 400,
    "authentication_error": 401,
    "permission_error": 401,
    "not_found_error": 404,
    "NotFoundError": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "overloaded": 503,
    "overloaded_error": 503,
    "unavailable_error": 503,
    "timeout_error": 504,
}
_WORDS: Final = ("message", "detail", "error", "msg")
_MAX_DEPTH: Final = 4


def read_error(status: int, headers: Headers, body: bytes) -> HeadraceError:
    """What a refusal means to our caller."""
    try:
        told: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        told = None
    if isinstance(told, dict) and isinstance(told.get("error"), dict):
        told = told["error"]
    return explain_refusal(status, _refusal(told, retry_after_s(headers)))


def read_error_event(data: bytes) -> HeadraceError:
    """What an event of a stream that is named `error` means to our caller."""
    try:
        told: Any = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        told = None
    return read_error_frame(told.get("error") or told if isinstance(told, dict) else told)


def read_error_frame(error: object) -> HeadraceError:
    """What the `error` of a stream or of a body with status 200 means to our caller."""
    refusal = _refusal(error, None)
    status = 502
    if isinstance(error, dict):
        code = error.get("code")
        named = [one for one in (code, error.get("type")) if isinstance(one, str) and one in _STATUSES]
        if type(code) is int and 400 <= code < 600:
            status = code
        elif named:
            status = _STATUSES[named[0]]
    return explain_refusal(status, refusal)


def _refusal(told: object, after_s: float | None) -> Refusal:
    fields = told if isinstance(told, dict) else {}
    codes = [one for name in ("code", "type") if isinstance(one := fields.get(name), str) and one]
    param = fields.get("param")
    return Refusal(
        message=_words(told, _MAX_DEPTH),
        code=codes[0] if codes else "",
        param=param if isinstance(param, str) and param else None,
        retry_after_s=after_s,
    )


def _words(told: object, depth: int) -> str:
    """The sentence in an error of whatever shape; FastAPI tells a list of what is wrong."""
    if isinstance(told, str):
        return told
    if depth and isinstance(told, list):
        return "; ".join(filter(None, (_words(one, depth - 1) for one in told[:8])))
    if depth and isinstance(told, dict):
        return next(filter(None, (_words(told.get(name), depth - 1) for name in _WORDS)), "")
    return ""
