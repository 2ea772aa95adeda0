"""Where the commands read records from: the state directory, whether a server runs on it or not, or a server."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from headrace.cli.config import Settings, compose
from headrace.cli.log import log_folder
from headrace.cli.log_show import choose_note
from headrace.cli.record_erasure import erased_parts
from headrace.cli.recorded import recorded
from headrace.cli.residents import Server
from headrace.core.errors import HeadraceError, NotFound
from headrace.gateway.oversight.record_keys import open_secrets
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.memory.log_files import LogFolder
from headrace.memory.provenance import Erasure, Kept
from headrace.models.store import Layout
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.proof import LogProof
from headrace.trust.log.reading import Reader
from headrace.trust.records import canonical
from headrace.trust.records.bundle import Bundle, Exhibit, read_bundle


class RecordSource(Protocol):
    """Gives records out."""

    def bundle(self, record_id: str) -> Bundle:
        """One with what verifies it. Raises NotFound."""
        ...

    def erase(self, record_id: str) -> None:
        """Erase what opens one. Raises NotFound."""
        ...


def open_records_of(url: str | None, key: str | None, flags: Mapping[str, Any], config: Path | None) -> RecordSource:
    """Those of a running server if its address is given, else those in the state directory."""
    if url is not None:
        return RunningRecords(Server(url, key, config, "audit"))
    return StoredRecords(compose(flags, os.environ, config).settings)


class RunningRecords:
    """Asks a server."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def bundle(self, record_id: str) -> Bundle:
        """As `RecordSource`; waits for the proof."""
        told = self._server.ask(f"/v1/provenance/{quote(record_id, safe='')}?wait_s=10")
        return read_bundle(canonical.encode(told))

    def erase(self, record_id: str) -> None:
        """As `RecordSource`."""
        self._server.ask(f"/v1/provenance/{quote(record_id, safe='')}", method="DELETE")


class StoredRecords:
    """Reads the state directory."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._layout = Layout(settings.home)
        self._folder = log_folder(settings.trust.log, self._layout)

    @contextmanager
    def opened(self) -> Iterator[Database]:
        """The database of what was logged. Raises NotFound if there is none."""
        if not self._layout.provenance.exists():
            raise NotFound(f"{self._layout.home} has no records; they are made where [records] is in the settings.")
        with Database(self._layout.provenance, provenance.MIGRATIONS) as database:
            yield database

    def kept(self, record_id: str) -> Kept:
        """A record as it is kept. Raises NotFound."""
        with self.opened() as database:
            kept = database.read(provenance.by_id, record_id)
        if kept is None or kept.item.kind != "record":
            raise NotFound(f"there is no record {record_id[:100]!r} in {self._layout.home}.", param="id")
        return kept

    def bundle(self, record_id: str) -> Bundle:
        """As `RecordSource`."""
        kept = self.kept(record_id)
        nonce, delegation_id = open_secrets(kept.item.secrets)
        with self.opened() as database:
            delegation = database.read(provenance.by_id, delegation_id)
        record, origin = self._exhibit(kept)
        vouched = Exhibit(b"", b"") if delegation is None else self._exhibit(delegation)[0]
        return Bundle(record_id=record_id, log_origin=origin, record=record, delegation=vouched, nonce=nonce)

    def erase(self, record_id: str) -> None:
        """As `RecordSource`."""
        self.kept(record_id)
        parts = erased_parts(self._settings)
        with recorded(self._layout.home, "records erase", record_id), self.opened() as database:
            database.transact_durably(provenance.erase, Erasure(id=record_id, parts=parts))
            database.empty_log()

    def newest(self, tenant: str | None, limit: int) -> list[Kept]:
        """The newest records, of one tenant if it is named, newest first."""
        with self.opened() as database:
            end = database.read(provenance.num_logged)
            found: list[Kept] = []
            while end > 0 and len(found) < limit:
                start = max(0, end - 1000)
                page = database.read(provenance.in_range, start, end)
                found += [
                    one
                    for one in reversed(page)
                    if one.item.kind == "record" and (tenant is None or one.item.tenant == tenant)
                ]
                end = start
        return found[:limit]

    def _exhibit(self, kept: Kept) -> tuple[Exhibit, str]:
        folder, origin, proof = LogFolder(self._folder), "", b""
        try:
            note = choose_note(folder, str(self._folder), kept.index)
            checkpoint = Checkpoint.decode(note.text)
            origin = checkpoint.origin
            if kept.index < checkpoint.size:
                hashes = Reader(folder, checkpoint.size).inclusion(kept.index)
                proof = LogProof(index=kept.index, hashes=tuple(hashes), checkpoint=note).encode()
        except NotFound:
            pass  # no checkpoint was made yet
        except HeadraceError as error:
            raise type(error)(f"the log of this record cannot be read: {error.message}") from error
        return Exhibit(kept.item.envelope, kept.item.entry, proof), origin
