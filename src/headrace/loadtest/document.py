"""A run as one JSON document: conditions, rows in the form of all our benchmarks, stages, and on request every point.

The same document is what a report is drawn from, now or later, here or beside another run. Read with care: it may come
from anybody. Knows no drawing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from headrace.core.errors import InvalidRequest
from headrace.loadtest.measures import SHARES
from headrace.loadtest.plan import MAX_STAGES, Plan
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


class QuantileShape(msgspec.Struct):
    """See `measures.Quantile`."""

    share: float
    value: float
    low: float | None
    high: float | None


class SpreadShape(msgspec.Struct):
    """See `measures.Spread`."""

    n: int
    mean: float
    quantiles: Annotated[list[QuantileShape], msgspec.Meta(min_length=len(SHARES), max_length=len(SHARES))]
    line: Annotated[list[float], msgspec.Meta(min_length=2, max_length=10_000)]


class EffortShape(msgspec.Struct):
    """See `watch.Effort`."""

    cpu_share: float
    lag_p99_s: float


class SeriesShape(msgspec.Struct):
    """See `measures.series`."""

    bin_s: Annotated[float, msgspec.Meta(gt=0)]
    begun: list[int]
    ended: list[int]
    failed: list[int]
    output_tokens_per_s: list[float]
    ttft_p50: list[float | None]
    ttft_max: list[float | None]


class StageShape(msgspec.Struct):
    """What a report needs of `measures.stage_result`."""

    name: str
    rate: Annotated[float, msgspec.Meta(gt=0)] | None
    concurrency: Annotated[int, msgspec.Meta(gt=0)] | None
    seconds: float
    is_stopped: bool
    num_requests: int
    num_ok: int
    errors: dict[str, int]
    error_examples: dict[str, str]
    ok_per_s: float
    output_tokens_per_s: float
    good_per_s: float
    good_share: float
    mean_under_way: float
    prompt_tokens: float | None
    cached_tokens: float | None
    output_tokens: float | None
    cost: float | None
    effort: EffortShape | None
    spreads: dict[str, SpreadShape | None]
    series: SeriesShape
    warnings: list[str]

    def __post_init__(self) -> None:
        if (self.rate is None) == (self.concurrency is None):
            raise ValueError("a stage has a rate or a concurrency")


class ConfigShape(msgspec.Struct):
    """Conditions that every run names."""

    url: str
    model: str


class RunShape(msgspec.Struct):
    """A whole document."""

    name: Literal["run"]
    form: Literal[1]
    machine: str
    commit: str
    date: str
    config: ConfigShape
    rows: list[dict[str, Any]]
    stages: Annotated[list[StageShape], msgspec.Meta(min_length=1, max_length=MAX_STAGES)]


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
        found = msgspec.json.decode(path.read_bytes())
        msgspec.convert(found, RunShape)
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be read ({error.strerror or error}); correct the path.") from None
    except (UnicodeDecodeError, msgspec.DecodeError) as error:
        raise InvalidRequest(f"{path} is no run of this version ({error}); name a file of bench run --json.") from None
    read: dict[str, Any] = found
    return read
