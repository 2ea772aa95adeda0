"""`headrace serve`, with a stopwatch around everything that a record adds to an answer: what the recorder does in the
chain, the counting of bytes, building, signing and handing in.

    BENCH_TIMES=FILE python -m bench.trust.timed_server serve ...

At its end FILE has a line for each record: the seconds that it took in all, and of these those that its thread ran.
The rest is waiting: for the interpreter, which the log's thread has meanwhile, or for a core.
"""

import atexit
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from headrace.cli.main import main
from headrace.gateway.oversight.recorder import Recorder, Recording
from headrace.server.sealing import Sealing

Spent = tuple[float, float]

_NOTHING: Spent = (0.0, 0.0)
_spent: dict[int, Spent] = {}
_sealed: set[int] = set()
_inside = [0]
_told: list[Spent] = []


def _now() -> Spent:
    return time.perf_counter(), time.thread_time()


def _add(key: int, began: Spent) -> None:
    wall_s, cpu_s = _now()
    before = _spent.get(key, _NOTHING)
    _spent[key] = (before[0] + wall_s - began[0], before[1] + cpu_s - began[1])


def _timed(method: Callable[..., Any], key_of: Callable[..., int | None]) -> Callable[..., Any]:
    @functools.wraps(method)
    def run(self: Any, *given: Any, **named: Any) -> Any:
        if _inside[0]:  # it is timed already
            return method(self, *given, **named)
        _inside[0] += 1
        began = _now()
        try:
            made = method(self, *given, **named)
        finally:
            _inside[0] -= 1
        key = key_of(self, *given)
        if key is not None:
            _add(key, began)
            _end(key)
        return made

    return run


def _end(key: int) -> None:
    if key in _sealed:
        _sealed.discard(key)
        _told.append(_spent.pop(key))


def _key_of_sealing(self: Any, *_: Any) -> int | None:
    claimed = self._claimed
    return id(claimed[-1].receipt) if claimed else None


def watch() -> None:
    """Put the stopwatch in."""
    begin = Recorder.begin

    def begin_timed(self: Recorder, case: Any) -> Any:
        began = _now()
        made = begin(self, case)
        _spent.pop(id(made), None)  # of one that is gone
        _add(id(made), began)
        return made

    Recorder.begin = begin_timed  # type: ignore[method-assign]
    seal = Recording.seal

    def seal_noted(self: Recording, digest: bytes | None) -> bytes | None:
        made = seal(self, digest)
        if made is not None:
            _sealed.add(id(self))
        return made

    Recording.seal = seal_noted  # type: ignore[method-assign]
    for name in ("prepare", "hear", "add", "end", "seal"):
        setattr(Recording, name, _timed(getattr(Recording, name), lambda self, *_: id(self)))
    for name in ("claim", "begin", "add", "hold", "last", "end", "close"):
        setattr(Sealing, name, _timed(getattr(Sealing, name), _key_of_sealing))


def write() -> None:
    """What was measured."""
    lines = "".join(f"{wall_s:.9f} {cpu_s:.9f}\n" for wall_s, cpu_s in _told)
    Path(os.environ["BENCH_TIMES"]).write_text(lines, "ascii")


if __name__ == "__main__":
    watch()
    atexit.register(write)
    main()
