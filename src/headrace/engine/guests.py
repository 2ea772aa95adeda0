"""Models that come and go: requests wait here for theirs, and one thread loads, unloads and looks at the clock.

    any event loop   hold, release, load_model, unload_model    -> residency.py decides, under one lock
    loader thread    what it decided: loads and unloads, one after the other; and what has been idle for too long

A request holds its model until it has ended. Leaving the wait in any way gives the place, or what was granted
meanwhile, back. Knows no engine: what opens and closes a model is given.
"""

import asyncio
import logging
import math
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future

from headrace.core.clock import Clock
from headrace.core.errors import Conflict, DeadlineExceeded, EngineFault, HeadraceError, Overloaded, Unavailable
from headrace.core.service import Residence
from headrace.engine.residency import Action, Grant, Load, Need, Refuse, Residency, State, Unload

_SWITCH_S = 0.0005
"""Python's thread switch interval while a model is loaded or unloaded. What these do holds the interpreter for some ten
milliseconds in all, and no single call for more than one; with the usual interval of 5 ms a step that ends meanwhile
waits that long to go on."""

_JOIN_S = 10.0  # for a load that is under way when the server stops; its thread dies with the process

_log = logging.getLogger("headrace.engine")


class Hold:
    """What somebody has of a model and its adapter; `release` gives it back, once, however often it is called."""

    def __init__(self, *releases: Callable[[], object]) -> None:
        self._releases = list(releases)

    def add(self, release: Callable[[], object]) -> None:
        """One more thing to give back, before the others."""
        self._releases.append(release)

    def release(self) -> None:
        """Give everything back."""
        while self._releases:
            self._releases.pop()()


class _Place:
    """One who waits for a model, until `told` has a result or an error."""

    __slots__ = ("is_granted", "told")

    def __init__(self) -> None:
        self.told: Future[None] = Future()
        self.is_granted = False


class Guests:
    """See the file's head. `open_model` loads a model and brings it into service, and says what it takes; `close_model`
    frees it. Both run on the loader thread and may raise HeadraceError. `max_waiting` requests may wait for models."""

    def __init__(
        self,
        residency: Residency,
        clock: Clock,
        max_waiting: int,
        open_model: Callable[[str], Need],
        close_model: Callable[[str], None],
    ) -> None:
        self._residency = residency
        self._clock = clock
        self._max_waiting = max_waiting
        self._open_model = open_model
        self._close_model = close_model
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._jobs: deque[Load | Unload] = deque()
        self._places: set[_Place] = set()
        self._gone: dict[str, list[Future[None]]] = {}
        self._alarm = math.inf  # when the loader thread looks at the clock by itself
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="headrace-loader", daemon=True)

    def start(self) -> None:
        """Start the loader thread."""
        self._thread.start()

    def stop(self) -> None:
        """Tell all who wait that they wait in vain, and end the loader thread; stopping twice is no error."""
        with self._lock:
            self._stopping = True
            stopped = Unavailable("The server is stopping; try again.")
            for place in [*self._places]:
                self._tell(place, stopped)
            for waiting in self._gone.values():
                for gone in waiting:
                    if gone.set_running_or_notify_cancel():
                        gone.set_exception(stopped)
            self._gone.clear()
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(_JOIN_S)

    async def hold(self, name: str, limit_s: float | None = None) -> Hold:
        """Use a model, once it is there.

        Raises DeadlineExceeded after `limit_s` seconds, InvalidRequest if the model can never fit, Overloaded if too
        many wait, Unavailable when stopping, and what its loading raised.
        """
        place = _Place()
        with self._lock:
            self._check_running()
            if self._residency.state(name) is not State.READY and self._residency.num_waiting >= self._max_waiting:
                raise Overloaded(
                    f"{self._residency.num_waiting} requests wait for models already; try again.", retry_after_s=1.0
                )
            self._places.add(place)
            try:
                self._do(self._residency.ask(name, place, self._clock.monotonic_s()))
            except HeadraceError:
                self._places.discard(place)
                raise
        try:
            if not place.told.done():
                async with asyncio.timeout(limit_s):
                    await asyncio.wrap_future(place.told)
            place.told.result()
        except TimeoutError as error:
            self._withdraw(name, place)
            raise DeadlineExceeded(f"The request's time limit passed while {name} was loaded.") from error
        except BaseException:
            self._withdraw(name, place)
            raise
        return Hold(lambda: self._release(name))

    def hold_now(self, name: str) -> Hold:
        """Use a model that is there. Raises Unavailable if it is not."""
        with self._lock:
            self._check_running()
            if self._residency.state(name) is not State.READY:
                raise Unavailable(f"{name} is not in memory; a request that runs loads it.", code="model_not_loaded")
            place = _Place()
            self._places.add(place)
            self._do(self._residency.ask(name, place, self._clock.monotonic_s()))
        return Hold(lambda: self._release(name))

    async def load_model(self, name: str) -> Residence:
        """See `core.service.Residents`."""
        hold = await self.hold(name)
        hold.release()
        return self.describe(name)

    async def unload_model(self, name: str, *, waits: bool = True) -> Residence:
        """See `core.service.Residents`."""
        gone: Future[None] = Future()
        with self._lock:
            self._check_running()
            state = self._residency.state(name)
            if not waits and (state is State.LOADING or not self._residency.is_free(name)):
                raise Conflict(
                    f"{name} is in use; wait until its requests have ended, or ask without 'wait': false.",
                    param="model",
                    code="model_in_use",
                )
            if state in {State.LOADING, State.READY, State.LEAVING}:
                self._gone.setdefault(name, []).append(gone)
                self._do(self._residency.dismiss(name, self._clock.monotonic_s()))
            else:
                gone.set_result(None)
        await asyncio.wrap_future(gone)
        return self.describe(name)

    def describe(self, name: str) -> Residence:
        """What one model holds now."""
        with self._lock:
            return self._residency.describe(name, self._clock.monotonic_s())

    def residences(self, names: Iterable[str]) -> tuple[Residence, ...]:
        """What models hold, all at the same time."""
        with self._lock:
            now = self._clock.monotonic_s()
            return tuple(self._residency.describe(name, now) for name in names)

    # -- under the lock ---------------------------------------------------------------------------------------------

    def _check_running(self) -> None:
        if self._stopping:
            raise Unavailable("The server is stopping; try again.")

    def _do(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Load | Unload):
                self._jobs.append(action)
                continue
            place = action.waiter
            assert isinstance(place, _Place)
            place.is_granted = isinstance(action, Grant)
            self._tell(place, action.error if isinstance(action, Refuse) else None)
        # Not for every request: a thread that wakes up wants the interpreter.
        expiry = self._residency.next_expiry()
        if self._jobs or expiry < self._alarm or expiry <= self._clock.monotonic_s():
            self._changed.notify_all()

    def _tell(self, place: _Place, error: HeadraceError | None) -> None:
        self._places.discard(place)
        # Whoever stopped waiting has cancelled it, and gives back what was granted.
        if not place.told.done() and place.told.set_running_or_notify_cancel():
            if error is None:
                place.told.set_result(None)
            else:
                place.told.set_exception(error)

    # -- any thread -------------------------------------------------------------------------------------------------

    def _withdraw(self, name: str, place: _Place) -> None:
        with self._lock:
            self._places.discard(place)
            now = self._clock.monotonic_s()
            residency = self._residency
            self._do(residency.release(name, now) if place.is_granted else residency.leave(place, now))

    def _release(self, name: str) -> None:
        with self._lock:
            self._do(self._residency.release(name, self._clock.monotonic_s()))

    # -- the loader thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (job := self._next_job()) is not None:
            usual_s = sys.getswitchinterval()
            sys.setswitchinterval(min(usual_s, _SWITCH_S))
            try:
                if isinstance(job, Load):
                    self._load(job.name)
                else:
                    self._unload(job.name)
            finally:
                sys.setswitchinterval(usual_s)

    def _next_job(self) -> Load | Unload | None:
        with self._lock:
            while not self._stopping:
                if self._jobs:
                    return self._jobs.popleft()
                self._alarm = self._residency.next_expiry()
                left_s = self._alarm - self._clock.monotonic_s()
                if left_s > 0:
                    self._changed.wait(None if left_s == math.inf else min(left_s, threading.TIMEOUT_MAX))
                else:
                    self._do(self._residency.tick(self._clock.monotonic_s()))
        return None

    def _load(self, name: str) -> None:
        started = self._clock.monotonic_s()
        error: HeadraceError | None = None
        need = Need(0, 0)
        try:
            need = self._open_model(name)
        except HeadraceError as failure:
            error = failure
        except Exception as failure:
            # A defect in one load must not become that of all others: the next model is loaded all the same.
            _log.exception("%s: its loading met a defect.", name)
            error = EngineFault(f"The loading of {name} failed by a defect ({type(failure).__name__}); it is logged.")
        took_s = self._clock.monotonic_s() - started
        if error is None:
            _log.info("%s: loaded in %.2f s, holds %.1f MB", name, took_s, need.total_bytes / 1e6)
        else:
            _log.warning("%s: cannot be loaded: %s", name, error.message)
        with self._lock:
            now = self._clock.monotonic_s()
            residency = self._residency
            self._do(residency.loaded(name, need, now) if error is None else residency.failed(name, error, now))
            if error is not None:
                self._say_gone(name)

    def _unload(self, name: str) -> None:
        try:
            self._close_model(name)
        except Unavailable:
            # The engine has stopped, and lets go of everything itself. Who waits for the memory is told by the load.
            _log.debug("%s: left with the engine", name)
        except Exception:
            # Whoever waits for this memory must not wait for ever because of a defect here.
            _log.exception("%s: its unloading met a defect.", name)
        _log.info("%s: unloaded", name)
        with self._lock:
            self._say_gone(name)
            self._do(self._residency.unloaded(name, self._clock.monotonic_s()))

    def _say_gone(self, name: str) -> None:
        for gone in self._gone.pop(name, []):
            if gone.set_running_or_notify_cancel():
                gone.set_result(None)
