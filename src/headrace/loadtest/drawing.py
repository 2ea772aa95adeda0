"""Plots as SVG, made of text alone: axes with round numbers, lines that differ by shape as well as by colour, a legend.

Colours are classes, which a page's style sheet fills in for light and dark. Every text is escaped. Knows no run.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

WIDTH: Final = 640
HEIGHT: Final = 300
NUM_COLOURS: Final = 6
_LEFT: Final = 76
_RIGHT: Final = 12
_TOP: Final = 12
_BOTTOM: Final = 46
_NUM_TICKS: Final = 5
_MAX_MARKED: Final = 40
_LOG_FROM: Final = 8.0
"""How many times its smallest load the greatest must be for steps of equal ratio."""

Pair = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One curve. `band` are the low and high ends of an interval at some of its points, as (x, low, high). `is_peer`:
    dashed, of the run that it is compared with."""

    name: str
    points: tuple[Pair, ...]
    band: tuple[tuple[float, float, float], ...] = ()
    colour: int = 0
    is_peer: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot. `describe` says in words what is in it, `ticks` how its values are written. `is_load`: x is a load, and
    gets steps of equal ratio where it spans many."""

    title: str
    x_label: str
    y_label: str
    lines: tuple[Line, ...]
    write_y: Callable[[float], str]
    write_x: Callable[[float], str]
    is_load: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """Values of one axis to places on it."""

    low: float
    high: float
    from_px: float
    to_px: float
    is_log: bool = False

    def place(self, value: float) -> float:
        """Where a value is, in pixels."""
        low, high = (math.log(self.low), math.log(self.high)) if self.is_log else (self.low, self.high)
        at = math.log(value) if self.is_log else value
        share = (at - low) / (high - low) if high > low else 0.5
        return self.from_px + share * (self.to_px - self.from_px)


def round_ticks(low: float, high: float, count: int = _NUM_TICKS) -> list[float]:
    """About `count` round numbers from `low` to `high`: steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(math.log(raw / power / factor)))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def draw(plot: Plot, plot_id: str) -> str:
    """The plot as an SVG element, named and described for those who do not see it."""
    xs = [x for line in plot.lines for x, _ in line.points]
    ys = [y for line in plot.lines for _, y in line.points]
    ys += [high for line in plot.lines for _, _, high in line.band]
    if not xs:
        return '<p class="quiet">Nothing was measured here.</p>'
    is_log = plot.is_load and min(xs) > 0 and max(xs) / min(xs) >= _LOG_FROM
    y_ticks = round_ticks(0.0, max(ys) * 1.02 or 1.0)
    x = Scale(min(xs), max(xs), _LEFT + 10, WIDTH - _RIGHT - 10, is_log)
    y = Scale(0.0, max(max(ys) * 1.02, y_ticks[-1]) or 1.0, HEIGHT - _BOTTOM, _TOP)
    x_ticks = sorted(set(xs)) if plot.is_load else round_ticks(x.low, x.high)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="{plot_id}-t" aria-describedby="{plot_id}-d">',
        f'<title id="{plot_id}-t">{escape(plot.title)}</title>',
        f'<desc id="{plot_id}-d">{escape(describe(plot))}</desc>',
        *_axes(plot, x, y, x_ticks, y_ticks),
        *(_band(line, x, y) for line in plot.lines if line.band),
        *(_curve(line, x, y, plot) for line in plot.lines),
        "</svg>",
        _legend(plot.lines),
    ]
    return "".join(parts)


def describe(plot: Plot) -> str:
    """In words: where each line begins and ends, and its greatest value."""
    told = []
    for line in plot.lines:
        if line.points:
            (first_x, first_y), (last_x, last_y) = line.points[0], line.points[-1]
            top = max(y for _, y in line.points)
            told.append(
                f"{line.name}: from {plot.write_y(first_y)} at {plot.write_x(first_x)} to {plot.write_y(last_y)} at "
                f"{plot.write_x(last_x)}, at most {plot.write_y(top)}."
            )
    return f"{plot.y_label} against {plot.x_label}. " + " ".join(told)


def _axes(plot: Plot, x: Scale, y: Scale, x_ticks: Sequence[float], y_ticks: Sequence[float]) -> list[str]:
    bottom = HEIGHT - _BOTTOM
    parts = []
    for tick in y_ticks:
        at = f"{y.place(tick):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{at}" x2="{WIDTH - _RIGHT}" y2="{at}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{at}" dy="4">{escape(plot.write_y(tick))}</text>')
    last_px = -1e9
    for tick in x_ticks:
        px = x.place(tick)
        if px - last_px >= 34:  # labels that would lie on each other are left out
            last_px = px
            parts.append(f'<line class="grid" x1="{px:.1f}" y1="{bottom}" x2="{px:.1f}" y2="{bottom + 4}"/>')
            parts.append(f'<text class="tick mid" x="{px:.1f}" y="{bottom + 17}">{escape(plot.write_x(tick))}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" y1="{bottom}" x2="{WIDTH - _RIGHT}" y2="{bottom}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) // 2
    parts.append(f'<text class="label mid" x="{middle}" y="{HEIGHT - 8}">{escape(plot.x_label)}</text>')
    height = (_TOP + bottom) // 2
    turned = f'transform="rotate(-90 14 {height})"'
    parts.append(f'<text class="label mid" x="14" y="{height}" {turned}>{escape(plot.y_label)}</text>')
    return parts


def _band(line: Line, x: Scale, y: Scale) -> str:
    """An interval: a bar with ends at each point that has one."""
    parts = []
    for at, low, high in line.band:
        px, top, foot = x.place(at), y.place(high), y.place(low)
        parts.append(f"M{px:.1f} {top:.1f}V{foot:.1f}M{px - 4:.1f} {top:.1f}h8M{px - 4:.1f} {foot:.1f}h8")
    return f'<path class="band c{line.colour % NUM_COLOURS}" d="{"".join(parts)}"/>'


def _curve(line: Line, x: Scale, y: Scale, plot: Plot) -> str:
    places = [(x.place(at), y.place(value)) for at, value in line.points]
    colour = f"c{line.colour % NUM_COLOURS}"
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in places) if places else ""
    parts = [f'<path class="curve {colour}{" peer" if line.is_peer else ""}" d="{path}"/>']
    if len(places) <= _MAX_MARKED:
        for (px, py), (at, value) in zip(places, line.points, strict=True):
            told = escape(f"{line.name}: {plot.write_y(value)} at {plot.write_x(at)}")
            shape = _mark(line.colour, px, py)
            parts.append(
                f'<path class="mark {colour}{" peer" if line.is_peer else ""}" d="{shape}"><title>{told}</title></path>'
            )
    return "".join(parts)


def _mark(which: int, px: float, py: float) -> str:
    shapes = (
        f"M{px - 4:.1f} {py:.1f}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
        f"M{px - 3.6:.1f} {py - 3.6:.1f}h7.2v7.2h-7.2z",
        f"M{px:.1f} {py - 4.8:.1f}l4.6 8h-9.2z",
        f"M{px:.1f} {py - 5:.1f}l5 5l-5 5l-5 -5z",
        f"M{px - 4:.1f} {py - 4:.1f}l8 8l-1.6 1.6l-8 -8z",
        f"M{px:.1f} {py + 4.8:.1f}l4.6 -8h-9.2z",
    )
    return shapes[which % len(shapes)]


def _legend(lines: Sequence[Line]) -> str:
    parts = []
    for line in lines:
        colour = f"c{line.colour % NUM_COLOURS}{' peer' if line.is_peer else ''}"
        sign = (
            f'<svg class="sign" viewBox="0 0 26 12" aria-hidden="true"><path class="curve {colour}" d="M1 6H25"/>'
            f'<path class="mark {colour}" d="{_mark(line.colour, 13, 6)}"/></svg>'
        )
        parts.append(f"<li>{sign}{escape(line.name)}</li>")
    return f'<ul class="legend">{"".join(parts)}</ul>'
