"""Watches what accounts ask, beside the event loop: windows of inputs, and templates that several accounts share.

    begin (loop) --a bounded queue--> one thread: text, vector, window, template --what was found--> next begin (loop)

The loop hands over what it has, bytes or a request, and never waits: what does not fit is not watched, and counted.
What was found comes back to the loop, which alone owns the monitor. Knows no flags.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any, Final

import msgspec
import numpy as np

from headrace.core.errors import HeadraceError
from headrace.core.request import Request, Role, Task
from headrace.gateway.contract import Case
from headrace.trust.monitors.theft.linking import Group, LinkBook
from headrace.trust.monitors.theft.monitor import account_of
from headrace.trust.monitors.theft.settings import TheftSettings
from headrace.trust.monitors.theft.windows import Seen, WindowWatch

MAX_WAITING: Final = 512
MAX_BYTES: Final = 65_536
"""A longer conversation is not parsed: its end is what is watched."""
MAX_CHARS: Final = 4096
MAX_FOUND: Final = 1000
_logger = logging.getLogger(__name__)
_READ: Final = ("messages", "prompt", "input")
_decode: Final = msgspec.json.decode

Found = Seen | Group


@dataclass(frozen=True, slots=True)
class _Input:
    account: str
    tenant: str
    route: str
    asked: Request | bytes


class TheftWatch:
    """One thread, from `open` to `close`. It takes at most a `share` of the interpreter and rests for the remainder:
    what comes meanwhile waits, and is dropped where it is too much, so that nobody waits for an answer because of it.
    """

    def __init__(self, settings: TheftSettings, random: np.random.Generator, *, share: float = 1.0) -> None:
        self.num_dropped = 0
        self._rest_for_each = 1 / share - 1  # seconds, for one of work
        self._closing = threading.Event()
        self._windows = WindowWatch(settings, random)
        self._links = LinkBook(settings.link_likeness, random)
        self._queue: Queue[_Input | str | None] = Queue(MAX_WAITING)
        self._found: deque[Found] = deque(maxlen=MAX_FOUND)
        self._thread = threading.Thread(target=self._run, name="theft-watch", daemon=True)

    def open(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; what still waits is not watched."""
        self._closing.set()
        try:
            while True:
                self._queue.get_nowait()
        except Empty:
            self._queue.put(None)
        self._thread.join()

    def offer(self, case: Case) -> None:
        """A request has come. Never waits."""
        shape = case.ask.shape
        if shape.task is not Task.GENERATE:
            return
        asked = _asked(case)
        if asked is None:
            return
        principal = shape.principal
        try:
            self._queue.put_nowait(_Input(account_of(principal), principal.tenant, shape.model, asked))
        except Full:
            self.num_dropped += 1

    def forget(self, account: str) -> None:
        """Begin anew with an account that was cleared. Never waits."""
        try:
            self._queue.put_nowait(account)
        except Full:
            self.num_dropped += 1

    def take(self) -> Found | None:
        """The next of what was found, if there is more."""
        try:
            return self._found.popleft()
        except IndexError:
            return None

    def join(self) -> None:
        """Wait until all that was offered is watched; for tests and measurements."""
        self._queue.join()

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            began_s = time.thread_time()
            try:
                if item is None:
                    return
                if isinstance(item, str):
                    self._windows.forget(item)
                    self._links.forget(item)
                elif text := text_of(item.asked):
                    self._watch(item, text)
            except Exception:
                _logger.exception("theft: an input could not be watched")
            finally:
                self._queue.task_done()
            if self._rest_for_each:
                self._closing.wait(self._rest_for_each * (time.thread_time() - began_s))

    def _watch(self, item: _Input, text: str) -> None:
        seen = self._windows.add(item.account, item.tenant, item.route, text)
        if seen is not None:
            self._found.append(seen)
        group = self._links.add(item.account, item.tenant, text)
        if group is not None:
            self._found.append(group)


def _asked(case: Case) -> Request | bytes | None:
    raw = case.ask.raw
    if raw is not None:
        for name in _READ:
            if name in raw.fields:
                return raw.fields[name] if len(raw.fields[name]) <= MAX_BYTES else raw.fields[name][-MAX_CHARS:]
        return None
    try:
        return case.decode()
    except HeadraceError:
        return None  # it is refused for what it is


def text_of(asked: Request | bytes) -> str:
    """What somebody asks: the last turn that is theirs."""
    if isinstance(asked, bytes):
        try:
            return _last_text(_decode(asked))[:MAX_CHARS]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            return asked[-MAX_CHARS:].decode("utf-8", "replace")
    for message in reversed(asked.messages or ()):
        if message.role is Role.USER:
            return message.text[:MAX_CHARS]
    return (asked.prompt or "")[:MAX_CHARS]


def _last_text(value: Any) -> str:
    """Of a prompt, an input or messages, in any of the protocols' shapes."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        for one in reversed(value):
            if isinstance(one, Mapping) and one.get("role", "user") not in ("user", None):
                continue
            if text := _last_text(one):
                return text
    if isinstance(value, Mapping):
        return _last_text(value.get("content") or value.get("text") or "")
    return ""
