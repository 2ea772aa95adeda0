"""`GET /v1/live`: one frame of the running server a second, made once for everybody who watches, and by no one else.

    first viewer -> a task: look at the engine, make a frame, encode it -> the same bytes to every viewer's outbox
    last viewer leaves -> the task ends, nothing is counted or made any more

Who asks for it gets what was before in the first frame (`history.py`). An outbox holds one frame: a viewer that is
slower than the feed gets the newest and skips those between. Frames end when a viewer's credentials do, and when the
server drains and nobody but viewers is left.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from headrace.api.live import (
    EndedRequest,
    LiveFrame,
    LiveServer,
    add_history,
    decode_live_query,
    disk_answer,
    encode_live,
    encode_live_event,
    milliseconds,
    model_answers,
)
from headrace.api.sse import CONTENT_TYPE
from headrace.core.errors import Forbidden, HeadraceError, Overloaded
from headrace.core.identity import Identity
from headrace.core.watching import LiveEngine, Watching
from headrace.server.answers import Answering
from headrace.server.credentials import Credentials, ShownKey
from headrace.server.exchange import Exchange
from headrace.server.feed import Pace
from headrace.server.guard import Guard
from headrace.server.history import History
from headrace.server.latencies import Latencies
from headrace.server.lifecycle import Lifecycle, Phase
from headrace.server.routes import Route
from headrace.server.sights import MAX_SHOWN, ended_progress, ended_request, see
from headrace.server.tally import Open, Tally

PATH: Final = "/v1/live"
INTERVAL_S: Final = 1.0
PATIENCE_S: Final = 10.0  # with an engine whose step takes long, where a frame without it would say nothing
MAX_VIEWERS: Final = 64
MAX_OF_ONE: Final = 16
SCOPES: Final = frozenset({"admin", "observe"})

_logger = logging.getLogger("headrace.server")

_HEADERS: Final = [(b"cache-control", b"no-cache, no-transform"), (b"x-accel-buffering", b"no")]


class Viewer:
    """Somebody who watches, None for the user of a server without keys. `frame` gives the newest frame, once; None when
    there will be no other. `wants_history`: of what was before, with the first one."""

    def __init__(self, who: str | None = None, *, wants_history: bool = False) -> None:
        self.who = who
        self.wants_history = wants_history
        self._frame: bytes | None = None
        self._changed = asyncio.Event()
        self._is_over = False
        self.num_skipped = 0

    def offer(self, frame: bytes) -> None:
        """A new frame; one that was not taken yet is skipped."""
        self.num_skipped += self._frame is not None
        self._frame = frame
        self._changed.set()

    def end(self) -> None:
        """There will be no other."""
        self._is_over = True
        self._changed.set()

    async def frame(self) -> bytes | None:
        """See the class."""
        await self._changed.wait()
        frame, self._frame = self._frame, None
        self.wants_history = False
        if not self._is_over:
            self._changed.clear()
        return frame


@dataclass(slots=True)
class LiveFeed:
    """See the file's head. `watching` is the engine, if there is one; times are in seconds. `history` is always on."""

    tally: Tally
    lifecycle: Lifecycle
    pace: Pace
    watching: Watching | None
    version: str
    interval_s: float = INTERVAL_S
    history: History = field(init=False)
    _started_s: float = field(init=False)
    _viewers: set[Viewer] = field(default_factory=set)
    _task: asyncio.Task[None] | None = None
    _looking: asyncio.Task[LiveEngine] | None = None
    _engine: LiveEngine | None = None
    _looked_s: float = 0.0
    _latest: bytes | None = None
    _latencies: Latencies = field(init=False)
    _ended: deque[EndedRequest] = field(default_factory=lambda: deque(maxlen=MAX_SHOWN))
    _num_ended: int = 0

    def __post_init__(self) -> None:
        self.history = History(self.tally, self.pace, self.watching)
        self._started_s = self.pace.clock.monotonic_s()
        self._latencies = Latencies(self._started_s)

    def open(self, who: str | None = None, *, wants_history: bool = False) -> Viewer:
        """One more viewer. Raises Overloaded for one too many, of one caller or of all."""
        num_own = 0 if who is None else sum(one.who == who for one in self._viewers)
        if len(self._viewers) >= MAX_VIEWERS or num_own >= MAX_OF_ONE:
            told = f"{MAX_OF_ONE} viewers of yours" if num_own >= MAX_OF_ONE else f"{MAX_VIEWERS} viewers"
            raise Overloaded(f"{told} watch this server already; close one, or ask with once=true.", retry_after_s=5.0)
        viewer = Viewer(who, wants_history=wants_history)
        if self._task is None or self._task.done():
            self._viewers = {viewer}  # others: a task that is still ending has those that it began with
            self._latencies = Latencies(self.pace.clock.monotonic_s())
            if self._note_end not in self.tally.on_end:  # a task that ended by itself has left it there
                self.tally.on_end.append(self._note_end)
            self._task = asyncio.get_running_loop().create_task(self._work(self._viewers))
            return viewer
        self._viewers.add(viewer)
        if self._latest is not None:
            self._offer(viewer, self._latest, encode_live_event(self._latest))
        return viewer

    async def close(self, viewer: Viewer) -> None:
        """One viewer less. With the last one everything ends that was done for them."""
        self._viewers.discard(viewer)
        task = self._task
        if self._viewers or task is None:
            return
        self._task = None
        self._stop_counting()
        task.cancel()
        await asyncio.wait([task])
        if not task.cancelled() and (error := task.exception()) is not None:
            _logger.error("the live feed met a defect and ended", exc_info=error)

    async def once(self, *, wants_history: bool = False) -> bytes:
        """One frame, encoded, for somebody who does not stay: what is open now, and nothing that has ended."""
        nothing = Latencies(self.pace.clock.monotonic_s())
        frame = encode_live(await self._frame(nothing, [], 0, patience_s=PATIENCE_S))
        return add_history(frame, self.history.encode()) if wants_history else frame

    def _offer(self, viewer: Viewer, frame: bytes, event: bytes) -> None:
        """A frame, also as the event that all share who know what was before."""
        viewer.offer(encode_live_event(add_history(frame, self.history.encode())) if viewer.wants_history else event)

    def _stop_counting(self) -> None:
        if self._note_end in self.tally.on_end:
            self.tally.on_end.remove(self._note_end)
        self._latest = None
        self._ended.clear()
        self._num_ended = 0
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _work(self, viewers: set[Viewer]) -> None:
        try:
            while not self._is_last():
                ended, num_ended = list(self._ended), self._num_ended
                self._ended.clear()
                self._num_ended = 0
                # Of an engine that was never looked at there is nothing older to show.
                patience_s = PATIENCE_S if self._engine is None else self.interval_s
                frame = await self._frame(self._latencies, ended, num_ended - len(ended), patience_s)
                self._latest = encode_live(frame)
                event = encode_live_event(self._latest)
                for viewer in viewers:
                    self._offer(viewer, self._latest, event)
                await self.pace.pause(self.interval_s)
        finally:
            for viewer in viewers:
                viewer.end()

    def _is_last(self) -> bool:
        """Whether the server waits for nobody but viewers."""
        lifecycle = self.lifecycle
        return lifecycle.phase is Phase.DRAINING and len(lifecycle.running) <= len(self._viewers)

    def _note_end(self, one: Open) -> None:
        ended = ended_request(one, self.pace.clock.unix_s())
        if ended is not None:
            self._num_ended += 1
            self._ended.append(ended)
            now_s = one.started_s + one.record.duration_s
            self._latencies.note(one, one.started_s, ended_progress(one), now_s, is_over=True)

    async def _frame(
        self, latencies: Latencies, ended: list[EndedRequest], num_more_ended: int, patience_s: float
    ) -> LiveFrame:
        await self._look(patience_s)
        clock, engine = self.pace.clock, self._engine
        now_s = clock.monotonic_s()
        sights = see(self.tally.all_open(), engine, now_s)
        for sight in sights.shown:
            if sight.one is not None:
                latencies.note(sight.one, sight.one.started_s, sight.progress, now_s)
        return LiveFrame(
            time_ms=milliseconds(clock.unix_s()),
            interval_ms=milliseconds(self.interval_s),
            server=LiveServer(
                version=self.version,
                phase=self.lifecycle.phase.value,
                uptime_ms=milliseconds(now_s - self._started_s),
                num_open=self.tally.num_open,
                num_viewers=len(self._viewers),
            ),
            engine_age_ms=None if engine is None else milliseconds(now_s - self._looked_s),
            models=(models := [] if engine is None else model_answers(engine)),
            models_left_out=0 if engine is None else len(engine.models) - len(models),
            disk=None if engine is None else disk_answer(engine.disk),
            requests=[sight.shown for sight in sights.shown],
            requests_left_out=sights.num_left_out,
            ended=ended,
            ended_left_out=num_more_ended,
            latency=latencies.take(now_s),
        )

    async def _look(self, patience_s: float) -> None:
        """Ask the engine, and go by what it said last if a step takes longer than that."""
        if self.watching is None:
            return
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_task(self.watching.look())
        looking = self._looking
        await asyncio.wait([looking], timeout=patience_s)
        if looking.done() and not looking.cancelled():
            if self._looking is looking:
                self._looking = None
            try:
                self._engine = looking.result()
            except HeadraceError:  # it has stopped: what it said last is all there is
                return
            self._looked_s = self.pace.clock.monotonic_s()


def live_routes(answering: Answering, credentials: Credentials, feed: LiveFeed) -> list[Route]:
    """`/v1/live`."""

    async def show(exchange: Exchange, identity: Identity) -> None:
        query = decode_live_query(exchange.query())
        if query.once or exchange.record.method == "HEAD":
            await exchange.respond(200, await feed.once(wants_history=query.history))
            return
        key = credentials.key_of(exchange, identity)
        who = identity.principal.subject if credentials.is_needed else None
        viewer = feed.open(who, wants_history=query.history)
        try:
            guard = Guard(exchange.wire, exchange.receive, exchange.send, answering.lifecycle, answering.sweep)
            async with guard:
                await guard.begin(exchange.start(200, CONTENT_TYPE, _HEADERS))
                await _send(exchange, guard, viewer, lambda: _check(credentials, identity, key))
                await guard.end()
        finally:
            await feed.close(viewer)

    return [Route(PATH, "GET", "admin", show)]


async def _send(exchange: Exchange, guard: Guard, viewer: Viewer, check: Callable[[], None]) -> None:
    """Frames until there are no more or `check` says that who watches may not any more, which is told."""
    while (frame := await viewer.frame()) is not None:
        try:
            check()
        except HeadraceError as error:
            exchange.record.outcome = error.code
            await guard.write(exchange.errors.encode_frame(error, exchange.record.request_id))
            return
        await guard.write(frame)


def _check(credentials: Credentials, identity: Identity, key: ShownKey | None) -> None:
    now = credentials.check_again(identity, key)
    if now.principal.scopes.isdisjoint(SCOPES):
        raise Forbidden("the key lacks the scope 'admin' by now; ask for a key that has it, or 'observe'.")
