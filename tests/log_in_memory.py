"""A transparency log in memory: real trees, checkpoints, signatures and proofs, at once and without files or threads.

`core.provenance.Log` for tests of whoever hands things in. `refusal` is what `submit` raises; `is_late`: nothing is in
a checkpoint until `publish`.
"""

import hashlib
import sqlite3
from pathlib import Path

from headrace.core.errors import NotFound, Unavailable
from headrace.core.provenance import LogItem
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.keys import Algorithm, Signer
from headrace.trust.log.merkle import hash_leaf, prove_inclusion
from headrace.trust.log.note import parse_note
from headrace.trust.log.proof import LogProof

ORIGIN = "log.test/records"


class MemoryLog:
    """See above. `items` are all that were handed in; with a `path` they lie in a database there, too."""

    origin = ORIGIN

    def __init__(self, path: Path | None = None, *, is_late: bool = False) -> None:
        self.signer = Signer(ORIGIN, Algorithm.ED25519, b"\1" * 32)
        self.witness = Signer("witness.test", Algorithm.COSIGNATURE_ED25519, b"\2" * 32)
        self.items: list[LogItem] = []
        self.refusal: Unavailable | None = None
        self.is_late = is_late
        self.is_witnessed = False
        self.size = 0
        self._database = None if path is None else Database(path, provenance.MIGRATIONS)

    def close(self) -> None:
        """Close the database."""
        if self._database is not None:
            self._database.close()

    def check(self) -> None:
        """As `Notary`."""
        if self.refusal is not None:
            raise self.refusal

    def submit(self, item: LogItem) -> None:
        """As `Notary`."""
        self.check()
        if self._database is not None:

            def put(connection: sqlite3.Connection) -> None:
                provenance.put(connection, [item], 1_000_000.0)

            self._database.transact(put)
        self.items.append(item)
        if not self.is_late:
            self.publish()

    def publish(self) -> None:
        """All that was handed in is in the checkpoint."""
        self.size = len(self.items)

    async def merged(self, item_id: str, *, hurries: bool = False) -> int:
        """As `Log`."""
        for index, item in enumerate(self.items[: self.size]):
            if item.id == item_id:
                return index
        raise NotFound("it is not there")

    async def prove(self, index: int) -> bytes:
        """As `Log`."""
        return self.proof(index)

    def proof(self, index: int) -> bytes:
        """The text of the proof of an index."""
        if index >= self.size:
            raise NotFound("no checkpoint covers it")
        hashes = [hash_leaf(item.entry) for item in self.items[: self.size]]

        root = _root(hashes)
        text = Checkpoint(ORIGIN, self.size, root).encode()
        lines = [self.signer.sign(text, 0)]
        if self.is_witnessed:
            lines.append(self.witness.sign(text, 1_000_000))
        note = parse_note(text + b"\n" + "".join(lines).encode())
        path = prove_inclusion(index, self.size, lambda height, place: _perfect(hashes, height, place))
        return LogProof(index=index, hashes=tuple(path), checkpoint=note).encode()

    def trust_lines(self, *, quorum: bool = False) -> str:
        """This log's lines of a trust file."""
        lines = f"log {self.signer.key}\n"
        if quorum:
            lines += f"witness w {self.witness.key}\n"
        return lines + f"quorum {'w' if quorum else 'none'}\n"


def _perfect(hashes: list[bytes], height: int, place: int) -> bytes:
    return _root(hashes[place << height : (place + 1) << height])


def _root(hashes: list[bytes]) -> bytes:
    """RFC 9162 2.1.1, said again."""
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return hashlib.sha256(b"\1" + _root(hashes[:split]) + _root(hashes[split:])).digest()
