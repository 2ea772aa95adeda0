"""Parts text that comes in pieces into what is said and what is called, for one choice and one family.

What was told is never taken back: a call is told once its head is complete, its arguments while they come. Text that
may still become a call is held, with the white space before it; if it does not, it is text. White space beside calls is
dropped. However the text is cut into pieces, what comes out is the same, put together. Knows no tokens and no ids.
"""

from collections.abc import Callable, Collection
from typing import NamedTuple

from headrace.engine.tools.family import Family, Head
from headrace.engine.tools.json_strings import StringEscaper
from headrace.engine.tools.scan import More, Scan, Status

MAX_HELD_CHARS = 16_384  # of what may become a call; reading it again with each piece must stay cheap


class Said(NamedTuple):
    """Text outside calls."""

    text: str


class Called(NamedTuple):
    """A call begins."""

    name: str


class Argued(NamedTuple):
    """More argument text of the call that began last: JSON, but for the end of a call that was cut short."""

    text: str


Piece = Said | Called | Argued


class CallParser:
    """See the file's head. `names` are the tools that there are."""

    __slots__ = (
        "_escaper",
        "_family",
        "_head",
        "_held",
        "_is_fresh",
        "_is_last",
        "_names",
        "_pieces",
        "_read",
        "num_calls",
        "num_whole",
    )

    def __init__(self, family: Family, names: Collection[str]) -> None:
        self._family = family
        self._names = names
        self._held = ""
        self._pieces: list[Piece] = []
        self._read: Callable[[], bool] = self._read_text
        self._head: Head | None = None
        self._escaper = StringEscaper()
        self._is_fresh = True  # nothing but calls, and white space, was said so far, or since the last call
        self._is_last = False
        self.num_calls = 0
        self.num_whole = 0  # of them; whose arguments are complete

    def push(self, text: str) -> list[Piece]:
        """What more text makes known."""
        self._held += text
        while self._read():
            pass
        pieces, self._pieces = self._pieces, []
        return pieces

    def flush(self) -> list[Piece]:
        """What was held, now that no more text comes."""
        self._is_last = True
        return self.push("")

    # Each reader takes what it can from `_held` and returns whether another should go on.

    def _read_text(self) -> bool:
        held = self._held
        if self._is_fresh and self.num_calls:
            held = self._held = held.lstrip()
        for place in self._family.places(held, is_fresh=self._is_fresh):
            scan = Scan(held, place, self._is_last)
            try:
                head = self._family.open(scan, self._names)
            except More:
                if len(held) - place > MAX_HELD_CHARS:
                    continue
                self._say(len(held[:place].rstrip()))
                return False
            if head is not None and scan.at - place <= MAX_HELD_CHARS:
                self._say(len(held[:place].rstrip()))
                self._begin(head, held[scan.at :])
                return True
        self._say(len(held) if self._is_last else len(held.rstrip()))
        return False

    def _read_arguments(self) -> bool:
        assert self._head is not None
        reader, was_whole = self._head.reader, self._head.reader.is_complete
        end, said, status = reader.feed(self._held, is_last=self._is_last)
        self.num_whole += reader.is_complete and not was_whole
        self._held = self._held[end:]
        if said:
            self._pieces.append(Argued(self._escaper.push(said)))
        if status is Status.OPEN:
            return False
        self._go_on(self._read_close if status is Status.DONE else self._read_text)
        return True

    def _read_close(self) -> bool:
        assert self._head is not None
        scan = Scan(self._held, 0, self._is_last)
        try:
            follows = self._family.close(scan, self._head)
        except More:
            return False
        self._held = self._held[scan.at :]
        self._go_on(self._read_next if follows else self._read_text)
        return True

    def _read_next(self) -> bool:
        assert self._head is not None
        scan = Scan(self._held, 0, self._is_last)
        try:
            head = self._family.reopen(scan, self._names, self._head)
        except More:
            if len(self._held) <= MAX_HELD_CHARS:
                return False
            head = None
        if head is None or scan.at > MAX_HELD_CHARS:
            self._go_on(self._read_text)
        else:
            self._begin(head, self._held[scan.at :])
        return True

    def _begin(self, head: Head, rest: str) -> None:
        self._head, self._held = head, rest
        self.num_calls += 1
        self._pieces.append(Called(head.name))
        self._escaper = StringEscaper()
        self._read = self._read_arguments

    def _go_on(self, read: Callable[[], bool]) -> None:
        self._read = read
        self._is_fresh = True

    def _say(self, count: int) -> None:
        if count:
            self._pieces.append(Said(self._held[:count]))
            self._held = self._held[count:]
            self._is_fresh = False
