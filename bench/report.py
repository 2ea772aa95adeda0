"""Rows of a benchmark: medians, spreads, ratios; a table for people and one JSON line. Measures nothing itself."""

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(slots=True)
class Row:
    """One measure. `ratio` is better-than-peer (above 1: ours is better, for times too); spread: (max-min)/median."""

    measure: str
    unit: str
    ours: float
    peer: float | None = None
    peer_name: str | None = None
    ratio: float | None = None
    spread: float = 0.0
    n: int = 0
    samples: dict[str, list[float]] = field(default_factory=dict)
    error: float | None = None  # from the reference, where a kernel is measured
    screening: dict[str, float] = field(default_factory=dict)  # one short run of every peer setting, to find the best


def row(
    measure: str, unit: str, ours: Sequence[float], peers: dict[str, list[float]], *, lower_is_better: bool = False
) -> Row:
    """The row of alternating samples; of several peer settings the best median is the peer."""
    median = statistics.median(ours)
    made = Row(measure, unit, median, spread=(max(ours) - min(ours)) / median if median else 0.0, n=len(ours))
    made.samples = {"ours": list(ours), **peers}
    if peers:
        pick: Callable[..., Any] = min if lower_is_better else max
        made.peer_name = pick(peers, key=lambda name: statistics.median(peers[name]))
        made.peer = statistics.median(peers[made.peer_name])
        pairs = zip(ours, peers[made.peer_name], strict=False)
        made.ratio = statistics.median(peer / our if lower_is_better else our / peer for our, peer in pairs)
    return made


def machine() -> str:
    """A name for this machine: CPU model, cores, features that matter for kernels."""
    info = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    values = {line.partition(":")[0].strip(): line.partition(":")[2].strip() for line in info}
    features = [
        name for name in ("avx2", "avx512_vnni", "avx_vnni", "amx_int8") if name in values.get("flags", "").split()
    ]
    model = values.get("model name", platform.processor())
    return f"{model}, {os.cpu_count()} cores, {'+'.join(features) or platform.machine()}"


def commit() -> str:
    """The commit measured, marked when the tree differs from it."""
    return _git("rev-parse", "--short", "HEAD") + ("+changes" if _git("status", "--porcelain", "-uno") else "")


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def _shown(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.3g}" if abs(value) < 10 else f"{value:,.0f}"


def publish(
    name: str, config: dict[str, Any], rows: list[Row], path: Path | None, more: dict[str, Any] | None = None
) -> None:
    """Print the table, then one JSON line; write the same line to `path`. `more` is what else the document holds."""
    table = Table(title=f"{name} on {machine()} at {commit()}")
    headings = ["measure", "unit", "ours", "peer", "ratio", "spread", "n", "peer setting"]
    has_errors = any(r.error is not None for r in rows)
    for heading in headings + ["error"] * has_errors:
        is_text = heading in {"measure", "unit", "peer setting"}
        table.add_column(heading, justify="left" if is_text else "right", no_wrap=heading == "measure")
    for r in rows:
        table.add_row(
            r.measure,
            r.unit,
            _shown(r.ours),
            _shown(r.peer),
            _shown(r.ratio),
            f"{r.spread:.0%}",
            str(r.n),
            r.peer_name or "",
            *["" if r.error is None else f"{r.error:.1e}"] * has_errors,
        )
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
    document = {
        "name": name, "machine": machine(), "commit": commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "config": config, "rows": [asdict(r) for r in rows],
    } | (more or {})  # fmt: skip
    line = json.dumps(document)
    print(line)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(line + "\n")
