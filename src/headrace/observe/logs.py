"""Structured logs: one JSON object a line, and the record of one HTTP exchange that ends in such a line.

Never holds a prompt, an answer or a key, and an address only where an operator asks for it: only what operating needs.
Who measures is `server`'s business; metrics are in `metrics.py`.
"""

import logging
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, TextIO

import msgspec

ACCESS_LOGGER = "headrace.access"

_FIELDS_ATTRIBUTE = "headrace_fields"


@dataclass(slots=True)
class AccessRecord:
    """What is known of one exchange when it ends. Times are seconds; `outcome` is ok, cancelled or an error's code;
    `client` is an address, if it is to be told."""

    request_id: str
    method: str
    route: str = "other"
    status: int = 0
    outcome: str = "ok"
    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    client: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    duration_s: float = 0.0


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON: time, level, logger, message, its fields, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message contains."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(getattr(record, _FIELDS_ATTRIBUTE, {}))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def log_access(record: AccessRecord) -> None:
    """Write one exchange's line."""
    logger = logging.getLogger(ACCESS_LOGGER)
    if logger.isEnabledFor(logging.INFO):
        fields = {name: value for name, value in asdict(record).items() if value is not None}
        logger.info("request", extra={_FIELDS_ATTRIBUTE: fields})


def configure_logs(level: str = "info", stream: TextIO | None = None) -> None:
    """Send every log of this process to `stream` (stderr) as JSON lines. Called once, by the composition root."""
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # uvicorn tells of every start and stop; its warnings are what an operator needs.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
