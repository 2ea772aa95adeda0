"""`headrace log show`, `prove` and `trust-file`: read a log that lies here or elsewhere, and print what it says."""

import json as jsonlib
import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from headrace.cli.config import compose
from headrace.cli.log import log_folder, read_log_keys, trust_file
from headrace.cli.log_reading import open_with, read_note, read_trust_file, source_of
from headrace.core.errors import InvalidRequest, NotFound
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.memory.log_files import CHECKPOINT, WITNESSED
from headrace.models.store import Layout
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.note import Note
from headrace.trust.log.proof import LogProof
from headrace.trust.log.reading import Reader, Source
from headrace.trust.log.settings import LogSettings
from headrace.trust.log.trust_file import Node, shown


def own_log(flags: Mapping[str, Any], config: Path | None) -> tuple[LogSettings, Layout]:
    """The log of the state directory that settings name."""
    settings = compose(flags, os.environ, config).settings
    return settings.trust.log, Layout(settings.home)


def place_of(place: str | None, flags: Mapping[str, Any], config: Path | None) -> str:
    """Where a log is: as given, else in the state directory."""
    return place or str(log_folder(*own_log(flags, config)))


def run_show(
    place: str | None, trust: Path | None, flags: Mapping[str, Any], config: Path | None, *, json: bool
) -> None:
    """Print the newest checkpoint."""
    where = place_of(place, flags, config)
    source = source_of(where)
    note = read_note(source, where)
    checkpoint, opened = open_with(note, None if trust is None else read_trust_file(trust))
    witnessed = source.read(WITNESSED)
    told: dict[str, Any] = {
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": b64encode(checkpoint.root).decode(),
        "signatures": [{"name": one.name, "key_id": one.key_id.hex()} for one in note.signatures],
        "is_trusted": opened is not None,
        "is_witnessed": opened.is_witnessed if opened is not None else None,
        "witnesses": dict(opened.witnesses) if opened is not None else None,
        "witnessed_size": None if witnessed is None else _size(witnessed),
    }
    if json:
        typer.echo(jsonlib.dumps(told, indent=2))
        return
    typer.echo(f"origin     {checkpoint.origin}\nentries    {checkpoint.size}\nroot       {told['root']}")
    for one in note.signatures:
        typer.echo(f"signed by  {one.name} ({one.key_id.hex()})")
    if told["witnessed_size"] is not None:
        typer.echo(f"witnessed  up to {told['witnessed_size']} entries")
    if opened is None:
        typer.echo("Nothing of this was verified; --trust FILE does it.")
    else:
        names = shown(", ".join(sorted(opened.witnesses))) or "none"
        typer.echo(f"The signatures hold. Witnesses that cosigned: {names}.")


def _size(data: bytes) -> int:
    from headrace.trust.log.note import parse_note

    return Checkpoint.decode(parse_note(data).text).size


def run_prove(item: str, place: str | None, flags: Mapping[str, Any], config: Path | None) -> None:
    """Print a proof that an entry is logged."""
    where = place_of(place, flags, config)
    source = source_of(where)
    if item.isascii() and item.isdecimal():
        index = int(item)
    elif place is not None:
        raise InvalidRequest(f"{item!r} is no index, and ids are known only in the state directory.", param="item")
    else:
        index = _index_of(item, own_log(flags, config)[1])
    note = choose_note(source, where, index)
    size = Checkpoint.decode(note.text).size
    if index >= size:
        raise NotFound(f"no checkpoint covers an entry {index}; there are {size}.", param="item")
    hashes = Reader(source, size).inclusion(index)
    typer.echo(LogProof(index=index, hashes=tuple(hashes), checkpoint=note).encode().decode(), nl=False)


def choose_note(source: Source, where: str, index: int) -> Note:
    """The newest checkpoint that witnesses cosigned, if it covers an entry, else the newest. Raises NotFound."""
    if source.read(WITNESSED) is not None:
        note = read_note(source, where, WITNESSED)
        if index < Checkpoint.decode(note.text).size:
            return note
    return read_note(source, where, CHECKPOINT)


def _index_of(item_id: str, layout: Layout) -> int:
    if not layout.provenance.exists():
        raise NotFound(f"{layout.home} has no records.")
    with Database(layout.provenance, provenance.MIGRATIONS) as database:
        kept = database.read(provenance.by_id, item_id)
    if kept is None:
        raise NotFound(f"nothing was logged under the id {item_id!r}.", param="item")
    return kept.index


def run_trust_file(flags: Mapping[str, Any], config: Path | None) -> None:
    """Print this node's trust file."""
    settings = compose(flags, os.environ, config).settings
    layout = Layout(settings.home)
    nodes: tuple[Node, ...] = ()
    if settings.trust.records.is_on:
        from headrace.cli.records import node_of

        nodes = (node_of(settings.trust.records, layout),)
    else:
        typer.echo("warning: no node is named, for [records] is off in these settings; give --config.", err=True)
    keys = read_log_keys(settings.trust.log, layout)
    typer.echo(trust_file(settings.trust.log, keys, nodes).encode(), nl=False)
