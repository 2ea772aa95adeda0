"""A run as one JSON document: conditions, rows in the form of all our benchmarks, stages, and on request every point.

The same document is what a report is drawn from, now or later, here or beside another run. Read with care: it may come
from anybody. Knows no drawing.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from headrace.core.errors import InvalidRequest
from headrace.loadtest.plan import Plan
from headrace.loadtest.reading import Point

FORM: Final = 1
MAX_BYTES: Final = 512 * 2**20

# measure -> (unit, whether less is better, how it is read from a stage)
_SPREADS: Final = ("ttft", "itl", "tpot", "e2e")
_PLAIN: Final = {
    "output-tokens-per-s": ("tok/s", False, "output_tokens_per_s"),
    "requests-per-s": ("1/s", False, "ok_per_s"),
    "goodput-per-s": ("1/s", False, "good_per_s"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Under what a run was made. `machine` is the load generator's; what the server runs on it does not tell."""

    url: str
    model: str
    machine: str
    version: str
    date: str
    workload: Mapping[str, Any]
    fields: Mapping[str, Any]


def build_document(plan: Plan, conditions: Conditions, stages: list[dict[str, Any]]) -> dict[str, Any]:
    """The document of a run."""
    config = {
        "url": conditions.url,
        "model": conditions.model,
        "endpoint": plan.protocol,
        "workload": dict(conditions.workload),
        "fields": dict(conditions.fields),
        "bounds": asdict(plan.bounds),
        "slo": {name.removesuffix("_s"): value for name, value in asdict(plan.goals).items() if value is not None},
        "prices": {name: value for name, value in asdict(plan.prices).items() if value is not None},
        "seed": plan.seed,
    }
    return {
        "name": "run",
        "form": FORM,
        "machine": conditions.machine,
        "commit": conditions.version,
        "date": conditions.date,
        "config": config,
        "rows": [row for stage in stages for row in rows_of(stage)],
        "stages": stages,
    }


def rows_of(
    stage: Mapping[str, Any], peer: Mapping[str, Any] | None = None, peer_name: str | None = None
) -> list[dict[str, Any]]:
    """One row a measure, beside another run's where there is one: `ratio` is better-than-peer, above 1 where this run
    is better, for times too. `spread` is the width of the 95 % interval over the value."""
    place = stage["name"].replace(" ", "-")
    rows = []
    for name in _SPREADS:
        ours, theirs = stage["spreads"].get(name), (peer or {}).get("spreads", {}).get(name)
        for index, one in enumerate(() if ours is None else ours["quantiles"]):
            value, low, high = one["value"], one["low"], one["high"]
            other = None if theirs is None else theirs["quantiles"][index]["value"]
            width = (high - low) / value if low is not None and value else 0.0
            measure = f"{name}-p{100 * one['share']:g}@{place}"
            pair = _pair(value, other, peer_name, is_less_better=True)
            rows.append({"measure": measure, "unit": "s", **pair, "spread": width, "n": ours["n"]})
    for name, (unit, is_less_better, key) in _PLAIN.items():
        pair = _pair(stage[key], None if peer is None else peer[key], peer_name, is_less_better=is_less_better)
        rows.append({"measure": f"{name}@{place}", "unit": unit, **pair, "spread": 0.0, "n": stage["num_ok"]})
    return rows


def _pair(ours: float, peer: float | None, peer_name: str | None, *, is_less_better: bool) -> dict[str, Any]:
    ratio = None
    if peer is not None and ours > 0 and peer > 0:
        ratio = peer / ours if is_less_better else ours / peer
    return {"ours": ours, "peer": peer, "peer_name": None if peer is None else peer_name, "ratio": ratio}


def compare(document: Mapping[str, Any], peer: Mapping[str, Any], peer_name: str) -> list[dict[str, Any]]:
    """The rows of stages that both runs have, the second as the peer."""
    others = {stage["name"]: stage for stage in peer["stages"]}
    both = [(stage, others[stage["name"]]) for stage in document["stages"] if stage["name"] in others]
    return [row for stage, other in both for row in rows_of(stage, other, peer_name)]


def encode_points(stages: Iterable[tuple[str, Iterable[Point], float]]) -> list[dict[str, Any]]:
    """Every request of every stage, its moments in seconds since its stage began."""
    told = []
    for name, points, began_s in stages:
        for point in sorted(points, key=lambda one: (one.index, one.turn)):
            moments = {key: getattr(point, key) for key in ("due_s", "sent_s", "first_s", "end_s")}
            told.append(
                {
                    "stage": name,
                    **{field: getattr(point, field) for field in Point.__dataclass_fields__},
                    **{key: None if at_s is None else round(at_s - began_s, 6) for key, at_s in moments.items()},
                    "gaps_s": [round(gap_s, 6) for gap_s in point.gaps_s],
                }
            )
    return told


def read_document(path: Path) -> dict[str, Any]:
    """A run that was written. Raises InvalidRequest for a file that is none."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidRequest(f"{path} is larger than {MAX_BYTES // 2**20} MiB; write runs without --points.")
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read as a run ({error}); name a file of bench run --json.") from None
    if not isinstance(found, dict) or found.get("name") != "run" or found.get("form") != FORM:
        raise InvalidRequest(f"{path} is no run of this version; name a file of bench run --json.")
    missing = [name for name in ("machine", "commit", "date", "config", "rows", "stages") if name not in found]
    if missing or not isinstance(found["stages"], list) or not found["stages"]:
        raise InvalidRequest(f"{path} has no {', '.join(missing) or 'stages'}; write it again.")
    return found
