"""How many entries a second does the transparency log take, how long until a checkpoint covers one, and what do a
proof, its verification and a full audit cost?

Entries come signed, as records do: an in-toto statement of about a kilobyte in a DSSE envelope, Ed25519. Everything
is in one process with one interpreter lock: who signs, the notary, SQLite, tiles and checkpoints.
"""

import argparse
import asyncio
import itertools
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bench.report import Row, row
from headrace.cli.log import open_log, read_log_keys
from headrace.cli.log_audit import StateCheck
from headrace.core.provenance import LogItem
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.memory.log_files import LogFolder
from headrace.models.store import Layout
from headrace.trust.log.audit import audit
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.log_keys import KeySet
from headrace.trust.log.merkle import hash_leaf
from headrace.trust.log.note import parse_note
from headrace.trust.log.proof import LogProof, parse_proof
from headrace.trust.log.reading import Reader
from headrace.trust.log.settings import LogSettings
from headrace.trust.log.tree import Tree
from headrace.trust.log.trust_file import Known, TrustFile
from headrace.trust.records.commitment import entry_of
from headrace.trust.records.keys import DelegationGrant, RecordKey

ORIGIN: Final = "bench.example/log"
MAX_UNMERGED: Final = 1500
"""Items that are on their way at once: as many as a server with so many answers in a quarter of a second would have."""
ENVELOPE_BYTES: Final = 1400
PROOFS: Final = 1000
CHUNK: Final = 16_384


def rows(options: argparse.Namespace, notes: dict[str, Any]) -> list[Row]:
    """All of it. `options` has `log_seconds`, `log_entries` and `seconds`."""
    folder = Path(tempfile.mkdtemp(prefix="headrace-bench-log-"))
    try:
        made = _throughput(folder / "throughput", options.log_seconds, notes)
        return made + _reading(folder / "reading", options.log_entries, notes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _items(key: RecordKey) -> Iterator[LogItem]:
    """Records, signed as they are asked for."""
    number, now_s = 0, int(time.time())
    # Base64 makes four bytes of three, and names, id and signature take some 300.
    filler = b"x" * ((ENVELOPE_BYTES - 300) * 3 // 4)
    while True:
        envelope = key.sign(b'{"number":%d,"statement":"%b"}' % (number, filler))
        entry = entry_of("record", envelope, now_s).encode()
        yield LogItem(
            id=f"rec_{number:024x}", kind="record", tenant="bench", entry=entry, envelope=envelope, secrets=bytes(16)
        )
        number += 1


def _throughput(home: Path, seconds: float, notes: dict[str, Any]) -> list[Row]:
    home.mkdir(parents=True)
    delays: list[float] = []
    num_by_second: list[int] = []

    async def drive() -> float:
        async with open_log(LogSettings(origin=ORIGIN), Layout(home), delays.extend) as log:
            items, began_s = _items(RecordKey(os.urandom(32))), time.perf_counter()
            ends_s, told_s = began_s + seconds, began_s
            while (now_s := time.perf_counter()) < ends_s:
                if log.notary.num_waiting < MAX_UNMERGED:
                    for _ in range(50):
                        log.notary.submit(last := next(items))
                else:
                    await asyncio.sleep(0.001)
                if now_s - told_s >= 1.0:
                    num_by_second.append(len(delays))
                    told_s = now_s
            await log.notary.merged(last.id)
            return time.perf_counter() - began_s

    took_s = asyncio.run(drive())
    delays.sort()
    notes["log"] = {
        "seconds": took_s,
        "entries": len(delays),
        "envelope_bytes": len(next(_items(RecordKey(bytes(32)))).envelope),
        "unmerged_at_most": MAX_UNMERGED,
        "merge_delay_p50_ms": 1000 * statistics.median(delays),
        "merge_delay_max_ms": 1000 * delays[-1],
        "slowest_second": min((b - a for a, b in itertools.pairwise(num_by_second)), default=0),
    }
    p99_ms = 1000 * delays[int(len(delays) * 0.99)]
    return [
        row("log-entries-s", "entries/s", [len(delays) / took_s], {}),
        row("merge-delay-p99-ms", "ms", [p99_ms], {}, lower_is_better=True),
    ]


def _reading(home: Path, size: int, notes: dict[str, Any]) -> list[Row]:
    layout, settings = Layout(home), LogSettings(origin=ORIGIN)
    home.mkdir(parents=True)
    keys = read_log_keys(settings, layout)
    checkpoint, note = _fill(layout, keys, size)
    trust = TrustFile(logs=tuple(Known(ORIGIN, key) for key in keys.keys))
    source, chance = LogFolder(layout.log), random.Random(1)
    texts: list[bytes] = []

    def prove() -> None:
        index = chance.randrange(size)
        hashes = Reader(source, size).inclusion(index)
        texts.append(LogProof(index=index, hashes=tuple(hashes), checkpoint=note).encode())

    proving = _timed(prove)
    leaves = [hash_leaf(Reader(source, size).entry(parse_proof(text).index)) for text in texts]
    pairs = iter(zip(texts, leaves, strict=True))

    def verify() -> None:
        text, leaf = next(pairs)
        parse_proof(text).verify(leaf, trust)

    verifying = _timed(verify)
    with Database(layout.provenance, provenance.MIGRATIONS) as database:
        check = StateCheck(database, None, all_signatures=False)
        began_s = time.perf_counter()
        report = audit(source, checkpoint, see=check.see)
        took_s = time.perf_counter() - began_s
    assert report.is_clean, report.findings[:3]
    notes["log_reading"] = {
        "entries": size,
        "proof_p99_ms": sorted(proving)[int(PROOFS * 0.99)],
        "proof_verify_p99_ms": sorted(verifying)[int(PROOFS * 0.99)],
        "audit": "hashes, root, every kept envelope's hash, one signature in a hundred",
        "audit_signatures": check.num_signatures,
        "proofs": "of random entries, each read anew from files; medians of ten times a hundred",
    }
    return [
        row("proof-ms", "ms", _medians(proving), {}, lower_is_better=True),
        row("proof-verify-ms", "ms", _medians(verifying), {}, lower_is_better=True),
        row("audit-s", "s", [took_s], {}, lower_is_better=True),
    ]


def _timed(work: Callable[[], None]) -> list[float]:
    """Milliseconds of each of many calls."""
    took_ms = []
    for _ in range(PROOFS):
        began_s = time.perf_counter()
        work()
        took_ms.append(1000 * (time.perf_counter() - began_s))
    return took_ms


def _medians(samples: list[float]) -> list[float]:
    return [statistics.median(samples[at : at + PROOFS // 10]) for at in range(0, PROOFS, PROOFS // 10)]


def _fill(layout: Layout, keys: KeySet, size: int) -> tuple[Checkpoint, Any]:
    """A log of so many records and their delegation, written as fast as can be: nobody waits for it to be durable."""
    key = RecordKey(os.urandom(32))
    grant = DelegationGrant(node="bench", instance="i", public=key.public, not_before_s=0, not_after_s=1)
    node = RecordKey(os.urandom(32))
    envelope = node.sign(grant.encode())
    entry = entry_of("delegation", envelope, 0).encode()
    first = LogItem(id="del_1", kind="delegation", tenant="bench", entry=entry, envelope=envelope)
    tree, items = Tree(), _items(key)
    with Database(layout.provenance, provenance.MIGRATIONS) as database:
        while tree.size < size:
            part = [first] if tree.size == 0 else [next(items) for _ in range(min(CHUNK, size - tree.size))]
            database.transact(provenance.put, part, time.time())
            for tile, data in tree.append([one.entry for one in part]):
                path = layout.log / tile.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    checkpoint = Checkpoint(keys.name, tree.size, tree.root())
    return checkpoint, parse_note(keys.sign(checkpoint.encode(), int(time.time())))
