"""The log as one writer keeps it: items durable in the database, then tiles in files, then a signed checkpoint.

The rules that make a kill harmless at any moment. An item is acknowledged when the database has committed it durably;
tiles and bundles are made from the database and can be made again; a checkpoint is signed only over entries that are
durable, and put in its place only after their tiles. At start, entries behind the checkpoint are tiled again. Where
what is there does not have the root that was signed, or less is there than was signed, nothing is written any more: to
go on would be a fork. Called on one thread, except `add_cosignatures`. Knows no queue and no sockets.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.core.clock import Clock
from headrace.core.errors import Conflict, DiskFull, HeadraceError, Unavailable
from headrace.core.provenance import LogItem
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.memory.log_files import CHECKPOINT, WITNESSED, LogFiles
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.fault import LogFault
from headrace.trust.log.log_keys import KeySet
from headrace.trust.log.merkle import hash_leaf
from headrace.trust.log.note import Note, open_note, parse_note
from headrace.trust.log.reading import Reader
from headrace.trust.log.tiles import WIDTH, Tile, tile_at
from headrace.trust.log.tree import Tree

_log = logging.getLogger("headrace.log")

CHUNK: Final = 64 * WIDTH
"""Entries that are tiled at once when many wait."""
CHECKED_AT_START: Final = 256 * WIDTH
"""Entries, the newest, that are compared with their tiles at each start; an audit compares all."""


class LogInconsistent(HeadraceError):
    """What is on the disk is not the log that was signed: it was damaged, or an older state was put back."""

    code = "log_inconsistent"
    status = 500


@dataclass(frozen=True, slots=True)
class Published:
    """A checkpoint that was put in its place, with the signatures that it has so far."""

    note: Note
    checkpoint: Checkpoint


class LogWriter:
    """See above. `open` it before anything else."""

    def __init__(self, database: Database, files: LogFiles, keys: KeySet, clock: Clock) -> None:
        self._database = database
        self._files = files
        self._keys = keys
        self._clock = clock
        self._tree = Tree()
        self._behind: list[bytes] = []  # entries that are durable and not in the tree yet
        self._lock = threading.Lock()  # of what is published, and its files
        self._latest: Published | None = None
        self.witnessed: Published | None = None

    @property
    def latest(self) -> Published:
        """The newest checkpoint."""
        assert self._latest is not None
        return self._latest

    @property
    def num_durable(self) -> int:
        """Items that are acknowledged."""
        return self._tree.size + len(self._behind)

    def open(self) -> None:
        """Find out what is there and bring files up to the database. Raises LogInconsistent if it is not what was
        signed, and other HeadraceErrors if it cannot be used."""
        num_logged = self._database.read(provenance.num_logged)
        self._latest = self._read(CHECKPOINT, num_logged)
        self.witnessed = self._read(WITNESSED, num_logged)
        if self._latest is not None:
            self._find_tree(self._latest.checkpoint)
        if self.witnessed is not None:
            self._check_past(self.witnessed.checkpoint)
        for entries in self._entries(self._tree.size, num_logged):
            self._tree = self._tile(entries)
        if self._latest is None or self._latest.checkpoint.size < num_logged:
            self._sign(self._tree)

    def close(self) -> None:
        """Close database and files; another process may write then."""
        self._database.close()
        with self._lock:
            self._files.close()

    def take(self, items: Sequence[LogItem]) -> frozenset[str]:
        """Make items durable, in this order, behind all others; the ids of those that are not, because their id was
        given before. Raises HeadraceError; then none of them is."""
        try:
            return self._take(items)
        except Unavailable as error:
            if error.code == DiskFull.code:
                raise DiskFull(error.message) from error
            raise

    def _take(self, items: Sequence[LogItem]) -> frozenset[str]:
        time_s, refused = self._clock.unix_s(), frozenset[str]()
        try:
            self._database.transact_durably(provenance.put, items, time_s)
        except Conflict:
            # Also where this very batch was committed and the word of it was lost: it is in the database then, and the
            # tree must not go on without it.
            written = {one.id: self._database.read(provenance.by_id, one.id) for one in items}
            kept: dict[str, LogItem] = {}
            for one in items:
                if written[one.id] is None:
                    kept.setdefault(one.id, one)
            durable = {
                one.id: one
                for one in items
                if (found := written[one.id]) is not None
                and found.index >= self.num_durable
                and found.item.entry == one.entry
            }
            refused = frozenset(one.id for one in items if (kept | durable).get(one.id) is not one)
            self._database.transact_durably(provenance.put, list(kept.values()), time_s)
            items = [*durable.values(), *kept.values()]
        self._behind += [one.entry for one in items]
        return refused

    def publish(self) -> Published:
        """Put all that is durable under a new checkpoint. Raises HeadraceError; then it may be called again."""
        if self._behind:
            grown = self._tile(self._behind)
            self._sign(grown)
            self._tree, self._behind = grown, []
        return self.latest

    def add_cosignatures(self, note: Note, *, is_witnessed: bool) -> None:
        """A checkpoint that witnesses cosigned; `is_witnessed`: as many as are needed. Raises HeadraceError."""
        published = Published(note, Checkpoint.decode(note.text))
        with self._lock:
            files = []
            if is_witnessed and (self.witnessed is None or self.witnessed.checkpoint.size <= published.checkpoint.size):
                files.append((WITNESSED, note.encode()))
            is_latest = self.latest.note.text == note.text
            if is_latest:
                files.append((CHECKPOINT, note.encode()))
            self._files.write(files)
            if is_witnessed:
                self.witnessed = published
            if is_latest:
                self._latest = published

    def _tile(self, entries: Sequence[bytes]) -> Tree:
        """The tree with more entries, whose files are in their places."""
        grown = self._tree.copy()
        for start in range(0, len(entries), CHUNK):
            files = grown.append(entries[start : start + CHUNK])
            lasting = [(tile.path, data) for tile, data in files if tile.is_full]
            passing = [(tile.path, data) for tile, data in files if not tile.is_full]
            with self._lock:
                self._files.write(lasting, passing)
            self._files.remove_folders(f"{tile.path}.p" for tile, _ in files if tile.is_full)
        return grown

    def _sign(self, tree: Tree) -> None:
        checkpoint = Checkpoint(self._keys.name, tree.size, tree.root())
        data = self._keys.sign(checkpoint.encode(), int(self._clock.unix_s()))
        with self._lock:
            self._files.write([(CHECKPOINT, data)])
            self._latest = Published(parse_note(data), checkpoint)

    def _read(self, path: str, num_logged: int) -> Published | None:
        data = self._files.read(path)
        if data is None:
            return None
        place = self._files.folder / path
        try:
            note = parse_note(data)
            checkpoint = Checkpoint.decode(note.text)
            checkpoint.check()
            open_note(note, self._keys.keys)
        except LogFault as error:
            raise LogInconsistent(
                f"{place} is not a checkpoint that this log's keys signed ({error}); put back the file or the keys, or "
                "move database, folder and keys away together to begin a new log."
            ) from error
        if checkpoint.origin != self._keys.name:
            raise LogInconsistent(f"{place} is of the log {checkpoint.origin!r}, and the keys of {self._keys.name!r}.")
        if checkpoint.size > num_logged:
            raise LogInconsistent(
                f"{place} was signed over {checkpoint.size} entries, and {self._database.path} has {num_logged}: an "
                "older database was put back, or it lost entries. To go on would fork the log; put back the newest."
            )
        return Published(note, checkpoint)

    def _find_tree(self, checkpoint: Checkpoint) -> None:
        """The tree that was signed, from its tiles; they are made again where they are not all there."""
        reader = Reader(self._files, checkpoint.size)
        try:
            tree = Tree.of(reader)
            is_whole = tree.root() == checkpoint.root and self._has_newest(reader)
        except LogFault as error:
            _log.warning("the log's files are not whole: %s", error)
            is_whole = False
        if is_whole:
            self._tree = tree
            return
        _log.warning("making the log's files again from the database, %d entries", checkpoint.size)
        # First without writing: files that belong to what was signed are not replaced by others.
        found = Tree()
        for entries in self._entries(0, checkpoint.size):
            found.append(entries)
        if found.root() != checkpoint.root:
            raise LogInconsistent(
                f"the {checkpoint.size} entries of {self._database.path} have another root than the one that was "
                "signed: they were altered. To go on would fork the log; put back the database that belongs to it."
            )
        for entries in self._entries(0, checkpoint.size):
            self._tree = self._tile(entries)

    def _entries(self, start: int, stop: int) -> Iterator[list[bytes]]:
        for first in range(start, stop, CHUNK):
            yield self._database.read(provenance.entries, first, min(stop, first + CHUNK))

    def _has_newest(self, reader: Reader) -> bool:
        """Whether the newest entries of the database are those of the tiles: what a file system may have lost at the
        end is found, and whether both are of one log."""
        start = max(0, reader.size - CHECKED_AT_START) // WIDTH * WIDTH
        for first in range(start, reader.size, WIDTH):
            tile = tile_at(None, first // WIDTH, reader.size)
            entries = self._database.read(provenance.entries, first, first + tile.width)
            if reader.bundle(tile) != entries:
                return False
            if reader.hashes(Tile(0, tile.index, tile.width)) != [hash_leaf(one) for one in entries]:
                return False
        return True

    def _check_past(self, checkpoint: Checkpoint) -> None:
        """That an earlier checkpoint is the beginning of what is there."""
        size = min(self._tree.size, checkpoint.size)
        if size < checkpoint.size or Reader(self._files, size).root() != checkpoint.root:
            place = self._files.folder / WITNESSED
            raise LogInconsistent(
                f"{place} was cosigned by witnesses over {checkpoint.size} entries, and what is there is another log: "
                "an older state was put back. To go on would fork the log; put back the newest."
            )
