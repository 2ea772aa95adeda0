"""Where the commands of the log read from: a folder, a URL, the state directory, a trust file."""

import http.client
from pathlib import Path
from typing import Final

from headrace.core.errors import InvalidRequest, NotFound, Unavailable
from headrace.gateway.notary.witnesses import fetch_http
from headrace.memory.log_files import CHECKPOINT, LogFolder
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.fault import LogFault
from headrace.trust.log.note import Note, parse_note
from headrace.trust.log.reading import Source
from headrace.trust.log.trust_file import Opened, TrustFile, parse_trust_file

TIMEOUT_S: Final = 30.0


class LogUrl:
    """A log's files, from a server. Implements `Source`."""

    def __init__(self, url: str) -> None:
        self._prefix = url.rstrip("/")

    def read(self, path: str) -> bytes | None:
        """A file; None if there is none. Raises Unavailable."""
        url = f"{self._prefix}/{path}"
        try:
            reply = fetch_http("GET", url, None, TIMEOUT_S)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise Unavailable(f"{url} cannot be read ({error}).", code="log_unavailable") from error
        if reply.status == 404:
            return None
        if reply.status != 200:
            raise Unavailable(f"{url} answers {reply.status}.", code="log_unavailable")
        return reply.body


def source_of(place: str) -> Source:
    """A log's files, from a URL or a folder. Raises NotFound if there is no such folder."""
    if place.startswith(("http://", "https://")):
        return LogUrl(place)
    folder = Path(place)
    if not folder.is_dir():
        raise NotFound(f"{folder} is no folder of a log.")
    return LogFolder(folder)


def read_note(source: Source, place: str, path: str = CHECKPOINT) -> Note:
    """A checkpoint's note, nothing of it verified. Raises NotFound, LogFault."""
    data = source.read(path)
    if data is None:
        raise NotFound(f"{place} has no file {path}; it is no log.")
    return parse_note(data)


def open_with(note: Note, trust: TrustFile | None) -> tuple[Checkpoint, Opened | None]:
    """A checkpoint, and what a trust file says of it; without one it is believed as it stands. Raises LogFault."""
    if trust is not None:
        opened = trust.open_checkpoint(note)
        return opened.checkpoint, opened
    checkpoint = Checkpoint.decode(note.text)
    checkpoint.check()
    return checkpoint, None


def read_trust_file(path: Path) -> TrustFile:
    """A trust file. Raises InvalidRequest with what is wrong with it."""
    try:
        return parse_trust_file(path.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"the trust file {path} cannot be read ({error.strerror or error}).") from error
    except LogFault as error:
        raise InvalidRequest(f"the trust file {path}: {error}") from error
