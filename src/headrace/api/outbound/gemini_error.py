"""How Gemini's API says no (google.rpc.Status), as our errors: by its status, or by that of HTTP where there is none.

What each means to our caller is said in `refusals.py`. Knows no streams.
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from headrace.api.outbound.gemini_frames import ERRORS, Status
from headrace.api.outbound.refusals import Refusal, explain_refusal, retry_after_s
from headrace.core.errors import HeadraceError
from headrace.core.gateway import Headers

# google.rpc.Code -> the HTTP status that it has or should have.
STATUSES: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 400,
    "UNAUTHENTICATED": 401,
    "FAILED_PRECONDITION": 402,  # no billing, or not from this country: the operator's to mend
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 500,
    "UNKNOWN": 500,
    "INTERNAL": 500,
    "ABORTED": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}

# A wrong key is an invalid argument to Gemini.
_KEY: Final = "API_KEY_"
_TOO_LONG: Final = re.compile(r"exceeds the maximum number of tokens", re.IGNORECASE)
_DELAY: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


class _Body(msgspec.Struct):
    error: Status | None = None


def read_error(status: int, headers: Headers, body: bytes) -> HeadraceError:
    """What a refusal means to our caller."""
    try:
        # A stream's refusal may come as a list of one.
        read: list[_Body] | _Body = msgspec.json.decode(body, type=list[_Body] | _Body)
        first = (read[0] if read else _Body()) if isinstance(read, list) else read
        said = first.error or Status()
    except ERRORS:
        said = Status()
    return explain(said, status, retry_after_s(headers))


def explain(said: Status, status: int, after_s: float | None = None) -> HeadraceError:
    """The error that a status means."""
    details = said.details or []
    code = said.status
    if any(isinstance(one.reason, str) and one.reason.startswith(_KEY) for one in details):
        code = "invalid_api_key"
    elif _TOO_LONG.search(said.message):
        code = "context_length_exceeded"
    delays = [_DELAY.fullmatch(one.retry_delay) for one in details if isinstance(one.retry_delay, str)]
    if after_s is None:
        after_s = next((float(found[1]) for found in delays if found), None)
    return explain_refusal(
        STATUSES.get(said.status, status), Refusal(message=said.message, code=code, retry_after_s=after_s)
    )
