"""The end of a recorded answer: its bytes are counted as they go out, and its record is sealed over them.

    begin (head) --> add (bytes, as they go) --> last (the record inside a stream, if it is wanted) --> end --> close
    where answers wait for their records: keep --> begin --> add ...       begin --> add --> kept --> add (the last) ...

Whatever was claimed is sealed when the exchange is over, whichever way it went, or given back to the gateway where its
request goes on without its client. Of several requests behind one answer the one that the head names, else the last,
has the answer's digest, and the others none. Knows no records: a receipt makes them.
"""

import base64
import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from headrace.api.sse import CONTENT_TYPE
from headrace.core.gateway import Taken
from headrace.core.transcript import COMMENT, Transcript
from headrace.server.feed import Message, Send
from headrace.server.tail import BLOCK_END, SURE_ENDS, Tail

INLINE: Final = b"x-headrace-record"
"""Asks, with the value `inline`, for the record inside of a stream."""

_logger = logging.getLogger("headrace.server")


class _Plain:
    """The running SHA-256 of an answer that is no stream of server-sent events."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.num_bytes = 0

    def add(self, data: bytes) -> None:
        self.num_bytes += len(data)
        self._hash.update(data)

    def copy(self) -> "_Plain":
        other = _Plain()
        other.num_bytes, other._hash = self.num_bytes, self._hash.copy()
        return other

    def digest(self) -> bytes:
        return self._hash.digest()


def _count(content_type: bytes) -> Transcript | _Plain:
    return Transcript() if content_type == CONTENT_TYPE else _Plain()


class Sealing:
    """Of one exchange. `is_inline`: the record stands in the stream too."""

    def __init__(self, *, is_inline: bool) -> None:
        self._is_inline = is_inline
        self._is_over = False
        self._claimed: list[Taken] = []
        self._named: Taken | None = None
        self._counted: Transcript | _Plain | None = None
        self._held = b""
        self._tail: Tail | None = None  # None: the answer's end waits for nothing

    @staticmethod
    def wanted(headers: Mapping[bytes, bytes], *, is_usual: bool) -> "Sealing":
        """That of an exchange by its request's headers."""
        return Sealing(is_inline=is_usual or headers.get(INLINE) == b"inline")

    @property
    def claims(self) -> bool:
        """Whether anything is to be sealed here."""
        return bool(self._claimed) and not self._is_over

    @property
    def is_recorded(self) -> bool:
        """Whether anything is sealed here, or was."""
        return bool(self._claimed)

    @property
    def waits(self) -> bool:
        """Whether the end of the answer goes by `keep` or `kept`: it is to wait for its record."""
        return self._tail is not None and not self._is_over

    def claim(self, taken: Taken) -> None:
        """Seal this one too, if it is recorded and the answer is not over."""
        if self._is_over or taken.receipt is None or any(one is taken for one in self._claimed):
            return
        taken.is_claimed = True
        self._claimed.append(taken)
        if taken.receipt.waits and self._tail is None:
            self._tail = Tail()

    def name(self, taken: Taken) -> None:
        """The response's head says that this one is the answer's record: its bytes are signed there, whichever of
        several requests behind the answer ends last."""
        if any(one is taken for one in self._claimed):
            self._named = taken

    @property
    def _chosen(self) -> Taken:
        return self._named or self._claimed[-1]

    def sending(self, send: Send) -> Send:
        """An ASGI `send` whose bytes are counted."""

        async def tell(message: Message) -> None:
            kind = message["type"]
            if kind == "http.response.start":
                self.begin(message["headers"])
            elif kind == "http.response.body":
                self.add(message.get("body", b""))
            await send(message)
            if kind == "http.response.body" and not message.get("more_body", False):
                self.end()

        return tell

    def begin(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """The head of the response goes out."""
        kind = next((value for name, value in headers if name == b"content-type"), b"")
        self._counted = _count(kind)

    def add(self, data: bytes) -> None:
        """The next bytes go out."""
        if self._counted is not None and not self._is_over:
            self._counted.add(data)

    def hold(self, data: bytes) -> bytes:
        """What of a stream's next piece can go out now: where the record is wanted inside, a frame that may be the last
        one waits for what follows it; where the answer waits for its record, also a frame that is not whole."""
        if self._tail is not None and not self._is_over:
            return self._tail.push(data)
        if not self._is_inline or not self.claims:
            return data
        before, self._held = self._held, b""
        if SURE_ENDS.search(data):
            self._held = data
            return before
        return before + data

    def last(self, data: bytes = b"", content_type: bytes = CONTENT_TYPE) -> bytes:
        """The end of a stream, with what was held, and with the record before its last frame if it is wanted there and
        can be: in comments."""
        data, self._held = self._held + data, b""
        can_be = self.claims and self._chosen.is_settled and content_type == CONTENT_TYPE
        if not self._is_inline or not can_be:
            return data
        counted = self._counted.copy() if isinstance(self._counted, Transcript) else Transcript()
        counted.add(data)
        envelope = self._seal(self._chosen, counted.digest())
        if envelope is None:
            return data
        frame = COMMENT + base64.b64encode(envelope) + b"\n\n"
        ends = [match.end() for match in BLOCK_END.finditer(data.rstrip(b"\r\n"))]
        start = ends[-1] if ends else 0
        return data[:start] + frame + data[start:]

    def cut(self, frame: bytes, content_type: bytes) -> bytes:
        """The end of a stream that breaks off: as `last`, and of what waited for its record nothing."""
        if self._tail is not None:
            self._tail.rest()
        return self.last(frame, content_type)

    async def keep(self, pieces: Sequence[bytes], content_type: bytes) -> None:
        """Seal over a whole answer that is still to go out, and wait for its record. Raises HeadraceError if that is
        not kept."""
        counted = _count(content_type)
        for piece in pieces:
            counted.add(piece)
        await self._seal_and_wait(counted.digest())

    async def kept(self, data: bytes, content_type: bytes) -> bytes:
        """The end of a stream as `last` says, when its record is in the log: `data` is still to go out, behind what was
        held. Raises HeadraceError if the record is not kept."""
        assert self._tail is not None
        data = self.last(self._tail.rest() + data, content_type)
        counted = _count(content_type) if self._counted is None else self._counted.copy()
        counted.add(data)
        await self._seal_and_wait(counted.digest())
        return data

    async def _seal_and_wait(self, digest: bytes) -> None:
        self._seal_all(digest)
        for taken in self._claimed:
            if taken.is_claimed and taken.receipt is not None and taken.receipt.waits:
                await taken.receipt.kept()

    def end(self) -> None:
        """The last bytes are out: seal at once what can be, so that a client that asks for it finds it."""
        if self.claims and self._chosen.is_settled:
            self.close()

    def close(self) -> None:
        """The exchange is over, whichever way."""
        if self._is_over:
            return
        counted = self._counted
        self._seal_all(counted.digest() if counted is not None and counted.num_bytes else None)

    def _seal_all(self, digest: bytes | None) -> None:
        self._is_over = True
        last = self._chosen if self._claimed else None
        for taken in self._claimed:
            if not taken.is_settled:
                taken.is_claimed = False  # it goes on, and is sealed when it ends
            else:
                self._seal(taken, digest if taken is last else None)

    @staticmethod
    def _seal(taken: Taken, digest: bytes | None) -> bytes | None:
        receipt = taken.receipt
        assert receipt is not None
        try:
            return receipt.seal(digest)
        except Exception:
            # The answer was made and maybe sent: what is wrong with its record must not be its end.
            _logger.exception("the record %s could not be sealed", receipt.id)
            return None


def content_digest(body: bytes) -> bytes:
    """The value of `content-digest` (RFC 9530, 2) for a whole body."""
    return b"sha-256=:" + base64.b64encode(hashlib.sha256(body).digest()) + b":"
