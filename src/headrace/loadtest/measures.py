"""From points to numbers: percentiles with intervals, throughput, goodput, errors by kind, and how it went over time.

A request counts from when it was due, and failed ones count in every share. Knows no clock and no format.
"""

import math
import statistics
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from headrace.loadtest.plan import Bounds, Goals, Plan, Prices
from headrace.loadtest.reading import OK, Point
from headrace.loadtest.run import Tally
from headrace.loadtest.watch import effort_warnings

SHARES: Final = (0.5, 0.9, 0.99)
CONFIDENCE: Final = 0.95
MAX_BINS: Final = 60
_LEAST_BIN_S: Final = 0.5
NUM_QUANTILES: Final = 101
_EXACT_UP_TO: Final = 2000
_Z: Final = 1.959963984540054  # of the normal distribution, for 95 %
_MAX_LATE_S: Final = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantile:
    """A percentile. `low` and `high` enclose that of the whole population with 95 % confidence; None where there are
    too few values to say, or where values are not independent."""

    share: float
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """What is told of many values: `n` of them, and a line of quantiles from the least to the greatest."""

    n: int
    mean: float
    quantiles: tuple[Quantile, ...]
    line: tuple[float, ...]

    def at(self, share: float) -> float:
        """The value of a told percentile."""
        return next(one.value for one in self.quantiles if one.share == share)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Between the two values that a share lies between, linearly (Hyndman and Fan's type 7)."""
    at = share * (len(ordered) - 1)
    below = math.floor(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


def interval_ranks(n: int, share: float, confidence: float = CONFIDENCE) -> tuple[int, int] | None:
    """The ranks, from 0, of two of `n` independent values in order that enclose the percentile with at least that
    confidence, whatever their distribution (order statistics, binomial); None if even all of them do not."""
    if n < 1:
        return None
    if n > _EXACT_UP_TO:
        half = _Z * math.sqrt(n * share * (1 - share))
        low, high = math.floor(n * share - half) - 1, math.ceil(n * share + half)
        return (low, high) if low >= 0 and high < n else None
    tail = (1 - confidence) / 2
    masses = _binomial(n, share)
    below, low = 0.0, -1
    for rank in range(n):  # P(fewer than rank + 1 values are below the percentile)
        below += masses[rank]
        if below > tail:
            break
        low = rank
    above, high = 0.0, n
    for rank in range(n - 1, -1, -1):  # P(more than rank values are below it)
        above += masses[rank + 1]
        if above > tail:
            break
        high = rank
    return (low, high) if low >= 0 and high < n else None


def _binomial(n: int, share: float) -> list[float]:
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(n + 1)]
    return [math.exp(log + k * math.log(share) + (n - k) * math.log1p(-share)) for k, log in enumerate(logs)]


def spread(values: Iterable[float], *, are_independent: bool = True) -> Spread | None:
    """What is told of values; nothing of none."""
    ordered = sorted(values)
    if not ordered:
        return None
    told = []
    for share in SHARES:
        ranks = interval_ranks(len(ordered), share) if are_independent else None
        low, high = (None, None) if ranks is None else (ordered[ranks[0]], ordered[ranks[1]])
        told.append(Quantile(share=share, value=quantile(ordered, share), low=low, high=high))
    line = tuple(quantile(ordered, step / (NUM_QUANTILES - 1)) for step in range(NUM_QUANTILES))
    return Spread(n=len(ordered), mean=statistics.fmean(ordered), quantiles=tuple(told), line=line)


# One request


def first_s(point: Point) -> float | None:
    """From when it was due to its first token."""
    return None if point.first_s is None else point.first_s - point.due_s


def per_token_s(point: Point) -> float | None:
    """The mean time of a token after the first."""
    if point.first_s is None or point.output_tokens < 2 or not point.gaps_s:
        return None
    return sum(point.gaps_s) / (point.output_tokens - 1)


def is_good(point: Point, goals: Goals) -> bool:
    """Whether it succeeded and kept every goal."""
    if point.outcome != OK:
        return False
    gaps = sorted(point.gaps_s)
    measured = (
        (goals.ttft_s, first_s(point)),
        (goals.itl_s, quantile(gaps, 0.99) if gaps else None),
        (goals.tpot_s, per_token_s(point)),
        (goals.e2e_s, point.end_s - point.due_s),
    )
    return all(goal is None or value is None or value <= goal for goal, value in measured)


def cost_usd(point: Point, prices: Prices) -> float | None:
    """What it cost: by the prices that were given, else what the server said, in its price list's unit."""
    if prices.input is None and prices.output is None:
        return point.cost
    cached = point.cached_tokens or 0 if prices.cached is not None else 0
    fresh = max(0, (point.prompt_tokens or 0) - cached)
    total = fresh * (prices.input or 0) + cached * (prices.cached or 0) + point.output_tokens * (prices.output or 0)
    return total / 1e6


# One stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The part of a stage that throughput is measured in, in seconds of the clock."""

    from_s: float
    to_s: float

    @property
    def length_s(self) -> float:
        """How long it is, never 0."""
        return max(1e-9, self.to_s - self.from_s)


def window_of(tally: Tally, bounds: Bounds) -> Window:
    """From the first request that counts to when no more began; to the last end where their number was the bound,
    because then the last ones are part of what was asked for."""
    from_s = tally.began_s if tally.counts_from_s is None else tally.counts_from_s
    is_by_count = tally.num_begun >= bounds.most and not tally.is_stopped
    return Window(from_s=from_s, to_s=max(from_s, tally.ended_s if is_by_count else tally.sent_until_s))


def tokens_at(points: Iterable[Point]) -> Iterable[tuple[float, float]]:
    """When output came: moments, and tokens at each. A server's count is parted over the pieces."""
    for point in points:
        if point.first_s is None or not point.num_pieces:
            continue
        each, at_s = point.output_tokens / point.num_pieces, point.first_s
        yield at_s, each
        for gap_s in point.gaps_s:
            at_s += gap_s
            yield at_s, each


def stage_result(tally: Tally, plan: Plan) -> dict[str, Any]:
    """Everything that is told of a stage, as values that JSON has. Times in seconds, rates a second."""
    counted = [point for point in tally.points if not point.is_warm]
    good_ends = [point for point in counted if point.outcome == OK]
    window = window_of(tally, plan.bounds)
    tokens = sum(each for at_s, each in tokens_at(tally.points) if window.from_s <= at_s <= window.to_s)
    good = sum(is_good(point, plan.goals) for point in counted)
    errors = Counter(point.outcome for point in counted if point.outcome != OK)
    costs = [cost for point in counted if (cost := cost_usd(point, plan.prices)) is not None]
    told: dict[str, Any] = {
        "name": tally.stage.name,
        "rate": tally.stage.rate,
        "concurrency": tally.stage.concurrency,
        "seconds": window.length_s,
        "is_stopped": tally.is_stopped,
        "num_warm": len(tally.points) - len(counted),
        "num_requests": len(counted),
        "num_ok": len(good_ends),
        "errors": dict(sorted(errors.items())),
        "error_examples": {point.outcome: point.detail for point in reversed(counted) if point.outcome != OK},
        "begun_per_s": _begun_per_s(counted, tally, window),
        "ok_per_s": len(good_ends) / window.length_s,
        "output_tokens_per_s": tokens / window.length_s,
        "good_per_s": good / window.length_s,
        "good_share": good / len(counted) if counted else 0.0,
        "mean_under_way": sum(_within(point, window) for point in tally.points) / window.length_s,
        "prompt_tokens": _mean(point.prompt_tokens for point in good_ends),
        "cached_tokens": _mean(point.cached_tokens for point in good_ends),
        "output_tokens": _mean(point.output_tokens for point in good_ends),
        "tokens_are_counted": all(point.is_counted for point in good_ends),
        "cost": sum(costs) if costs else None,
        "effort": None if tally.effort is None else asdict(tally.effort),
        "spreads": {name: None if one is None else asdict(one) for name, one in _spreads(counted, good_ends).items()},
        "series": series(tally, counted),
    }
    return told | {"warnings": warnings(tally, told, counted)}


def _spreads(counted: Sequence[Point], good_ends: Sequence[Point]) -> dict[str, Spread | None]:
    """By measure. Latencies are of answers that succeeded: what failed is told by its number."""
    gaps = array("d", (gap for point in good_ends for gap in point.gaps_s))
    return {
        "ttft": spread(_kept(first_s, good_ends)),
        "itl": spread(gaps, are_independent=False),
        "tpot": spread(_kept(per_token_s, good_ends)),
        "e2e": spread(point.end_s - point.due_s for point in good_ends),
        "ttft_from_sent": spread(
            point.first_s - point.sent_s
            for point in good_ends
            if point.first_s is not None and point.sent_s is not None
        ),
        "e2e_from_sent": spread(point.end_s - point.sent_s for point in good_ends if point.sent_s is not None),
        "send_delay": spread(point.sent_s - point.due_s for point in counted if point.sent_s is not None),
    }


def series(tally: Tally, counted: Sequence[Point]) -> dict[str, Any]:
    """How it went, in bins of equal length since the stage began."""
    length_s = max(1e-9, tally.ended_s - tally.began_s)
    bin_s = max(_LEAST_BIN_S, length_s / MAX_BINS)
    num = max(1, math.ceil(length_s / bin_s))

    def bin_of(at_s: float) -> int:
        return min(num - 1, max(0, int((at_s - tally.began_s) / bin_s)))

    begun, ended, failed, tokens = [0] * num, [0] * num, [0] * num, [0.0] * num
    firsts: list[list[float]] = [[] for _ in range(num)]
    for point in tally.points:
        begun[bin_of(point.due_s)] += 1
        (ended if point.outcome == OK else failed)[bin_of(point.end_s)] += 1
    for point in counted:
        if point.first_s is not None:
            firsts[bin_of(point.due_s)].append(point.first_s - point.due_s)
    for at_s, each in tokens_at(tally.points):
        tokens[bin_of(at_s)] += each
    return {
        "bin_s": bin_s,
        "begun": begun,
        "ended": ended,
        "failed": failed,
        "output_tokens_per_s": [one / bin_s for one in tokens],
        "ttft_p50": [statistics.median(one) if one else None for one in firsts],
        "ttft_max": [max(one) if one else None for one in firsts],
    }


def warnings(tally: Tally, told: dict[str, Any], counted: Sequence[Point]) -> list[str]:
    """What a reader of the numbers has to know."""
    found = [] if tally.effort is None else effort_warnings(tally.effort)
    delays = sorted(point.sent_s - point.due_s for point in counted if point.sent_s is not None)
    if delays and quantile(delays, 0.99) > _MAX_LATE_S:
        found.append(
            f"requests were sent up to {quantile(delays, 0.99):.2f} s after they were due (99 of 100): as many were "
            "under way as may be, or the load generator was late. Latencies count from when they were due."
        )
    if not told["tokens_are_counted"]:
        found.append("the server did not count tokens (no usage in its streams): each piece counts as one token.")
    rate, begun = tally.stage.rate, told["begun_per_s"]
    if rate is not None and len(counted) >= 100 and abs(begun - rate) > 0.2 * rate:
        found.append(f"{begun:.3g} requests a second began where {rate:g} were asked for.")
    if told["num_ok"] and told["num_ok"] < 100:
        found.append(f"{told['num_ok']} answers: the 99th percentile is little more than the slowest of them.")
    return found


def _begun_per_s(counted: Sequence[Point], tally: Tally, window: Window) -> float:
    if tally.stage.rate is None:
        return len(counted) / window.length_s
    firsts = [point.due_s for point in counted if point.turn == 0]
    length_s = max(firsts) - min(firsts) if len(firsts) > 1 else 0.0
    return (len(firsts) - 1) / length_s if length_s > 0 else 0.0


def _within(point: Point, window: Window) -> float:
    return max(0.0, min(point.end_s, window.to_s) - max(point.due_s, window.from_s))


def _kept(measure: Callable[[Point], float | None], points: Iterable[Point]) -> Iterable[float]:
    return (value for point in points if (value := measure(point)) is not None)


def _mean(values: Iterable[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
