"""How a log is laid out in files: C2SP tlog-tiles. Paths, tiles of hashes, bundles of entries. Values only.

A tile has 256 hashes of one level of eight heights each; a bundle the 256 entries below a tile of level 0. The last of
each level may be partial. Knows no files and no sockets.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.trust.log.fault import LogFault
from headrace.trust.log.merkle import HASH_BYTES

HEIGHT: Final = 8
WIDTH: Final = 1 << HEIGHT
TILE_BYTES: Final = WIDTH * HASH_BYTES
MAX_LEVEL: Final = 63
MAX_ENTRY_BYTES: Final = 0xFFFF
ENTRIES: Final = "entries"

_LENGTH: Final = struct.Struct(">H")
_LEVEL: Final = r"0|[1-9]|[1-5][0-9]|6[0-3]"
_INDEX: Final = r"(?:x[0-9]{3}/)*[0-9]{3}"
_PARTIAL: Final = r"[1-9]|[1-9][0-9]|1[0-9]{2}|2[0-4][0-9]|25[0-5]"
_PATH: Final = re.compile(rf"tile/(?P<level>{_LEVEL}|{ENTRIES})/(?P<index>{_INDEX})(?:\.p/(?P<width>{_PARTIAL}))?")


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One file's place. `level` None: a bundle of entries. `width` is how many hashes or entries it has."""

    level: int | None
    index: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """`tile/<L>/<N>[.p/<W>]`, from the log's prefix on."""
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{ENTRIES if self.level is None else self.level}/{encode_index(self.index)}{partial}"

    @property
    def whole(self) -> "Tile":
        """The full one of its place, which stands in for a partial one as soon as it is there."""
        return Tile(self.level, self.index)

    @property
    def is_full(self) -> bool:
        """Whether nothing can be added to it."""
        return self.width == WIDTH


def encode_index(index: int) -> str:
    """Zero-padded groups of three digits, all but the last beginning with an x: 1234067 is x001/x234/067."""
    text = f"{index % 1000:03}"
    while index := index // 1000:
        text = f"x{index % 1000:03}/{text}"
    return text


def parse_path(path: str) -> Tile | None:
    """The tile of a path; None if it is written in any other way than `Tile.path` would write it."""
    found = _PATH.fullmatch(path)
    if found is None or not path.isascii():
        return None
    level = None if found["level"] == ENTRIES else int(found["level"])
    tile = Tile(level, int(found["index"].replace("x", "").replace("/", "")), int(found["width"] or WIDTH))
    return tile if tile.path == path else None  # no group of zeros in front


def tiles_of(size: int, *, start: int = 0) -> Iterator[Tile]:
    """Every tile and bundle of a tree, or those that a tree of `start` entries has not or has only in part: full ones
    in order, each level's partial one behind them. Bundles come first."""
    for level in (None, *range(MAX_LEVEL + 1)):
        height = HEIGHT * (level or 0)
        num_hashes = size >> height
        if level is not None and num_hashes == 0:
            return
        if num_hashes == start >> height:
            continue
        for index in range((start >> height) // WIDTH, num_hashes // WIDTH):
            yield Tile(level, index)
        if partial := num_hashes % WIDTH:
            yield Tile(level, num_hashes // WIDTH, partial)


def tile_at(level: int | None, index: int, size: int) -> Tile:
    """The tile of a place as a tree of `size` entries has it. Raises LogFault if it has none there."""
    width = min(WIDTH, (size >> (HEIGHT * (level or 0))) - index * WIDTH)
    if width <= 0:
        raise LogFault(f"a tree of {size} entries has no tile {index} of level {level}.")
    return Tile(level, index, width)


def encode_hashes(hashes: Sequence[bytes]) -> bytes:
    """A tile's bytes."""
    return b"".join(hashes)


def decode_hashes(data: bytes, tile: Tile) -> list[bytes]:
    """A tile's hashes. Raises LogFault if its size is not that of its place."""
    if len(data) != tile.width * HASH_BYTES:
        raise LogFault(f"{tile.path} has {len(data)} bytes; {tile.width} hashes have {tile.width * HASH_BYTES}.")
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]


def check_entry(entry: bytes) -> None:
    """Raises LogFault for an entry that no bundle can hold."""
    if len(entry) > MAX_ENTRY_BYTES:
        raise LogFault(f"an entry has {len(entry)} bytes; a log takes at most {MAX_ENTRY_BYTES}.", param="entry")


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """A bundle's bytes: each entry behind its length, a big-endian uint16. Raises LogFault for one too long."""
    pieces: list[bytes] = []
    for entry in entries:
        check_entry(entry)
        pieces += (_LENGTH.pack(len(entry)), entry)
    return b"".join(pieces)


def decode_bundle(data: bytes, tile: Tile) -> list[bytes]:
    """A bundle's entries. Raises LogFault if they are not as many as its place has, or not whole."""
    entries: list[bytes] = []
    at = 0
    while at < len(data):
        if len(data) - at < _LENGTH.size:
            raise LogFault(f"{tile.path} ends within the length of entry {len(entries)}.")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if len(data) - at < length:
            raise LogFault(f"{tile.path} ends within entry {len(entries)}, of {length} bytes.")
        entries.append(data[at : at + length])
        at += length
    if len(entries) != tile.width:
        raise LogFault(f"{tile.path} has {len(entries)} entries; its place has {tile.width}.")
    return entries
