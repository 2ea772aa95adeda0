"""Reads a tree out of its tiles: the node of any height and place, roots, proofs, entries.

Tiles come from a `Source`; what they say is believed only as far as whoever asks compares a root that is signed. Knows
no files and no sockets.
"""

from typing import Protocol

from headrace.trust.log.fault import LogFault
from headrace.trust.log.merkle import hash_perfect, hash_range, prove_consistency, prove_inclusion
from headrace.trust.log.tiles import HEIGHT, WIDTH, Tile, decode_bundle, decode_hashes, tile_at


class Source(Protocol):
    """Where tiles and the checkpoint are read from: a folder, a URL, a test's dictionary."""

    def read(self, path: str) -> bytes | None:
        """The file of a path, relative to the log's prefix; None if there is none. Raises HeadraceError if it cannot
        be read for another reason."""
        ...


class Reader:
    """A tree of `size` entries. Keeps the tiles that it has read."""

    def __init__(self, source: Source, size: int, max_kept: int = 256) -> None:
        self.size = size
        self._source = source
        self._max_kept = max_kept
        self._kept: dict[Tile, list[bytes]] = {}

    def root(self) -> bytes:
        """The root over all entries."""
        return hash_range(0, self.size, self.node)

    def inclusion(self, index: int) -> list[bytes]:
        """RFC 9162 2.1.3.1 for an entry. Raises LogFault."""
        return prove_inclusion(index, self.size, self.node)

    def consistency(self, first: int) -> list[bytes]:
        """RFC 9162 2.1.4.1 from an earlier size to this one. Raises LogFault."""
        return prove_consistency(first, self.size, self.node)

    def entry(self, index: int) -> bytes:
        """An entry. Raises LogFault if its bundle is not there."""
        if not 0 <= index < self.size:
            raise LogFault(f"index {index} is not in a tree of {self.size} entries.", param="index")
        return self.bundle(tile_at(None, index // WIDTH, self.size))[index % WIDTH]

    def node(self, height: int, index: int) -> bytes:
        """The hash of the complete subtree over the leaves from `index * 2**height` on. Raises LogFault."""
        level, inner = divmod(height, HEIGHT)
        first = index << inner  # of the hashes of that level
        hashes = self.hashes(tile_at(level, first // WIDTH, self.size))
        at = first % WIDTH
        if at + (1 << inner) > len(hashes):
            raise LogFault(f"a tree of {self.size} entries has no node {index} of height {height}.")
        return hash_perfect(hashes[at : at + (1 << inner)])

    def hashes(self, tile: Tile) -> list[bytes]:
        """The hashes of a tile. Raises LogFault."""
        kept = self._kept.get(tile)
        if kept is None:
            kept = decode_hashes(*self._find(tile))[: tile.width]
            while len(self._kept) >= self._max_kept:
                del self._kept[next(iter(self._kept))]
            self._kept[tile] = kept
        return kept

    def bundle(self, tile: Tile) -> list[bytes]:
        """The entries of a bundle. Raises LogFault."""
        return decode_bundle(*self._find(tile))[: tile.width]

    def _find(self, tile: Tile) -> tuple[bytes, Tile]:
        """A tile's bytes and what it is: a partial one may be gone once the full one is there (tlog-tiles, Partial
        Tiles)."""
        for one in (tile,) if tile.is_full else (tile, tile.whole):
            if (data := self._source.read(one.path)) is not None:
                return data, one
        raise LogFault(f"{tile.path} is missing.")
