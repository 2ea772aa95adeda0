"""Two drawings of a benchmark's profile as SVG text: a roofline, and where the time of a step goes. Reads no file.

Colours are those of Okabe and Ito, which people with any colour vision tell apart; the ground is white, so that a dark
page changes nothing.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#999999", "#F0E442")
_WIDTH, _HEIGHT = 860, 520
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 210, 30, 60
_KINDS = ("whole step", "products", "attention", "head")

Step = dict[str, Any]


def least_seconds(work: Step, profile: dict[str, Any]) -> float:
    """What the ceilings allow for a stage; rows and sampling, whose work is not counted, take what they take."""
    if not work["operations"]:
        return float(work["seconds"])
    return max(work["bytes"] / profile["read_bandwidth"], work["operations"] / profile["multiply_rate"])


def roofline(profile: dict[str, Any]) -> str:
    """Operations a second over operations for each byte, of every step and of its parts, under the machine's roof."""
    bandwidth, peak = profile["read_bandwidth"], profile["multiply_rate"]
    points = [
        (kind, index, *point)
        for index, step in enumerate(profile["steps"])
        for kind in _KINDS
        if (point := _point(step, kind)) is not None
    ]
    x_axis = _Axis(0.5, max(10 ** math.ceil(math.log10(max(p[2] for p in points))), 1e4), _LEFT, _WIDTH - _RIGHT)
    low = 10 ** math.floor(math.log10(min(p[3] for p in points)))
    y_axis = _Axis(low, 10 ** math.ceil(math.log10(peak)), _HEIGHT - _BOTTOM, _TOP)
    parts = [
        _text(_LEFT, 18, "Operations a second (a multiply-add is two) over operations for each byte read", size=13)
    ]
    parts += _grid(x_axis, y_axis)
    ridge = peak / bandwidth
    first = max(x_axis.low, low / bandwidth)
    corners = [(first, first * bandwidth), (ridge, peak), (x_axis.high, peak)]
    path = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in corners)
    parts.append(f'<polyline points="{path}" fill="none" stroke="#000" stroke-width="2"/>')
    parts.append(_text(x_axis.at(ridge) + 8, y_axis.at(peak) - 6, f"{peak / 1e9:,.0f} GOP/s multiplying"))
    middle = math.sqrt(first * ridge)
    label = f"{bandwidth / 1e9:.1f} GB/s reading"
    parts.append(_text(x_axis.at(middle) - 8, y_axis.at(middle * bandwidth) - 8, label, end=True))
    parts += [_marker(kind, x_axis.at(x), y_axis.at(y), COLOURS[index]) for kind, index, x, y in points]
    parts += _roofline_legend([step["name"] for step in profile["steps"]])
    return _svg(_WIDTH, _HEIGHT, parts)


def time_shares(profile: dict[str, Any]) -> str:
    """One bar a step, cut by what takes the time; a line marks where the step would end at the ceilings."""
    steps = profile["steps"]
    kinds = list(dict.fromkeys(stage["kind"] for step in steps for stage in step["stages"]))
    left, width, height, gap = 170, 640, 26, 14
    parts = [
        _text(
            left,
            18,
            "Share of a step's time; the line: where it would end with every product and attention at a ceiling",
            13,
        )
    ]
    for row, step in enumerate(steps):
        top, x = 32 + row * (height + gap), float(left)
        parts.append(_text(left - 8, top + 17, step["name"], end=True))
        for stage in sorted(step["stages"], key=lambda s: kinds.index(s["kind"])):
            share = stage["seconds"] / step["seconds"]
            colour = COLOURS[kinds.index(stage["kind"])]
            parts.append(f'<rect x="{x:.1f}" y="{top}" width="{share * width:.1f}" height="{height}" fill="{colour}"/>')
            if share > 0.05:
                parts.append(_text(x + share * width / 2 - 11, top + 17, f"{share:.0%}"))
            x += share * width
        end = left + width * sum(least_seconds(stage, profile) for stage in step["stages"]) / step["seconds"]
        parts.append(f'<path d="M{end:.1f} {top - 4}v{height + 8}" stroke="#000" stroke-width="3"/>')
    bottom = 32 + len(steps) * (height + gap) + 6
    for i, kind in enumerate(kinds):
        x, y = 20 + i % 4 * 205, bottom + i // 4 * 22
        parts.append(f'<rect x="{x}" y="{y}" width="13" height="13" fill="{COLOURS[i]}"/>{_text(x + 19, y + 11, kind)}')
    return _svg(_WIDTH, bottom + 22 * -(-len(kinds) // 4) + 8, parts)


class _Axis:
    """A logarithmic axis from `low` to `high` between two pixels."""

    def __init__(self, low: float, high: float, begin: float, end: float) -> None:
        self.low, self.high, self.begin, self.end = low, high, begin, end

    def at(self, value: float) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return self.begin + share * (self.end - self.begin)

    def decades(self) -> Iterable[float]:
        return (10.0**e for e in range(math.ceil(math.log10(self.low)), round(math.log10(self.high)) + 1))


def _point(step: Step, kind: str) -> tuple[float, float] | None:
    """Intensity and rate of a step or of the stages of one kind; None where there is nothing to count."""
    products = {"query, key, value", "attention output", "gate and up", "down"}
    works = {
        "whole step": [step],
        "products": [stage for stage in step["stages"] if stage["kind"] in products],
    }.get(kind, [stage for stage in step["stages"] if stage["kind"] == kind])
    seconds, num_bytes, operations = (sum(work[key] for work in works) for key in ("seconds", "bytes", "operations"))
    return (operations / num_bytes, operations / seconds) if seconds and operations else None


def _grid(x_axis: _Axis, y_axis: _Axis) -> list[str]:
    parts = []
    for value in x_axis.decades():
        x = x_axis.at(value)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#ddd"/>')
        parts.append(_text(x - 10, _HEIGHT - _BOTTOM + 18, f"{value:,.0f}"))
    for value in y_axis.decades():
        y = y_axis.at(value)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{value / 1e9:,.0f}", end=True))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2 - 60, _HEIGHT - 16, "operations for each byte"))
    parts.append(
        f'<g transform="translate(18 {_HEIGHT / 2 + 60}) rotate(-90)">{_text(0, 0, "billion operations a second")}</g>'
    )
    return parts


def _roofline_legend(names: Sequence[str]) -> list[str]:
    x = _WIDTH - _RIGHT + 24
    parts = []
    for i, name in enumerate(names):
        y = _TOP + 20 + 22 * i
        parts.append(_marker("whole step", x, y, COLOURS[i]) + _text(x + 14, y + 4, name))
    for i, kind in enumerate(_KINDS):
        y = _TOP + 40 + 22 * (len(names) + i)
        parts.append(_marker(kind, x, y, "#555") + _text(x + 14, y + 4, kind))
    return parts


def _marker(kind: str, x: float, y: float, colour: str) -> str:
    style = f'fill="{colour}" stroke="#fff" stroke-width="1"'
    if kind == "whole step":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" {style}/>'
    if kind == "products":
        return f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" {style}/>'
    if kind == "attention":
        return f'<path d="M{x:.1f} {y - 7:.1f}l6.5 12h-13z" {style}/>'
    return f'<path d="M{x:.1f} {y - 7:.1f}l6 7l-6 7l-6 -7z" {style}/>'


def _text(x: float, y: float, content: str, size: int = 12, *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    escaped = content.replace("&", "&amp;").replace("<", "&lt;")
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}"{anchor}>{escaped}</text>'


def _svg(width: int, height: int, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif">\n<rect width="{width}" height="{height}" fill="#fff"/>\n{body}\n</svg>\n'
    )
