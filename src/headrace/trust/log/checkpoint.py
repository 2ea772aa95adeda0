"""What a log says of itself: origin, size and root, as C2SP tlog-checkpoint writes it. Values only; knows no keys."""

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import Final

from headrace.trust.log.fault import LogFault
from headrace.trust.log.merkle import EMPTY_ROOT, HASH_BYTES

_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}")
MAX_SIZE: Final = 2**63 - 1


def parse_size(text: str, what: str) -> int:
    """An ASCII decimal without leading zeros. Raises LogFault."""
    if not _SIZE.fullmatch(text) or not text.isascii() or int(text) > MAX_SIZE:
        raise LogFault(f"{what} is {text[:40]!r}; it is a decimal number without zeros in front.")
    return int(text)


def parse_hash(text: str, what: str) -> bytes:
    """A SHA-256 hash in base64, as it would be encoded again. Raises LogFault."""
    try:
        data = b64decode(text.encode("ascii"), validate=True)
    except ValueError as error:
        raise LogFault(f"{what} is no base64.") from error
    if len(data) != HASH_BYTES or b64encode(data).decode() != text:
        raise LogFault(f"{what} is not the base64 of {HASH_BYTES} bytes.")
    return data


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head. `extensions` are opaque lines, which nothing here makes."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def encode(self) -> bytes:
        """The note text."""
        lines = (self.origin, str(self.size), b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines).encode()

    @classmethod
    def decode(cls, text: bytes) -> "Checkpoint":
        """A checkpoint from a note's text. Raises LogFault if it is not written as the specification says."""
        try:
            lines = text.decode("utf-8").split("\n")
        except UnicodeDecodeError as error:
            raise LogFault("a checkpoint is not UTF-8.") from error
        # "a sequence of at least three non-empty lines, separated by newlines"; a note's text ends with one.
        if len(lines) < 4 or lines[-1] or not all(lines[:-1]):
            raise LogFault("a checkpoint has at least three lines, none of them empty, and ends with a newline.")
        origin, size, root, *extensions = lines[:-1]
        if any(one < " " for line in lines for one in line):
            raise LogFault("a checkpoint has a control character; only newlines may be there.")
        return cls(origin, parse_size(size, "a checkpoint's size"), parse_hash(root, "a root"), tuple(extensions))

    def check(self) -> None:
        """Raises LogFault for an empty tree with a root that is not the hash of nothing (RFC 9162 2.1.1)."""
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise LogFault("a checkpoint of an empty tree has a root that is not the hash of nothing.")
