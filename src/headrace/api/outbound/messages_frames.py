"""What Anthropic's Messages says on the wire, as types, and its counts as ours.

Only what is acted on has a field; whatever else a frame holds is its maker's. `input_tokens` does not count what was
read from or written to a cache: the prompt is the sum of the three. Knows no order of events.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec

from headrace.core.errors import UpstreamFault
from headrace.core.events import Usage
from headrace.core.ledger import LONG_TTL_S, SHORT_TTL_S

PROTOCOL: Final = "Anthropic's Messages"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Creation(msgspec.Struct):
    """What was written to the cache, by how long it is kept."""

    ephemeral_5m_input_tokens: Count = 0
    ephemeral_1h_input_tokens: Count = 0


class OutputDetails(msgspec.Struct):
    """What the output was."""

    thinking_tokens: Count | None = None


class Counts(msgspec.Struct):
    """`usage`. Null or missing: not said, or as said before."""

    input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_read_input_tokens: Count | None = None
    cache_creation: Creation | None = None
    output_tokens: Count | None = None
    output_tokens_details: OutputDetails | None = None


class Message(msgspec.Struct):
    """The message of `message_start`, and a whole one."""

    usage: Counts | None = None


class Block(msgspec.Struct):
    """The block that begins."""

    type: str
    text: str = ""
    thinking: str = ""
    id: str = ""
    name: str = ""
    input: Any = None


class Delta(msgspec.Struct):
    """More of a block, or how the message ends."""

    type: str = ""
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    stop_reason: str | None = None
    stop_sequence: str | None = None


class Problem(msgspec.Struct):
    """An error's kind and its words."""

    type: str = ""
    message: str = ""


class Frame(msgspec.Struct):
    """Any event of a stream, and an error's body."""

    type: str
    message: Message | None = None
    index: int | None = None
    content_block: Block | None = None
    delta: Delta | None = None
    usage: Counts | None = None
    error: Problem | None = None


_frames: Final = msgspec.json.Decoder(Frame)


def read_frame(data: bytes) -> Frame:
    """What an event says. Raises UpstreamFault for what is none."""
    try:
        return _frames.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise fault(f"sent an event that is none of {PROTOCOL}: {str(error)[:200]}") from None


def fault(what: str) -> UpstreamFault:
    """What a backend did wrong."""
    return UpstreamFault(f"the backend {what}.")


class Tally:
    """Counts as they are told: each is the whole so far, and one that is not told again stays."""

    def __init__(self) -> None:
        self._told: dict[str, int] = {}
        self._written_long = 0

    def add(self, counts: Counts | None) -> None:
        """Take what an event says."""
        if counts is None:
            return
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"):
            value = getattr(counts, name)
            if value is not None:
                self._told[name] = value
        if counts.cache_creation is not None:
            self._written_long = counts.cache_creation.ephemeral_1h_input_tokens
            written = counts.cache_creation.ephemeral_5m_input_tokens + self._written_long
            self._told.setdefault("cache_creation_input_tokens", written)
        details = counts.output_tokens_details
        if details is not None and details.thinking_tokens is not None:
            self._told["thinking_tokens"] = details.thinking_tokens

    @property
    def usage(self) -> Usage | None:
        """What was told, None if nothing was."""
        told: Mapping[str, int] = self._told
        if not told:
            return None
        read, written = told.get("cache_read_input_tokens", 0), told.get("cache_creation_input_tokens", 0)
        long, output = min(self._written_long, written), told.get("output_tokens", 0)
        writes = ((SHORT_TTL_S, written - long), (LONG_TTL_S, long))
        return Usage(
            told.get("input_tokens", 0) + read + written,
            output,
            read,
            cache_writes=tuple((ttl_s, tokens) for ttl_s, tokens in writes if tokens),
            reasoning_tokens=min(told.get("thinking_tokens", 0), output),
        )
