"""Asks witnesses for their cosignatures, C2SP tlog-witness, on threads of its own: nobody who logs waits for them.

In rounds: one checkpoint, the newest, is shown to every witness that has no request under way; as soon as as many as
are needed have cosigned it, it counts as witnessed. A witness that does not answer is asked again in the next round. A
witness that shows a checkpoint of ours which is larger than the newest shows that an older state of the log was put
back: then the log is ended. Knows no files but through a `Source`.
"""

import http.client
import logging
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Protocol
from urllib.parse import urlsplit

from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError
from headrace.gateway.notary.writer import LogInconsistent, Published
from headrace.trust.log.checkpoint import Checkpoint, parse_size
from headrace.trust.log.fault import LogFault
from headrace.trust.log.keys import VerifierKey, parse_vkey
from headrace.trust.log.note import Note, open_note, parse_note
from headrace.trust.log.reading import Reader, Source
from headrace.trust.log.settings import LogSettings, WitnessSettings
from headrace.trust.log.witness import Request, read_answer

_logger = logging.getLogger("headrace.log")

MAX_ANSWER_BYTES: Final = 1 << 20
MAX_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered."""

    status: int
    body: bytes


class Witnessed(Protocol):
    """The log that is witnessed; called from other threads than its own."""

    @property
    def latest(self) -> Published:
        """The newest checkpoint."""
        ...

    def add_cosignatures(self, note: Note, *, is_witnessed: bool) -> None:
        """A checkpoint with cosignatures, of which there are enough or not."""
        ...

    def refuse(self, fault: HeadraceError) -> None:
        """End the log."""
        ...


Fetch = Callable[[str, str, bytes | None, float], Reply]
"""What `fetch` below is. Raises OSError, http.client.HTTPException or ValueError."""


class WitnessClient:
    """One witness. Used by one thread at a time."""

    def __init__(self, settings: WitnessSettings, timeout_s: float, fetch: Fetch) -> None:
        self.settings = settings
        self._key = parse_vkey(settings.vkey)
        self._timeout_s = timeout_s
        self._fetch = fetch
        self._size = 0  # of the latest checkpoint that it cosigned, as far as is known here

    def ask(self, published: Published, source: Source) -> Note:
        """The checkpoint with its cosignatures. Raises LogFault if it says no, and OSErrors if it says nothing."""
        for _ in range(MAX_TRIES):
            size = published.checkpoint.size
            proof: tuple[bytes, ...] = ()
            if 0 < self._size < size:
                proof = tuple(Reader(source, size).consistency(self._size))
            request = Request(min(self._size, size), proof, published.note)
            url = f"{self.settings.prefix}/add-checkpoint"
            reply = self._fetch("POST", url, request.encode(), self._timeout_s)
            if reply.status == 200:
                note = read_answer(published.note, reply.body, [self._key])
                self._size = size
                return note
            if reply.status != 409:
                raise LogFault(f"it answers {reply.status}: {reply.body[:200].decode('utf-8', 'replace').strip()}")
            # "The response body MUST consist of the tree size of the latest cosigned checkpoint in decimal, followed by
            # a newline."
            told = reply.body.decode("ascii", "replace")
            self._size = parse_size(told.removesuffix("\n"), "the size that the witness tells")
            if self._size > size:
                raise Ahead(self._size)
        raise LogFault(f"it answered with a conflict {MAX_TRIES} times; somebody else submits checkpoints of this log.")

    def newest(self, origin: str, keys: tuple[VerifierKey, ...]) -> Checkpoint:
        """What it cosigned last of our own signed checkpoints (Monitor Retrieval Mechanism). Raises LogFault."""
        url = f"{self.settings.prefix}/{sha256(origin.encode()).hexdigest()}/checkpoint"
        reply = self._fetch("GET", url, None, self._timeout_s)
        if reply.status != 200:
            raise LogFault(f"it does not show the checkpoint that it cosigned: it answers {reply.status}.")
        note = parse_note(reply.body)
        open_note(note, keys)
        checkpoint = Checkpoint.decode(note.text)
        if checkpoint.origin != origin:
            raise LogFault(f"it shows a checkpoint of another log, {checkpoint.origin!r}.")
        return checkpoint


class Ahead(Exception):
    """A witness says that it cosigned a larger tree than the one it is shown."""

    def __init__(self, size: int) -> None:
        super().__init__(f"it cosigned a tree of {size} entries already")
        self.size = size


class Rounds:
    """Asks all witnesses of a log, again and again. `start` it and `close` it."""

    def __init__(
        self, log: Witnessed, source: Source, keys: tuple[VerifierKey, ...], settings: LogSettings, clock: Clock,
        fetch: Fetch | None = None,
    ) -> None:  # fmt: skip
        self._log = log
        self._source = source
        self._keys = keys
        self._settings = settings
        self._clock = clock
        timeout_s = settings.witness_timeout_s
        self._clients = [WitnessClient(one, timeout_s, fetch or fetch_http) for one in settings.witnesses]
        self._asked: dict[str, Future[Note]] = {}
        self._silent: set[str] = set()
        self._shown = b""  # the text that everybody cosigned
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(len(self._clients), "headrace-witness")
        self._thread = threading.Thread(target=self._run, name="headrace-witnesses")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End. Requests under way are waited for, as long as they may take."""
        self._closing.set()
        self._thread.join()
        self._pool.shutdown()

    def _run(self) -> None:
        while not self._closing.is_set():
            published = self._log.latest
            if published.note.text != self._shown:
                self.run_once(published)
            self._closing.wait(self._settings.witness_every_s)

    def run_once(self, published: Published) -> None:
        """Show one checkpoint to every witness that has no request under way, and take in what they answer in time."""
        note, names = published.note, set[str]()
        for client in self._clients:
            if (before := self._asked.get(client.settings.name)) is None or before.done():
                self._asked[client.settings.name] = self._pool.submit(client.ask, published, self._source)
        asked = {self._asked[client.settings.name]: client for client in self._clients}
        ends_s = self._clock.monotonic_s() + self._settings.witness_timeout_s
        while asked and not self._closing.is_set() and (left_s := ends_s - self._clock.monotonic_s()) > 0:
            done, _ = wait(asked, left_s, FIRST_COMPLETED)
            for future in done:
                client = asked.pop(future)
                answered = self._answer(client, future, published)
                if answered is None or answered.text != note.text:
                    continue  # it failed, or it is the answer of a round before
                note = _join(note, answered)
                names.add(client.settings.name)
            if done and names:
                self._take(note, is_witnessed=0 < self._settings.quorum <= len(names))
        if len(names) == len(self._clients):
            self._shown = note.text

    def _take(self, note: Note, *, is_witnessed: bool) -> None:
        try:
            self._log.add_cosignatures(note, is_witnessed=is_witnessed)
        except HeadraceError as error:
            _logger.warning("cosignatures could not be kept: %s", error)

    def _answer(self, client: WitnessClient, future: Future[Note], published: Published) -> Note | None:
        name = client.settings.name
        try:
            note = future.result()
        except Ahead as error:
            self._doubt(client, error.size)
            return None
        except (HeadraceError, OSError, http.client.HTTPException, ValueError) as error:
            if name not in self._silent:
                _logger.warning("the witness %s did not cosign: %s", name, error)
            self._silent.add(name)
            return None
        if name in self._silent:
            self._silent.discard(name)
            _logger.info("the witness %s cosigns again", name)
        return note

    def _doubt(self, client: WitnessClient, size: int) -> None:
        """A witness says that it knows more than there is. Only our own signature proves it."""
        if size <= self._log.latest.checkpoint.size:
            return  # the log grew meanwhile: the next round shows what there is now
        try:
            seen = client.newest(self._log.latest.checkpoint.origin, self._keys)
        except (HeadraceError, OSError, http.client.HTTPException, ValueError) as error:
            name = client.settings.name
            _logger.warning("the witness %s says it cosigned %d entries, and does not show it: %s", name, size, error)
            return
        newest = self._log.latest.checkpoint
        if seen.size > newest.size or (seen.size == newest.size and seen.root != newest.root):
            self._log.refuse(
                LogInconsistent(
                    f"the witness {client.settings.name} shows that this log had {seen.size} entries, and there are "
                    f"{newest.size}: an older state was put back. To go on would fork the log; put back the newest."
                )
            )


def _join(note: Note, other: Note) -> Note:
    """A note with the signature lines of both."""
    have = {one.line for one in note.signatures}
    return Note(note.text, note.signatures + tuple(one for one in other.signatures if one.line not in have))


def fetch_http(method: str, url: str, body: bytes | None, timeout_s: float) -> Reply:
    """One HTTP request, no redirects followed. Raises OSError, http.client.HTTPException, ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or parts.hostname is None:
        raise ValueError(f"{url} is no URL of a witness")
    connection: http.client.HTTPConnection
    ends_s = time.monotonic() + timeout_s  # each wait is bounded by itself; this bounds all of them
    if parts.scheme == "https":
        context = ssl.create_default_context()
        connection = http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    try:
        headers = {"content-type": "text/plain; charset=utf-8"} if body is not None else {}
        connection.request(method, parts.path or "/", body, headers)
        response, pieces, num_bytes = connection.getresponse(), [], 0
        while piece := response.read1(1 << 16):
            pieces.append(piece)
            num_bytes += len(piece)
            if num_bytes > MAX_ANSWER_BYTES:
                raise ValueError(f"{url} answers with more than {MAX_ANSWER_BYTES} bytes")
            if time.monotonic() > ends_s:
                raise TimeoutError(f"{url} did not answer within {timeout_s:g} s")
        return Reply(response.status, b"".join(pieces))
    finally:
        connection.close()
