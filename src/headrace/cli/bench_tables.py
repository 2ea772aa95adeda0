"""How a load test looks in a terminal: a line while it runs, tables at its end. Values in, text out."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from headrace.loadtest.measures import quantile
from headrace.loadtest.run import Tally, failures

_Cells = Mapping[str, Any]


def progress_line(tally: Tally, now_s: float) -> str:
    """A stage so far."""
    first = sorted(tally.recent_first_s)
    ttft = f", first token {1000 * quantile(first, 0.5):.0f} ms (median of the last {len(first)})" if first else ""
    seconds = max(1e-9, now_s - tally.began_s)
    return (
        f"{tally.stage.name}: {seconds:.0f} s, {tally.num_begun} begun, {tally.num_under_way} under way, "
        f"{tally.outcomes['ok']} ok, {failures(tally)} failed, {tally.output_tokens / seconds:.1f} tok/s{ttft}"
    )


def stages_tables(stages: Sequence[_Cells]) -> Group:
    """Every stage in a row of two tables that a narrow terminal has room for: what it did, and how long that took, the
    first token counted from when it was due."""
    did = _table("STAGE", "OK", "FAILED", "ANSWERS/S", "OUT TOK/S", "GOOD", "CACHED", "COST")
    took = _table("MS", "TTFT P50", "P90", "P99", "ITL P50", "P99", "E2E P50", "P90", "P99")
    for stage in stages:
        spreads, cost = stage["spreads"], stage["cost"]
        name = Text(f"{stage['name']}{' (stopped)' if stage['is_stopped'] else ''}")
        did.add_row(
            name,
            str(stage["num_ok"]),
            Text(str(sum(stage["errors"].values())), style="red" if stage["errors"] else ""),
            f"{stage['ok_per_s']:.2f}",
            f"{stage['output_tokens_per_s']:.1f}",
            f"{stage['good_share']:.0%}",
            _share(stage["cached_tokens"], stage["prompt_tokens"]),
            "-" if cost is None else f"{cost:.6g}",
        )
        times = ("ttft", 0), ("ttft", 1), ("ttft", 2), ("itl", 0), ("itl", 2), ("e2e", 0), ("e2e", 1), ("e2e", 2)
        took.add_row(name, *(_ms(spreads.get(measure), at) for measure, at in times))
    return Group(did, "", took)


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table


def comparison_table(rows: Sequence[_Cells], name: str, peer_name: str) -> Table:
    """Measures of two runs side by side."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("measure", "unit", name, peer_name, "ratio", "n"):
        table.add_column(heading, justify="left" if heading in ("measure", "unit") else "right")
    for row in rows:
        ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f}"
        table.add_row(
            Text(str(row["measure"])), row["unit"], _value(row["ours"]), _value(row["peer"]), ratio, str(row["n"])
        )
    return table


def _ms(spread: _Cells | None, at: int) -> str:
    return "-" if spread is None else f"{1000 * spread['quantiles'][at]['value']:.1f}"


def _share(part: float | None, whole: float | None) -> str:
    return "-" if part is None or not whole else f"{part / whole:.0%}"


def _value(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
