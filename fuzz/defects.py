"""What the server logs as a defect of its own, kept for whoever holds it to having none."""

import contextlib
import logging
from collections.abc import Iterator


class Defects(logging.Handler):
    """Tracebacks in the server's log; `take` gives those since the last time."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record that has a traceback."""
        if record.exc_info:
            self._found.append(logging.Formatter().format(record))

    def take(self) -> list[str]:
        """What was found, once."""
        found, self._found = self._found, []
        return found


@contextlib.contextmanager
def listening() -> Iterator[Defects]:
    """Keep defects and let nobody else print them: what is found is raised with its input."""
    logger, defects = logging.getLogger("headrace.server"), Defects()
    before = logger.propagate
    logger.addHandler(defects)
    logger.propagate = False
    try:
        yield defects
    finally:
        logger.removeHandler(defects)
        logger.propagate = before
