"""Recomputes a whole log: every leaf from its entry, every tile from the tiles below it, the root from all of them.

Says everything that is wrong, and where, instead of ending at the first. A log that passes has exactly the entries that
its checkpoint commits to. Knows no files and no signatures: the checkpoint was opened before.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256

from headrace.core.errors import HeadraceError
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.merkle import HASH_BYTES, hash_edge, hash_perfect
from headrace.trust.log.reading import Reader, Source
from headrace.trust.log.tiles import WIDTH, Tile, tile_at


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: the file, or the entry's index behind it, and a sentence."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(slots=True)
class Report:
    """What an audit found. `num_entries` are those whose hashes were compared."""

    size: int
    num_entries: int = 0
    num_tiles: int = 0
    findings: list[Finding] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong, and everything was looked at."""
        return not self.findings and self.num_entries == self.size


def audit(
    source: Source,
    checkpoint: Checkpoint,
    see: Callable[[int, bytes], str | None] | None = None,
    tell: Callable[[int], None] | None = None,
) -> Report:
    """Look at everything below a checkpoint. `see` is shown each entry with its index and may say what is wrong with
    it; `tell` is told how many entries were done, after each bundle."""
    report, reader = Report(checkpoint.size), Reader(source, checkpoint.size, max_kept=8)
    level_hashes = _audit_entries(reader, report, see, tell)
    level = 0
    edges: list[list[bytes]] = []  # what each level has beside full tiles
    while level_hashes:
        above: list[bytes] = []
        for index in range(0, len(level_hashes), WIDTH):
            hashes = level_hashes[index : index + WIDTH]
            tile = Tile(level, index // WIDTH, len(hashes))
            _compare(reader, tile, hashes, report)
            if tile.is_full:
                above.append(hash_perfect(hashes))
        num_over = len(level_hashes) % WIDTH
        edges.append(level_hashes[-num_over:] if num_over else [])
        level_hashes, level = above, level + 1
    if report.num_entries == report.size and hash_edge(edges) != checkpoint.root:
        found = Finding("checkpoint", f"its root is not that of its {checkpoint.size} entries.")
        report.findings.append(found)
    return report


def _audit_entries(
    reader: Reader,
    report: Report,
    see: Callable[[int, bytes], str | None] | None,
    tell: Callable[[int], None] | None,
) -> list[bytes]:
    """Every leaf's hash, of its entry where that can be read, else as level 0 has it, so that the rest is looked at."""
    leaves: list[bytes] = []
    for start in range(0, report.size, WIDTH):
        tile = tile_at(None, start // WIDTH, report.size)
        try:
            entries = reader.bundle(tile)
        except HeadraceError as error:
            report.findings.append(Finding(tile.path, str(error)))
            leaves += _as_told(reader, tile_at(0, tile.index, report.size))
            continue
        leaves += [sha256(b"\x00" + entry).digest() for entry in entries]
        report.num_entries += len(entries)
        if see is not None:
            for index, entry in enumerate(entries, start):
                if (wrong := see(index, entry)) is not None:
                    report.findings.append(Finding(f"entry {index}", wrong))
        if tell is not None:
            tell(report.num_entries)
    return leaves


def _as_told(reader: Reader, tile: Tile) -> list[bytes]:
    try:
        return reader.hashes(tile)
    except HeadraceError:
        return [bytes(HASH_BYTES)] * tile.width  # found to be wrong when level 0 is compared


def _compare(reader: Reader, tile: Tile, hashes: list[bytes], report: Report) -> None:
    report.num_tiles += 1
    try:
        told = reader.hashes(tile)
    except HeadraceError as error:
        report.findings.append(Finding(tile.path, str(error)))
        return
    if told != hashes:
        report.findings += _differences(tile, told, hashes)


def _differences(tile: Tile, told: list[bytes], hashes: list[bytes]) -> Iterator[Finding]:
    for at, (one, other) in enumerate(zip(told, hashes, strict=True)):
        if one != other:
            index = tile.index * WIDTH + at
            below = f"entry {index}" if tile.level == 0 else f"tile {index} of level {(tile.level or 0) - 1}"
            yield Finding(tile.path, f"hash {at} is not that of {below}.")
