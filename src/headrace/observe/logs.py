"""Structured logs: one JSON object a line, and the record of one HTTP exchange that ends in such a line.

Never holds a prompt, an answer or a key, and an address only where an operator asks for it: only what operating needs.
Who measures is `server`'s business; metrics are in `metrics.py`. The lines of exchanges are gathered for up to FLUSH_S:
each alone would cost a write, which is more than all else that is done for it.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec

from headrace.core.gateway import EXCHANGE_ID
from headrace.core.tracing import TRACE

ACCESS_LOGGER = "headrace.access"

FLUSH_S: Final = 0.2
MAX_LINES: Final = 256

_FIELDS_ATTRIBUTE = "headrace_fields"


@dataclass(slots=True)
class AccessRecord:
    """What is known of one exchange when it ends. Times are seconds, `begun_s` and `ttft_s` from its arrival until its
    prompt began to be read and until the first of its answer; `outcome` is ok, cancelled or an error's code; `client`
    is an address, if it is to be told. `backend`, `num_attempts`, `cost_nanos` and `cache` are a gateway's."""

    request_id: str
    method: str
    route: str = "other"
    status: int = 0
    outcome: str = "ok"
    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    backend: str | None = None
    num_attempts: int | None = None
    cost_nanos: int | None = None
    cache: str | None = None
    client: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    begun_s: float | None = None
    ttft_s: float | None = None
    duration_s: float = 0.0
    trace_id: str | None = None


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON: time, level, logger, message, the request's id and its trace's, if it
    belongs to one, its fields, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message contains."""
        line = _line(record.created, record.levelname.lower(), record.name, record.getMessage())
        line.update(_belonging())
        line.update(getattr(record, _FIELDS_ATTRIBUTE, {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


class TextFormatter(logging.Formatter):
    """Formats a log record for people: time of day, level, logger, message, and fields behind it. Nothing of it ends
    the line or speaks to the terminal but what we wrote."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it."""
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        found = {**_belonging(), **getattr(record, _FIELDS_ATTRIBUTE, {})}
        told = " ".join(f"{name}={_plain(value)}" for name, value in found.items())
        line = f"{moment} {record.levelname.lower():7} {record.name} {_plain(record.getMessage())} {told}".rstrip()
        if record.exc_info:
            trace = "\n".join(map(_plain, self.formatException(record.exc_info).split("\n")))
            line = f"{line}\n{trace}"
        return line


def _belonging() -> dict[str, str]:
    found = {}
    if request_id := EXCHANGE_ID.get():
        found["request_id"] = request_id
    if (place := TRACE.get()) is not None:
        found |= {"trace_id": place.context.trace_id, "span_id": place.context.span_id}
    return found


def _plain(value: object) -> str:
    """As it is printed; characters that are none are escaped."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in str(value))


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes every log at once, and lines that can wait a little together. Their order stays."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._lines: list[str] = []
        self._is_waiting = False

    def add(self, line: str) -> None:
        """Write a line soon; at once where no loop runs, or where many wait."""
        self._lines.append(line)
        if len(self._lines) >= MAX_LINES:
            self.flush()
        elif not self._is_waiting:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                self.flush()
            else:
                self._is_waiting = True
                loop.call_later(FLUSH_S, self._on_time)

    def emit(self, record: logging.LogRecord) -> None:
        """Write a log, behind the lines that wait."""
        if self._lines:
            self.flush()
        super().emit(record)

    def flush(self) -> None:
        """Write what waits."""
        lines, self._lines = self._lines, []
        if lines:
            try:
                self.stream.write("\n".join(lines) + "\n")
            except (OSError, ValueError):  # a closed pipe: as with every other log, the server goes on
                return
        super().flush()

    def _on_time(self) -> None:
        self._is_waiting = False
        self.flush()


def log_fields(
    logger: logging.Logger, level: int, message: str, fields: Mapping[str, Any], *, with_traceback: bool = False
) -> None:
    """Write a line with fields of its own beside the message; a field has no name that every line has. With the
    traceback of what is being handled, if that is wanted."""
    logger.log(level, "%s", message, extra={_FIELDS_ATTRIBUTE: dict(fields)}, exc_info=with_traceback)


_access = logging.getLogger(ACCESS_LOGGER)
_FIELDS: Final = tuple(one.name for one in fields(AccessRecord))
_encode = msgspec.json.Encoder().encode


def log_access(record: AccessRecord) -> None:
    """Write one exchange's line."""
    if not _access.isEnabledFor(logging.INFO):
        return
    given = {name: value for name in _FIELDS if (value := getattr(record, name)) is not None}
    handlers = logging.root.handlers
    only = handlers[0] if len(handlers) == 1 and not _access.handlers and _access.propagate else None
    if isinstance(only, LineHandler) and type(only.formatter) is JsonFormatter:
        only.add(_encode(_line(time.time(), "info", ACCESS_LOGGER, "request") | given).decode())
    else:
        _access.info("request", extra={_FIELDS_ATTRIBUTE: given})


def _line(created_s: float, level: str, logger: str, message: str) -> dict[str, Any]:
    moment = datetime.fromtimestamp(created_s, UTC).isoformat(timespec="milliseconds")
    return {"time": moment, "level": level, "logger": logger, "message": message}


def configure_logs(level: str = "info", stream: TextIO | None = None, *, form: str = "json") -> None:
    """Send every log of this process to `stream` (stderr): as JSON lines, as `text` for people, or `auto`, as text
    where the stream is a terminal. Called once, by the composition root."""
    target = sys.stderr if stream is None else stream
    is_text = form == "text" or (form == "auto" and target.isatty())
    handler = LineHandler(target)
    handler.setFormatter(TextFormatter() if is_text else JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # uvicorn tells of every start and stop; its warnings are what an operator needs.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
