"""The input of a batch, before anything of it runs: bytes become lines, and every line is read once and checked.

All that is wrong is told, up to `MAX_PROBLEMS`, each with its line. Whether a body is one that its endpoint accepts is
found out when the line runs, and is that line's own error. Knows no files and no database.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from headrace.api.batch_lines import BatchDialect
from headrace.core.batch import LineProblem
from headrace.core.errors import InvalidRequest
from headrace.gateway.batches import BatchLimits
from headrace.memory.batches import Line

MAX_PROBLEMS: Final = 100


@dataclass(frozen=True, slots=True)
class RawLine:
    """A line that is not empty: its number, counted from 1 with the empty ones, its place, and its bytes."""

    number: int
    offset: int
    data: bytes


class LineSplitter:
    """Bytes in, lines out. A line that is longer than `max_bytes` comes out as soon as that is known, cut there."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = b""
        self._offset = 0  # of the rest
        self._number = 0

    def split(self, data: bytes) -> list[RawLine]:
        """The lines that end in the next bytes."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        lines = [self._next(line, len(line) + 1) for line in whole]
        if len(self._rest) > self._max_bytes:
            lines.append(self._next(self._rest, len(self._rest)))
            self._rest = b""
        return [line for line in lines if line.data.strip()]

    def finish(self) -> list[RawLine]:
        """The last line, if it has no end of its own."""
        line = self._next(self._rest, len(self._rest))
        self._rest = b""
        return [line] if line.data.strip() else []

    def _next(self, data: bytes, num_bytes: int) -> RawLine:
        self._number += 1
        line = RawLine(self._number, self._offset, data[: self._max_bytes + 1])
        self._offset += num_bytes
        return line


class InputCheck:
    """Reads the lines of one batch. `problems` is what is wrong with them; `is_hopeless` says that enough is."""

    def __init__(
        self, dialect: BatchDialect, endpoint: str, limits: BatchLimits, knows_model: Callable[[str], bool]
    ) -> None:
        self.problems: list[LineProblem] = []
        self.models: set[str] = set()
        self.num_lines = 0
        self._dialect = dialect
        self._endpoint = endpoint
        self._limits = limits
        self._knows_model = knows_model
        self._custom_ids: set[str] = set()

    @property
    def is_hopeless(self) -> bool:
        """Whether reading on would tell nobody anything."""
        return len(self.problems) >= MAX_PROBLEMS or self.num_lines > self._limits.max_lines

    @property
    def model(self) -> str | None:
        """The model that all lines ask, if they ask one."""
        return next(iter(self.models)) if len(self.models) == 1 else None

    def read(self, lines: Iterable[RawLine]) -> list[Line]:
        """Those of the lines that may run."""
        good = []
        for raw in lines:
            self.num_lines += 1
            if self.num_lines > self._limits.max_lines:
                self._note("too_many_lines", f"there are more than {self._limits.max_lines} lines; split the input.")
                break
            try:
                good.append(self._read(raw))
            except InvalidRequest as error:
                self._note(error.code, error.message, raw.number, error.param)
            if self.is_hopeless:
                break
        return good

    def finish(self) -> None:
        """All lines were read."""
        if not self.num_lines:
            self._note("empty_file", "the input has no lines; put one request into each.")

    def _read(self, raw: RawLine) -> Line:
        if len(raw.data) > self._limits.max_line_bytes:
            raise InvalidRequest(
                f"the line is longer than {self._limits.max_line_bytes} bytes; shorten it.", code="line_too_long"
            )
        line = self._dialect.read(raw.data, self._endpoint)
        if line.custom_id in self._custom_ids:
            raise InvalidRequest(
                f"custom_id: {line.custom_id[:100]!r} was used by a line before; give each line its own.",
                param="custom_id",
                code="duplicate_custom_id",
            )
        self._custom_ids.add(line.custom_id)
        if not self._knows_model(line.model):
            raise InvalidRequest(
                f"body.model: {line.model[:100]!r} is not served here; GET /v1/models lists what is.",
                param="body.model",
                code="model_not_found",
            )
        self.models.add(line.model)
        return Line(raw.number, line.custom_id, raw.offset, len(raw.data))

    def _note(self, code: str, message: str, line: int | None = None, param: str | None = None) -> None:
        self.problems.append(LineProblem(code, message, line, param))
