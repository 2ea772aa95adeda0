"""How Anthropic's Messages says no, as our errors: by the kind of the error, or by the status where there is none.

Source: platform.claude.com/docs, errors. What each means to our caller is said in `refusals.py`. Knows no streams.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from headrace.api.outbound.messages_frames import Frame, Problem
from headrace.api.outbound.refusals import Refusal, explain_refusal, retry_after_s
from headrace.core.errors import HeadraceError
from headrace.core.gateway import Headers

# The status that a kind of error comes with, where a stream has none.
STATUSES: Final[Mapping[str, int]] = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}

# Kinds that are told by their words alone: how the sentence begins, and the code that it has elsewhere.
_BEGINNINGS: Final = {
    "prompt is too long": "context_length_exceeded",
    "input length and `max_tokens` exceed context limit": "context_length_exceeded",
    "Your credit balance is too low": "insufficient_quota",
}


def read_error(status: int, headers: Headers, body: bytes) -> HeadraceError:
    """What a refusal means to our caller."""
    try:
        problem = msgspec.json.decode(body, type=Frame).error or Problem()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        problem = Problem()
    return _explain(STATUSES.get(problem.type, status), problem, retry_after_s(headers))


def carried_error(frame: Frame) -> HeadraceError:
    """The error of an `error` event."""
    problem = frame.error or Problem()
    return _explain(STATUSES.get(problem.type, 500), problem, None)


def _explain(status: int, problem: Problem, after_s: float | None) -> HeadraceError:
    code = next((code for words, code in _BEGINNINGS.items() if problem.message.startswith(words)), problem.type)
    return explain_refusal(status, Refusal(message=problem.message, code=code, retry_after_s=after_s))
