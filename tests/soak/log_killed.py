"""Kills a process that writes a log, again and again, and looks after each time at what is left: `make log-soak`
(TIMES=500, some two minutes).

Each round forks a process that logs as fast as it can and tells through a pipe what was acknowledged and which
checkpoints were signed. It is killed with SIGKILL, half of the time at a random moment, half of the time in the middle
of a random write of a file. Afterwards every acknowledged item must be in the database under its index, the next start
must succeed, and at the end every checkpoint that was ever signed must be of a beginning of the log as it is then: an
item lost or a fork ends the run with what was found. Not part of the test run beyond the few kills of
`tests/end_to_end/test_log_killed.py`.
"""

import argparse
import asyncio
import os
import random
import select
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from tests.doubles_log import item, log_keys, open_writer

from headrace.core.clock import SystemClock
from headrace.gateway.notary.notary import LogNotary
from headrace.gateway.notary.writer import LogWriter
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.memory.log_files import LogFiles, LogFolder
from headrace.memory.store import Store
from headrace.trust.log.audit import audit
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.note import open_note, parse_note
from headrace.trust.log.settings import LogSettings
from headrace.trust.log.tree import Tree

MAX_LIFE_S = 0.25
MAX_WRITES = 120
MAX_ROUND_S = 20.0


@dataclass(slots=True)
class Seen:
    """What processes told before they were killed."""

    acknowledged: dict[str, int] = field(default_factory=dict)
    checkpoints: dict[int, str] = field(default_factory=dict)
    num_in_write: int = 0


def run(home: Path, times: int, seed: int, tell: Callable[[str], None] = lambda _: None) -> Seen:
    """Kill so many processes. Raises AssertionError with what was lost or forked."""
    chance, seen, number = random.Random(seed), Seen(), 0
    for turn in range(times):
        number += 10_000  # ids of a round are its own
        num_writes = chance.randrange(1, MAX_WRITES) if turn % 2 else None
        told = _live_and_die(home, number, num_writes, chance.random() * MAX_LIFE_S)
        seen.num_in_write += num_writes is not None
        for line in told.split("\n")[:-1]:  # the last may be cut
            word, _, rest = line.partition(" ")
            key, _, value = rest.partition(" ")
            if word == "ack":
                seen.acknowledged[key] = int(value)
            elif word == "checkpoint":
                size, root = int(key), value
                assert seen.checkpoints.setdefault(size, root) == root, f"two checkpoints of {size} entries: a fork"
            else:
                raise AssertionError(f"round {turn}: {line}")
        check_acknowledged(home, seen)
        if turn % 50 == 49:
            tell(f"{turn + 1} kills, {len(seen.acknowledged)} items acknowledged")
    check_all(home, seen)
    return seen


def check_acknowledged(home: Path, seen: Seen) -> None:
    """Every item that was acknowledged is in the database, under its index."""
    with Database(home / "provenance.db", provenance.MIGRATIONS) as database:
        rows = dict(database.read(lambda connection: connection.execute("SELECT id, leaf FROM entries").fetchall()))
    lost = [one for one, index in seen.acknowledged.items() if rows.get(one) != index]
    assert not lost, f"{len(lost)} acknowledged items are lost or moved, such as {lost[0]}"


def check_all(home: Path, seen: Seen) -> None:
    """The log starts once more, holds, and continues every checkpoint that was signed."""
    writer = open_writer(home)
    writer.open()
    checkpoint = writer.latest.checkpoint
    writer.close()
    files = LogFolder(home / "log")
    note = parse_note(files.read("checkpoint") or b"")
    open_note(note, log_keys().keys)
    assert Checkpoint.decode(note.text) == checkpoint
    report = audit(files, checkpoint)
    assert report.is_clean, report.findings[:3]
    with Database(home / "provenance.db", provenance.MIGRATIONS) as database:
        entries = database.read(provenance.entries, 0, checkpoint.size)
    tree = Tree()
    for size, root in sorted(seen.checkpoints.items()):
        tree.append(entries[tree.size : size])
        assert tree.size == size and tree.root().hex() == root, f"the checkpoint of {size} entries is of another log"


def _live_and_die(home: Path, number: int, num_writes: int | None, life_s: float) -> str:
    """A process that logs until it is killed; what it told."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _live(home, number, num_writes, writing)
    os.close(writing)
    ends_s = time.monotonic() + (life_s if num_writes is None else MAX_ROUND_S)
    pieces = []
    while True:
        left_s = ends_s - time.monotonic()
        if left_s <= 0 or not select.select([reading], [], [], left_s)[0]:
            break
        if not (piece := os.read(reading, 1 << 16)):
            break
        pieces.append(piece)
    os.kill(child, signal.SIGKILL)
    while piece := os.read(reading, 1 << 16):
        pieces.append(piece)
    os.close(reading)
    os.waitpid(child, 0)
    return b"".join(pieces).decode()


def _live(home: Path, number: int, num_writes: int | None, writing: int) -> NoReturn:
    """The child: logs for ever. Never returns."""
    try:
        asyncio.run(_log_for_ever(home, number, num_writes, writing))
    except BaseException as error:
        os.write(writing, f"failed {error!r}\n".encode())
    os._exit(1)


async def _log_for_ever(home: Path, number: int, num_writes: int | None, writing: int) -> None:
    left = num_writes or 10**9

    def write(descriptor: int, data: bytes) -> int:
        nonlocal left
        left -= 1
        if left == 0:
            os.write(descriptor, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return os.write(descriptor, data)

    def make() -> LogWriter:
        files = LogFiles.take(home / "log", write)
        return LogWriter(Database(home / "provenance.db", provenance.MIGRATIONS), files, log_keys(), SystemClock())

    store = Store(home / "provenance.db", provenance.MIGRATIONS)
    await store.open()
    settings = LogSettings(batch_s=0.001, batch_items=64, queue_items=1000)
    notary = LogNotary(make, store, LogFolder(home / "log"), settings)
    await asyncio.to_thread(notary.start)
    while True:
        batch = [item(number + at) for at in range(40)]
        number += len(batch)
        for one in batch:
            notary.submit(one)
        for one in batch:
            index = await notary.merged(one.id)
            os.write(writing, f"ack {one.id} {index}\n".encode())
        checkpoint = notary.latest.checkpoint
        os.write(writing, f"checkpoint {checkpoint.size} {checkpoint.root.hex()}\n".encode())


def main() -> None:
    """What the command runs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--times", type=int, default=500)
    parser.add_argument("--seed", type=int, default=8)
    given = parser.parse_args()
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        seen = run(Path(folder), given.times, given.seed, lambda line: print(line, flush=True))
    print(
        f"{given.times} kills ({seen.num_in_write} of them within a write) in {time.monotonic() - started_s:.0f} s: "
        f"{len(seen.acknowledged)} acknowledged items are all there, {len(seen.checkpoints)} checkpoints are one log."
    )


if __name__ == "__main__":
    main()
