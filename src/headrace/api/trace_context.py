"""W3C Trace Context as a codec: the headers `traceparent` and `tracestate` to a value and back. No sockets.

What is malformed is as good as not there, and never an error: a `tracestate` without a valid `traceparent` is dropped,
and a malformed `tracestate` alone. Source: https://www.w3.org/TR/trace-context/ (level 1, recommendation, and level 2
where it only adds).
"""

import re
from collections.abc import Iterable
from typing import Final

from headrace.core.tracing import TraceContext

TRACEPARENT: Final = b"traceparent"
TRACESTATE: Final = b"tracestate"
RESPONSE: Final = b"traceresponse"
"""Of a response: the id of the server's own span. Draft, https://w3c.github.io/trace-context/#trace-context-http-response-headers-format."""

MAX_MEMBERS: Final = 32
MAX_STATE_CHARS: Final = 512
"""Of a `tracestate`; the least that must be passed on, 3.3.1.5."""

_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_KEY: Final = r"[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13}"
_MEMBER: Final = re.compile(rf"(?:{_KEY})=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_SAMPLED: Final = 0x01


def read_context(headers: Iterable[tuple[bytes, bytes]]) -> TraceContext | None:
    """Whose child a request is, by its headers (names in lower case); None if they do not say."""
    parents, states = [], []
    for name, value in headers:
        if name == TRACEPARENT:
            parents.append(value)
        elif name == TRACESTATE:
            states.append(value)
    if len(parents) != 1:
        return None
    match = _PARENT.fullmatch(parents[0].strip(b" \t"))
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    # Version ff is forbidden, 00 ends here, and later ones may go on behind a dash (4.3).
    if version == b"ff" or (version == b"00" and more is not None):
        return None
    if not trace_id.strip(b"0") or not span_id.strip(b"0"):
        return None
    is_sampled = bool(int(flags, 16) & _SAMPLED)
    return TraceContext(trace_id.decode(), span_id.decode(), is_sampled, _read_state(states))


def write_context(context: TraceContext) -> list[tuple[bytes, bytes]]:
    """The headers that say whose child a request is."""
    headers = [(TRACEPARENT, write_parent(context))]
    if context.state:
        headers.append((TRACESTATE, context.state.encode("ascii")))
    return headers


def write_parent(context: TraceContext) -> bytes:
    """The value of `traceparent`, and of `traceresponse`."""
    return f"00-{context.trace_id}-{context.span_id}-{int(context.is_sampled):02x}".encode("ascii")


def without_context(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Headers that say no more whose child a request is."""
    return [one for one in headers if one[0] not in (TRACEPARENT, TRACESTATE)]


def _read_state(values: list[bytes]) -> str:
    """Its members, those of several headers in order; empty if one is malformed or there are too many (3.3.1)."""
    try:
        text = b",".join(values).decode("ascii")
    except UnicodeDecodeError:
        return ""
    members = [one for part in text.split(",") if (one := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if len(members) > MAX_MEMBERS or len(keys) < len(members) or not all(map(_MEMBER.fullmatch, members)):
        return ""
    state = ",".join(members)
    return state if len(state) <= MAX_STATE_CHARS else ""
