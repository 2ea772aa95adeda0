"""`headrace log mirror`: a copy of a log, brought up to date only if the log has grown and not changed."""

import json as jsonlib
from collections.abc import Iterator
from pathlib import Path

import typer

from headrace.cli.log_reading import LogUrl, open_with, read_note, read_trust_file, source_of
from headrace.memory.log_files import CHECKPOINT, WITNESSED, LogFiles
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.fault import LogFault
from headrace.trust.log.merkle import verify_consistency
from headrace.trust.log.note import Note, parse_note
from headrace.trust.log.reading import Reader, Source
from headrace.trust.log.tiles import WIDTH, tile_at
from headrace.trust.log.tree import Tree
from headrace.trust.log.trust_file import TrustFile


def run_mirror(url: str, folder: Path, trust: Path | None, *, json: bool) -> None:
    """Bring the copy up to date, and say what is there now."""
    trusted = None if trust is None else read_trust_file(trust)
    files = LogFiles.take(folder)
    try:
        before, after = mirror(LogUrl(url) if "://" in url else source_of(url), files, trusted)
    finally:
        files.close()
    if json:
        typer.echo(jsonlib.dumps({"origin": after.origin, "size": after.size, "num_new": after.size - before}))
    elif after.size == before:
        typer.echo(f"{after.origin} has {after.size} entries, as before.")
    else:
        typer.echo(f"{after.origin} has {after.size} entries, {after.size - before} of them new.")


def mirror(source: Source, files: LogFiles, trust: TrustFile | None) -> tuple[int, Checkpoint]:
    """Bring a copy up to date; how many entries it had, and what it has now.

    A checkpoint is taken only when everything below it is here and hashes to its root, and it continues what was here.
    Raises LogFault for a fork, a rollback, another log or files that do not fit: then the copy's checkpoint is as it
    was, and worth keeping. Raises HeadraceError if something cannot be read or written.
    """
    note = read_note(source, "the log")
    after, _ = open_with(note, trust)
    mine = files.read(CHECKPOINT)
    before = None if mine is None else Checkpoint.decode(parse_note(mine).text)
    tree = Tree()
    if before is not None:
        _check(before, after, source)
        tree = Tree.of(Reader(files, before.size))
        if tree.root() != before.root:
            raise LogFault(f"the copy in {files.folder} is damaged: its root is not its checkpoint's. Begin another.")
    start = tree.size
    for part in _entries(Reader(source, after.size), start):
        made = tree.append(part)
        lasting = [(tile.path, data) for tile, data in made if tile.is_full]
        files.write(lasting, [(tile.path, data) for tile, data in made if not tile.is_full])
    if tree.root() != after.root:
        raise LogFault(f"the entries of {after.origin} do not hash to the root of its checkpoint of {after.size}.")
    files.write([(CHECKPOINT, note.encode())])
    _take_witnessed(source, files, tree.size, trust)
    return start, after


def _entries(reader: Reader, start: int) -> Iterator[list[bytes]]:
    """What is new, a bundle at a time."""
    for index in range(start // WIDTH, -(-reader.size // WIDTH)):
        entries = reader.bundle(tile_at(None, index, reader.size))[max(0, start - index * WIDTH) :]
        if entries:
            yield entries


def _check(before: Checkpoint, after: Checkpoint, source: Source) -> None:
    """That the log only grew since."""
    if before.origin != after.origin:
        raise LogFault(f"the copy is of {before.origin!r}, and this is {after.origin!r}; use another folder.")
    if after.size < before.size:
        raise LogFault(
            f"{after.origin} shows {after.size} entries, and had {before.size}: it was rolled back, or shows an old "
            "state. Keep the copy: it is the evidence."
        )
    proof = Reader(source, after.size).consistency(before.size) if 0 < before.size < after.size else []
    if before.size == 0 < after.size:
        return  # the empty tree is the beginning of any
    try:
        verify_consistency(before.size, after.size, proof, before.root, after.root)
    except LogFault as error:
        raise LogFault(
            f"{after.origin} was forked: what it shows now does not continue its first {before.size} entries as they "
            f"were copied ({error}) Keep the copy: it is the evidence."
        ) from error


def _take_witnessed(source: Source, files: LogFiles, size: int, trust: TrustFile | None) -> None:
    """The witnessed checkpoint, too, if it is of what is here now; the next run takes it otherwise."""
    data = source.read(WITNESSED)
    if data is None:
        return
    note: Note = parse_note(data)
    checkpoint, _ = open_with(note, trust)
    if checkpoint.size <= size:
        if Reader(files, checkpoint.size).root() != checkpoint.root:
            raise LogFault(f"the witnessed checkpoint of {checkpoint.size} entries is of another tree: a fork.")
        files.write([(WITNESSED, data)])
