"""What a backend's refusal means to our caller: its status and words become one of our errors, by table.

Credentials and credit are the operator's, so a refusal of them reads as a backend that failed, without its words. A
server's own failures keep their words only where a protocol's error carried them; pages of proxies say nothing. Knows
no protocol: each reads what was said out of its own shape.
"""

import email.utils
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from headrace.core.errors import (
    ContextTooLong,
    HeadraceError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    UpstreamDenied,
    UpstreamFault,
    UpstreamTimeout,
)
from headrace.core.gateway import Headers

MAX_WORDS: Final = 1000
"""Characters of a backend's words that are repeated."""

_OURS: Final = "the backend refused the gateway's credentials; whoever runs the gateway has to mend its key or credit."
_CONTEXT_CODES: Final = ("context_length_exceeded", "exceed_context_size_error")
_CREDIT_CODES: Final = ("insufficient_quota", "billing_hard_limit_reached", "invalid_api_key", "account_deactivated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What was said: words, a code or type, a field; empty or None where nothing was."""

    message: str = ""
    code: str = ""
    param: str | None = None
    retry_after_s: float | None = None


def _invalid(refusal: Refusal) -> HeadraceError:
    words = refusal.message[:MAX_WORDS] or "the backend refuses the request and does not say why."
    if refusal.code in _CONTEXT_CODES or "maximum context length" in words:
        return ContextTooLong(words, param=refusal.param)
    return InvalidRequest(words, param=refusal.param)


def _missing(refusal: Refusal) -> HeadraceError:
    if not refusal.message:  # a page of some server, not the protocol's answer: the URL is wrong
        return UpstreamFault("the backend has no such route; whoever runs the gateway has to mend its URL.")
    return NotFound(refusal.message[:MAX_WORDS], param=refusal.param or "model")


def _too_large(refusal: Refusal) -> HeadraceError:
    return PayloadTooLarge(refusal.message[:MAX_WORDS] or "the request is larger than the backend takes.")


def _headers_too_large(refusal: Refusal) -> HeadraceError:
    return InvalidRequest("the headers of the request are larger than the backend takes; send fewer.")


def _limited(refusal: Refusal) -> HeadraceError:
    return RateLimited(
        "the backend takes no more requests for now; try again later.", retry_after_s=refusal.retry_after_s
    )


def _overloaded(refusal: Refusal) -> HeadraceError:
    return Overloaded("the backend is overloaded; try again later.", retry_after_s=refusal.retry_after_s)


def _late(refusal: Refusal) -> HeadraceError:
    return UpstreamTimeout("the backend, or what stands before it, did not answer in time.")


_BY_STATUS: Final[dict[int, Callable[[Refusal], HeadraceError]]] = {
    400: _invalid,
    404: _missing,
    408: _late,
    409: _invalid,  # an idempotency key that is another request's
    413: _too_large,
    414: _invalid,
    422: _invalid,
    431: _headers_too_large,
    429: _limited,
    503: _overloaded,
    504: _late,
    529: _overloaded,
}


def explain_refusal(status: int, refusal: Refusal) -> HeadraceError:
    """The error that a status and what came with it mean to our caller."""
    error = _explain(status, refusal)
    error.quotes = bool(refusal.message)
    return error


def _explain(status: int, refusal: Refusal) -> HeadraceError:
    if status == 403:
        return UpstreamDenied(_OURS)
    if status in (401, 402) or refusal.code in _CREDIT_CODES:
        return UpstreamFault(_OURS)
    found = _BY_STATUS.get(status)
    if found is not None:
        return found(refusal)
    words = f": {refusal.message[:MAX_WORDS]}" if refusal.message else "."
    return UpstreamFault(f"the backend failed with status {status}{words}", retry_after_s=refusal.retry_after_s)


def retry_after_s(headers: Headers) -> float | None:
    """When a backend says that it can be asked again, in seconds from its answer, None if it does not.

    RFC 9110, section 10.2.3, and the vendors' `retry-after-ms`.
    """
    told = {name: value for name, value in headers if name in (b"retry-after", b"retry-after-ms", b"date")}
    for name, unit in ((b"retry-after-ms", 0.001), (b"retry-after", 1.0)):
        value = told.get(name, b"").strip()
        if value.isdigit() and len(value) < 10:
            return int(value) * unit
    try:
        until = email.utils.parsedate_to_datetime(told[b"retry-after"].decode("ascii"))
        now = email.utils.parsedate_to_datetime(told[b"date"].decode("ascii"))
        return max(0.0, (until - now).total_seconds())
    except (KeyError, ValueError, TypeError, OverflowError):
        return None
