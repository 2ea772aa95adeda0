"""What of a stream may be its end: held back until more comes, or until whoever holds it lets it go.

    pieces of any size --> push --> blocks that are whole, and that are no end, or only looked like one: more came
                       '-> rest: the blocks that end the stream, what came behind them, and what is not whole

Of bytes that pass by nobody says which block is the last, and a block may come in any number of pieces, so here a block
goes out when it is whole. Knows how the streams of the protocols end, and not why somebody holds them.
"""

import re
from typing import Final

from headrace.api.sse import CONTENT_TYPE
from headrace.core.errors import UpstreamFault

BLOCK_END: Final = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
"""Behind the last line of a block (WHATWG HTML, 9.2.5)."""
MAX_HELD_BYTES: Final = 32 * 2**20
"""A last frame may hold a whole response; a stream without an empty line for longer than this is none."""

# Inside a JSON text a quotation mark of the model's own is escaped, so `"type"` is a key, of whatever object.
_STATES: Final = rb"(?:message_stop|response\.(?:completed|incomplete|failed))"
_SURE: Final = rb"(?:\A|[\r\n])(?:data:[ \t]*\[DONE\]|event:[ \t]*" + _STATES
_ENDS: Final = re.compile(_SURE + rb'|data:[^\r\n]*"type"\s*:\s*"' + _STATES + rb'")')
SURE_ENDS: Final = re.compile(_SURE + rb'|data:[ \t]*\{\s*"type"\s*:\s*"' + _STATES + rb'")')
"""What clients stop reading at. Only a line's beginning counts: what stands further in may be the model's own words."""
# Possessive: a block has as many lines as its sender likes, and there is one way alone to read them.
_SILENT: Final = re.compile(rb"(?:(?::[^\r\n]*+)?[\r\n]++)*+")


class Tail:
    """Of one stream of server-sent events."""

    __slots__ = ("_ends", "_is_over", "_open")

    def __init__(self) -> None:
        self._open = bytearray()  # a block that is not whole
        self._ends = bytearray()  # blocks that end a stream, as far as is known
        self._is_over = False  # they do end it, whatever comes

    def push(self, data: bytes) -> bytes:
        """What can go out now that this came. Raises UpstreamFault for a block without an end."""
        start, done, out = max(0, len(self._open) - 3), 0, []
        self._open += data
        for match in BLOCK_END.finditer(self._open, start):
            block, done = bytes(self._open[done : match.end()]), match.end()
            if self._is_over or _ENDS.search(block) or (self._ends and _SILENT.fullmatch(block)):
                self._ends += block
                # Nothing behind it makes it go out.
                self._is_over = self._is_over or SURE_ENDS.search(block) is not None
            else:
                out += [bytes(self._ends), block]
                self._ends.clear()
        del self._open[:done]
        if len(self._open) + len(self._ends) > MAX_HELD_BYTES:
            raise UpstreamFault(f"the backend's stream has a frame of more than {MAX_HELD_BYTES} bytes.")
        return b"".join(out)

    def rest(self) -> bytes:
        """What was held, which is the end of the stream."""
        held = bytes(self._ends + self._open)
        self._ends.clear()
        self._open.clear()
        return held


def part(data: bytes, content_type: bytes) -> tuple[bytes, bytes]:
    """The end of a stream, never empty unless `data` is, apart from what comes before it: the blocks that say that it
    is over, of other content the last line."""
    if content_type == CONTENT_TYPE:
        tail = Tail()
        early = tail.push(data)
        if last := tail.rest():
            return early, last
        return b"", data
    start = data.rfind(b"\n", 0, -1) + 1
    return data[:start], data[start:]
