"""Takes in what is to be logged, from any thread, and logs it on a thread of its own, many items at a time.

An item waits in memory until its batch is committed: `batch_s` after its first item came, as soon as there are
`batch_items`, or as soon as somebody who hurries waits for one: what gathered while the last batch was written is then
the next. What cannot be written is tried again until it can, and meanwhile nothing more is taken in. What waits is
lost if the process is killed; an item is acknowledged when `merged` says so, and then it is not. Knows neither what is
in an item nor how a log is made (`writer.py`).
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import Conflict, HeadraceError, InvalidRequest, NotFound, Overloaded, Unavailable
from headrace.core.provenance import LogItem
from headrace.gateway.notary.writer import LogWriter, Published
from headrace.memory import provenance
from headrace.memory.log_files import LogFolder
from headrace.memory.store import Store
from headrace.trust.log.note import Note
from headrace.trust.log.proof import LogProof
from headrace.trust.log.reading import Reader
from headrace.trust.log.settings import LogSettings
from headrace.trust.log.tiles import MAX_ENTRY_BYTES

_logger = logging.getLogger("headrace.log")

MAX_BATCH_ITEMS: Final = 8192
"""What is committed at once when items come faster than they are written."""


@dataclass(frozen=True, slots=True)
class _Waiter:
    """Who is told an item's index, on a loop. `hurries`: or at once that nothing can be written."""

    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[int]"
    hurries: bool


@dataclass(slots=True)
class _Waiting:
    """An item that is in no checkpoint yet. `is_taken`: its batch is being written."""

    item: LogItem
    since_s: float
    waiters: list[_Waiter]
    is_taken: bool = False


class LogNotary:
    """Implements `core.provenance.Log`. `start` it, which may take a while, and `close` it.

    `make_writer` opens files and database, on the notary's thread; `store` reads the same database; `on_merged` is told
    how long each item of a batch took until a checkpoint covered it, in seconds, on the notary's thread.
    """

    def __init__(
        self,
        make_writer: Callable[[], LogWriter],
        store: Store,
        files: LogFolder,
        settings: LogSettings,
        *,
        clock: Clock | None = None,
        on_merged: Callable[[Sequence[float]], None] | None = None,
        retry_s: float = 1.0,
    ) -> None:
        self._make_writer = make_writer
        self._store = store
        self._files = files
        self._settings = settings
        self._clock = clock or SystemClock()
        self._on_merged = on_merged
        self._retry_s = retry_s
        self._changed = threading.Condition()
        self._queue: deque[_Waiting] = deque()
        self._num_bytes = 0  # of what is in the queue
        self._waiting: dict[str, _Waiting] = {}
        self._fault: HeadraceError | None = None
        self._ended_by: HeadraceError | None = None
        self._is_closing = False
        self._is_hurried = False  # somebody waits for what is in the queue
        self._writer: LogWriter | None = None
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="headrace-notary")

    @property
    def origin(self) -> str:
        """The log's name."""
        return self.latest.checkpoint.origin

    @property
    def latest(self) -> Published:
        """The newest checkpoint."""
        return self._open_writer.latest

    @property
    def witnessed(self) -> Published | None:
        """The newest checkpoint that enough witnesses cosigned."""
        return self._open_writer.witnessed

    @property
    def num_waiting(self) -> int:
        """Items that no checkpoint covers yet."""
        return len(self._waiting)

    @property
    def _ends(self) -> bool:
        return self._is_closing or self._ended_by is not None

    @property
    def _open_writer(self) -> LogWriter:
        if self._writer is None:
            raise Unavailable("the log is not open.", code="log_unavailable")
        return self._writer

    def start(self) -> None:
        """Open the log and bring it up to date. Raises LogInconsistent, Conflict if another process writes it, and
        other HeadraceErrors."""
        self._thread.start()
        self._started.result()

    def close(self) -> None:
        """Log what waits, and end. What cannot be written then is lost, and told to whoever waits for it."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._thread.join()

    def submit(self, item: LogItem) -> None:
        """Take an item in. Never waits. Raises InvalidRequest if it can never be logged, Overloaded while the queue is
        full, and what keeps the log from being written: DiskFull, Unavailable."""
        if len(item.entry) > MAX_ENTRY_BYTES:
            raise InvalidRequest(
                f"an entry has {len(item.entry)} bytes; a log takes at most {MAX_ENTRY_BYTES}.", param="entry"
            )
        with self._changed:
            self.check()
            if item.id in self._waiting:
                raise Conflict(f"the id {item.id!r} was given already; ids are given once.", param="id")
            waiting = _Waiting(item, self._clock.monotonic_s(), [])
            self._queue.append(waiting)
            self._num_bytes += _size(item)
            self._waiting[item.id] = waiting
            if len(self._queue) in {1, self._settings.batch_items}:
                self._changed.notify_all()

    def check(self) -> None:
        """Raise what `submit` would raise now for any item."""
        if self._fault is not None:
            raise self._fault.with_traceback(None)  # it is raised often, and would gather where each time
        if self._is_closing or self._writer is None:
            raise Unavailable("the log is not open; nothing can be logged.", code="log_unavailable")
        settings = self._settings
        if len(self._queue) >= settings.queue_items or self._num_bytes >= settings.queue_bytes:
            raise Overloaded(
                f"{len(self._queue)} items wait to be logged, as many as may; try again in a moment.",
                retry_after_s=1.0,
            )

    async def merged(self, item_id: str, *, hurries: bool = False) -> int:
        """The index of an item, as soon as a checkpoint covers it. Raises NotFound, what ended the log, and to who
        hurries what keeps it from being written."""
        with self._changed:
            waiting = self._waiting.get(item_id)
            if waiting is not None:
                if hurries and self._fault is not None:
                    raise self._fault.with_traceback(None)
                loop = asyncio.get_running_loop()
                waiter: asyncio.Future[int] = loop.create_future()
                waiting.waiters.append(_Waiter(loop, waiter, hurries))
                if hurries and not waiting.is_taken and not self._is_hurried:
                    self._is_hurried = True
                    self._changed.notify_all()
        if waiting is not None:
            return await waiter
        kept = await self._store.read(provenance.by_id, item_id)
        if (kept is None or kept.index >= self.latest.checkpoint.size) and self._fault is not None:
            raise self._fault.with_traceback(None)
        if kept is None or kept.index >= self.latest.checkpoint.size:
            raise NotFound(f"nothing was logged under the id {item_id!r}.", param="id")
        return kept.index

    async def prove(self, index: int) -> bytes:
        """A tlog-proof of the entry of an index, by the newest checkpoint that witnesses cosigned, if it covers the
        entry, else by the newest. Raises NotFound."""
        witnessed, published = self.witnessed, self.latest
        if witnessed is not None and index < witnessed.checkpoint.size:
            published = witnessed
        if not 0 <= index < published.checkpoint.size:
            raise NotFound(
                f"no checkpoint covers an entry {index}; there are {published.checkpoint.size}.", param="index"
            )
        return await asyncio.to_thread(self._prove, index, published)

    def add_cosignatures(self, note: Note, *, is_witnessed: bool) -> None:
        """A checkpoint that witnesses cosigned; `is_witnessed`: as many as are needed. Raises HeadraceError."""
        self._open_writer.add_cosignatures(note, is_witnessed=is_witnessed)

    def refuse(self, fault: HeadraceError) -> None:
        """Take nothing in any more: somebody showed that what is here is not all of the log. Only a new start ends
        it."""
        with self._changed:
            self._fault = self._ended_by = fault
            self._changed.notify_all()

    def _prove(self, index: int, published: Published) -> bytes:
        hashes = Reader(self._files, published.checkpoint.size).inclusion(index)
        return LogProof(index=index, hashes=tuple(hashes), checkpoint=published.note).encode()

    def _run(self) -> None:
        try:
            writer = self._make_writer()
            try:
                writer.open()
                self._writer = writer
                self._started.set_result(None)
                while batch := self._next_batch():
                    self._log(writer, batch)
            finally:
                writer.close()
        except Exception as error:
            # The boundary of a thread: nobody would hear of a defect, and everybody would wait.
            self._end(error)

    def _end(self, error: Exception) -> None:
        fault = error if isinstance(error, HeadraceError) else None
        if fault is None:
            _logger.exception("the log met a defect and takes nothing in any more")
            fault = Unavailable("the log met a defect, which is written down; restart it.", code="log_unavailable")
        with self._changed:
            self._fault = fault
            lost, self._waiting = self._waiting, {}
            self._queue.clear()
        if not self._started.done():
            self._started.set_exception(fault)
        else:
            _logger.error("the log takes nothing in any more, and %d items are lost: %s", len(lost), fault)
        self._fail(lost.values(), fault)

    def _next_batch(self) -> list[_Waiting]:
        """Waits for the next items that are logged together; none: it is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._ends)
            if self._queue:
                left_s = self._queue[0].since_s + self._settings.batch_s - self._clock.monotonic_s()
                self._changed.wait_for(self._is_due, left_s)
            if self._ended_by is not None:
                raise self._ended_by
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), MAX_BATCH_ITEMS))]
            self._num_bytes -= sum(_size(one.item) for one in batch)
            self._is_hurried = self._is_hurried and bool(self._queue)
            for one in batch:
                one.is_taken = True
            return batch

    def _is_due(self) -> bool:
        return self._is_hurried or len(self._queue) >= self._settings.batch_items or self._ends

    def _log(self, writer: LogWriter, batch: list[_Waiting]) -> None:
        """Write until it is written. Gives up only when the log is closed meanwhile."""
        refused: frozenset[str] | None = None
        while True:
            try:
                if refused is None:
                    refused = writer.take([one.item for one in batch])
                published = writer.publish()
                break
            except HeadraceError as error:
                if not self._wait_for_room(error):
                    raise
        with self._changed:
            if self._fault is not None and self._ended_by is None:
                _logger.warning("the log can be written again")
                self._fault = None
            for one in batch:
                del self._waiting[one.item.id]
        again = [one for one in batch if one.item.id in refused]
        if again:
            _logger.error(
                "%d items were not logged: their ids were given before, such as %r", len(again), again[0].item.id
            )
            self._fail(again, Conflict("the id was given before, to another item; ids are given once.", param="id"))
        self._tell([one for one in batch if one.item.id not in refused], published)

    def _wait_for_room(self, error: HeadraceError) -> bool:
        """Refuse what comes, for a moment; False: nobody waits for that to pass."""
        with self._changed:
            if self._fault is None:
                _logger.error("nothing can be logged, and it is tried again: %s", error)
                self._fault = error
                self._fail(self._waiting.values(), error, only_hurried=True)
            if not self._ends:
                self._changed.wait_for(lambda: self._ends, self._retry_s)
                return True
            return False

    def _tell(self, logged: list[_Waiting], published: Published) -> None:
        first = published.checkpoint.size - len(logged)
        told: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[int], int]]] = {}
        for index, one in enumerate(logged, first):
            for waiter in one.waiters:
                told.setdefault(waiter.loop, []).append((waiter.future, index))
        for loop, pairs in told.items():
            _call(loop, _set_results, pairs)
        if self._on_merged is not None and logged:
            now_s = self._clock.monotonic_s()
            self._on_merged([now_s - one.since_s for one in logged])

    @staticmethod
    def _fail(waited_for: Iterable[_Waiting], fault: HeadraceError, *, only_hurried: bool = False) -> None:
        for one in waited_for:
            for waiter in one.waiters:
                if waiter.hurries or not only_hurried:
                    _call(waiter.loop, _set_error, waiter.future, fault)


def _size(item: LogItem) -> int:
    return len(item.entry) + len(item.envelope) + len(item.secrets) + len(item.content)


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *given: object) -> None:
    # A loop that has ended has nobody left who waits.
    if not loop.is_closed():
        loop.call_soon_threadsafe(function, *given)


def _set_results(pairs: Sequence[tuple["asyncio.Future[int]", int]]) -> None:
    for waiter, index in pairs:
        if not waiter.done():
            waiter.set_result(index)


def _set_error(waiter: "asyncio.Future[int]", fault: HeadraceError) -> None:
    if not waiter.done():
        waiter.set_exception(fault)
