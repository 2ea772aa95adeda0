"""Which plots a report has, and what of a run's stages is in each. Values in, plots out; knows no markup."""

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from headrace.loadtest.drawing import Line, Plot

MAX_COURSES: Final = 12
"""Stages whose course over time is drawn; the numbers of all are in the tables."""
_NUM_BARS: Final = 40
_SHARES: Final = ("p50", "p90", "p99")

Stages = Sequence[Mapping[str, Any]]


def milliseconds(value_s: float) -> str:
    """A time as axes write it."""
    return f"{value_s:.3g} s" if value_s >= 1 else f"{1000 * value_s:.3g} ms"


def number(value: float) -> str:
    """A number as axes write it."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def load_of(stage: Mapping[str, Any]) -> float:
    """The load that a stage held: requests a second, or requests at once."""
    return float(stage["rate"] if stage["rate"] is not None else stage["concurrency"])


def load_plots(stages: Stages, peers: Stages | None) -> list[Plot]:
    """Latency, throughput and cost against load; a second run's lines are dashed."""
    label = "requests a second that were due" if stages[0]["rate"] is not None else "requests at once"
    if peers is not None:  # a rate and a concurrency have no place on one axis
        peers = [peer for peer in peers if (peer["rate"] is None) == (stages[0]["rate"] is None)]
    plots = []
    for name, title in (
        ("ttft", "Time to first token"),
        ("itl", "Gap between pieces"),
        ("e2e", "Time to the whole answer"),
    ):
        lines = [*_quantile_lines(stages, name, ""), *_quantile_lines(peers or (), name, "other run, ", is_peer=True)]
        plots.append(_load_plot(title, label, "time", lines, milliseconds))
    rates: tuple[tuple[str, str, str], ...] = (
        ("Output tokens a second", "output_tokens_per_s", "tokens a second"),
        ("Answers a second", "ok_per_s", "answers a second"),
    )
    for title, key, y_label in rates:
        lines = [_line(stages, key, y_label, 0), *_peer_line(peers, key, y_label)]
        if key == "ok_per_s":
            lines.append(_line(stages, "good_per_s", "good answers a second", 2))
        plots.append(_load_plot(title, label, y_label, lines, number))
    lines = [_line(stages, "good_share", "share of requests", 0), *_peer_line(peers, "good_share", "share of requests")]
    plots.append(_load_plot("Good requests", label, "share", lines, lambda value: f"{value:.0%}"))
    if any(stage["cost"] is not None for stage in stages):
        costs = [_with_unit_cost(stage) for stage in stages]
        lines = [_line(costs, "unit_cost", "per million output tokens", 0)]
        plots.append(_load_plot("Cost of a million output tokens, prompts included", label, "cost", lines, number))
    return plots


def stage_plots(stages: Stages) -> list[Plot]:
    """How times are distributed, and how each stage went over time."""
    plots = []
    for name, title in (("ttft", "Time to first token"), ("e2e", "Time to the whole answer")):
        known = [(index, stage) for index, stage in enumerate(stages[:MAX_COURSES]) if stage["spreads"].get(name)]
        curves = [
            Line(name=stage["name"], points=_percentile_points(stage["spreads"][name]["line"]), colour=index)
            for index, stage in known
        ]
        plots.append(_plot(f"{title}, by percentile", "percentile", "time", curves, milliseconds, lambda x: f"{x:.0f}"))
        densities = [
            Line(name=stage["name"], points=_density(stage["spreads"][name]["line"]), colour=index)
            for index, stage in known
        ]
        plots.append(
            _plot(f"{title}, distribution", "time", "share of answers", densities, lambda y: f"{y:.1%}", milliseconds)
        )
    for stage in stages[:MAX_COURSES]:
        plots.extend(_course(stage))
    return plots


def _course(stage: Mapping[str, Any]) -> list[Plot]:
    series, name = stage["series"], stage["name"]
    bin_s = series["bin_s"]

    def over_time(key: str, told: str, colour: int, scale: float = 1.0) -> Line:
        pairs = [((at + 0.5) * bin_s, value) for at, value in enumerate(series[key]) if value is not None]
        return Line(name=told, points=tuple((x, value * scale) for x, value in pairs), colour=colour)

    tokens = [over_time("output_tokens_per_s", "output tokens a second", 0)]
    flow = [
        over_time("begun", "begun a second", 0, 1 / bin_s),
        over_time("ended", "ended well a second", 2, 1 / bin_s),
        over_time("failed", "failed a second", 1, 1 / bin_s),
    ]
    first = [over_time("ttft_p50", "median", 0), over_time("ttft_max", "slowest", 1)]
    seconds = "seconds since the stage began"
    return [
        _plot(f"{name}: output tokens a second", seconds, "tokens a second", tokens, number, number),
        _plot(f"{name}: requests", seconds, "requests a second", flow, number, number),
        _plot(f"{name}: time to first token", seconds, "time", first, milliseconds, number),
    ]


def _quantile_lines(stages: Stages, name: str, prefix: str, *, is_peer: bool = False) -> list[Line]:
    known = [stage for stage in stages if stage["spreads"].get(name)]
    lines = []
    for index, share in enumerate(_SHARES):
        told = [(load_of(stage), stage["spreads"][name]["quantiles"][index]) for stage in known]
        points = tuple((load, one["value"]) for load, one in told)
        band = () if is_peer else tuple((load, one["low"], one["high"]) for load, one in told if one["low"] is not None)
        if points:
            lines.append(Line(name=f"{prefix}{share}", points=points, band=band, colour=index, is_peer=is_peer))
    return lines


def _line(stages: Stages, key: str, name: str, colour: int, *, is_peer: bool = False) -> Line:
    points = tuple((load_of(stage), stage[key]) for stage in stages if stage[key] is not None)
    return Line(name=name, points=points, colour=colour, is_peer=is_peer)


def _peer_line(peers: Stages | None, key: str, name: str) -> list[Line]:
    return [] if peers is None else [_line(peers, key, f"other run, {name}", 0, is_peer=True)]


def _with_unit_cost(stage: Mapping[str, Any]) -> Mapping[str, Any]:
    """With what a million output tokens cost; None where nothing is known."""
    tokens = (stage["output_tokens"] or 0) * stage["num_ok"]
    known = stage["cost"] is not None and tokens > 0
    return {**stage, "unit_cost": 1e6 * stage["cost"] / tokens if known else None}


def _load_plot(title: str, x_label: str, y_label: str, lines: Sequence[Line], write_y: Callable[[float], str]) -> Plot:
    ordered = tuple(_sorted(line) for line in lines)
    return Plot(
        title=title, x_label=x_label, y_label=y_label, lines=ordered, write_y=write_y, write_x=number, is_load=True
    )


def _sorted(line: Line) -> Line:
    return Line(
        name=line.name,
        points=tuple(sorted(line.points)),
        band=tuple(sorted(line.band)),
        colour=line.colour,
        is_peer=line.is_peer,
    )


def _plot(
    title: str,
    x_label: str,
    y_label: str,
    lines: Sequence[Line],
    write_y: Callable[[float], str],
    write_x: Callable[[float], str],
) -> Plot:
    return Plot(title=title, x_label=x_label, y_label=y_label, lines=tuple(lines), write_y=write_y, write_x=write_x)


def _percentile_points(line: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple((100 * index / (len(line) - 1), value) for index, value in enumerate(line))


def _density(line: Sequence[float]) -> tuple[tuple[float, float], ...]:
    """Shares of answers in equal steps of time up to the 99th percentile, from a line of quantiles."""
    low, high = line[0], line[-2] if len(line) > 1 else line[0]
    if not high > low:
        return ((low, 1.0),)
    width = (high - low) / _NUM_BARS
    shares = [_share_below(line, low + step * width) for step in range(_NUM_BARS + 1)]
    return tuple((low + (step + 0.5) * width, shares[step + 1] - shares[step]) for step in range(_NUM_BARS))


def _share_below(line: Sequence[float], value: float) -> float:
    above = bisect_right(line, value)
    if above == 0:
        return 0.0
    if above == len(line):
        return 1.0
    before, after = line[above - 1], line[above]
    part = (value - before) / (after - before) if after > before else 0.0
    return (above - 1 + part) / (len(line) - 1)
