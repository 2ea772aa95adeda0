"""What a server has done in the last quarter of an hour, as lines of blocks in a terminal: what it remembers, and what
its frames have said since. Frames in, text out; bounded. Knows no server.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

COLUMNS: Final = 45
COLUMN_S: Final = 20.0
_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_HOLE: Final = " "
_MAX_PIECES: Final = int(COLUMNS * COLUMN_S)  # a frame a second

Frame = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Piece:
    """What all models did in the `span_s` before `end_s` (Unix time)."""

    end_s: float
    span_s: float
    output_tokens: int
    read_tokens: int


class Past:
    """Grows with each frame."""

    def __init__(self) -> None:
        self._pieces: deque[Piece] = deque(maxlen=_MAX_PIECES)

    def add(self, frame: Frame, before: Frame | None) -> None:
        """A frame, and the one before it if nothing lies between them."""
        now_s = frame["time_ms"] / 1000  # what is later is of a clock that was set back
        while self._pieces and self._pieces[-1].end_s > now_s:
            self._pieces.pop()
        known_s = self._pieces[-1].end_s if self._pieces else 0.0
        for one in frame.get("history", {}).get("samples", ()):
            end_s, span_s = one["time_ms"] / 1000, one["span_ms"] / 1000
            if end_s - span_s / 2 > known_s and end_s <= now_s and span_s > 0:
                self._pieces.append(Piece(end_s, span_s, one["output_tokens"], one["read_tokens"]))
        if before is not None and (piece := _since(frame, before)) is not None:
            self._pieces.append(piece)

    def lines(self, now_s: float) -> list[str]:
        """One for answers and one for prompts, tokens a second; none as long as nothing is known."""
        recent = [one for one in self._pieces if _place(one, now_s) >= 0]
        if not recent:
            return []
        rows = (("OUT/S", [one.output_tokens for one in recent]), ("IN/S", [one.read_tokens for one in recent]))
        return [_line(name, recent, tokens, now_s) for name, tokens in rows]


def _place(one: Piece, now_s: float) -> int:
    """In which column a piece lies; less than 0: too long ago. Columns stand still until a whole one has passed."""
    return COLUMNS - 1 - int(now_s // COLUMN_S) + int((one.end_s - one.span_s / 2) // COLUMN_S)


def _line(name: str, pieces: list[Piece], tokens: list[int], now_s: float) -> str:
    sums, spans = [0.0] * COLUMNS, [0.0] * COLUMNS
    for piece, count in zip(pieces, tokens, strict=True):
        place = min(COLUMNS - 1, _place(piece, now_s))
        sums[place] += count
        spans[place] += piece.span_s
    rates = [total / span if span else None for total, span in zip(sums, spans, strict=True)]
    most = max(rate for rate in rates if rate is not None)
    blocks = "".join(_HOLE if rate is None else _block(rate, most) for rate in rates)
    return f"{name:<5} {blocks} 15 min, up to {most:,.0f}"


def _block(rate: float, most: float) -> str:
    """Nothing is the lowest block, and anything at all is more."""
    return _BLOCKS[0] if rate <= 0 else _BLOCKS[max(1, round((len(_BLOCKS) - 1) * rate / most))]


def _since(frame: Frame, before: Frame) -> Piece | None:
    span_s = (frame["time_ms"] - before["time_ms"]) / 1000
    if span_s <= 0:
        return None
    old = {one["id"]: one["totals"] for one in before["models"]}
    sums = dict.fromkeys(("output_tokens", "read_tokens"), 0)
    for model in frame["models"]:
        for name in sums:
            new, known = model["totals"][name], old.get(model["id"], {}).get(name, 0)
            sums[name] += new - known if new >= known else new  # less: it left and came back
    if not frame["models"]:  # then it is known of tokens what passed
        sums["output_tokens"] = sum(sum(one["counts"]) for one in frame["latency"].values())
    return Piece(frame["time_ms"] / 1000, span_s, sums["output_tokens"], sums["read_tokens"])
