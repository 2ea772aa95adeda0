"""The writer's side of a log as pure state: entries in, tiles, bundles and the root out.

Holds the right edge of the tree only: at most 255 hashes a level and 255 entries. Deterministic, so that the same
entries always give the same files. Knows no files, no keys and no time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from headrace.trust.log.merkle import hash_edge, hash_leaf, hash_perfect
from headrace.trust.log.reading import Reader
from headrace.trust.log.tiles import HEIGHT, WIDTH, Tile, encode_bundle, encode_hashes, tile_at


@dataclass(slots=True)
class Tree:
    """A tree that grows. `edge` are the hashes of each level's partial tile, from level 0 on; `entries` are those below
    level 0's."""

    size: int = 0
    edge: list[list[bytes]] = field(default_factory=list)
    entries: list[bytes] = field(default_factory=list)

    @classmethod
    def of(cls, reader: Reader) -> "Tree":
        """The tree as its tiles have it, with their right edge. Raises LogFault if a tile of it is missing."""
        tree = cls(reader.size)
        level = 0
        while (num_hashes := reader.size >> (HEIGHT * level)) > 0:
            is_whole = num_hashes % WIDTH == 0
            tree.edge.append([] if is_whole else reader.hashes(tile_at(level, num_hashes // WIDTH, reader.size)))
            level += 1
        if reader.size % WIDTH:
            tree.entries = reader.bundle(tile_at(None, reader.size // WIDTH, reader.size))
        return tree

    def copy(self) -> "Tree":
        """Another that grows by itself."""
        return Tree(self.size, [list(level) for level in self.edge], list(self.entries))

    def append(self, entries: Sequence[bytes]) -> list[tuple[Tile, bytes]]:
        """Add entries; every tile and bundle that they fill or change, as it is afterwards. Full ones come first.

        Raises LogFault for an entry that is too long, and is of no use afterwards."""
        files: list[tuple[Tile, bytes]] = []
        changed = {0} if entries else set()
        for entry in entries:
            self.entries.append(entry)
            self._push(0, hash_leaf(entry), files, changed)
            self.size += 1
            if len(self.entries) == WIDTH:
                files.append((Tile(None, self.size // WIDTH - 1), encode_bundle(self.entries)))
                self.entries.clear()
        return [*files, *self._partials(changed)]

    def root(self) -> bytes:
        """RFC 9162 2.1.1 over all entries."""
        return hash_edge(self.edge)

    def _push(self, level: int, digest: bytes, files: list[tuple[Tile, bytes]], changed: set[int]) -> None:
        if level == len(self.edge):
            self.edge.append([])
        hashes = self.edge[level]
        hashes.append(digest)
        changed.add(level)
        if len(hashes) == WIDTH:
            # The index of a tile is how many full ones of its level are there; leaves are counted after their push.
            index = ((self.size + 1) >> (HEIGHT * (level + 1))) - 1
            files.append((Tile(level, index), encode_hashes(hashes)))
            above = hash_perfect(hashes)
            hashes.clear()
            self._push(level + 1, above, files, changed)

    def _partials(self, changed: set[int]) -> Iterator[tuple[Tile, bytes]]:
        if self.entries and 0 in changed:
            yield Tile(None, self.size // WIDTH, len(self.entries)), encode_bundle(self.entries)
        for level in sorted(changed):
            if hashes := self.edge[level]:
                index = self.size >> (HEIGHT * (level + 1))
                yield Tile(level, index, len(hashes)), encode_hashes(hashes)
