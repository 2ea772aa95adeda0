"""What the gateway's metrics say, out of its usage records: requests, tokens, money and times by route and backend.

A record costs a few dictionary look-ups; Prometheus's shapes are made when somebody reads them. Label values come from
records, and some of those from callers (a model of an open backend), so each label takes a bounded number of values and
every further one is counted as `other`. Tenants, keys and users are no labels: their numbers are in the usage records.
Knows no policies; how backends stand is asked when it is read.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from operator import add, attrgetter
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace.core.usage import NANOS, UsageRecord

MAX_VALUES: Final = 200
"""Values of one label."""
MAX_SERIES: Final = 2000
"""Combinations of values; further ones are `other` in every label."""
OTHER: Final = "other"

_FAST_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
_WAIT_BUCKETS: Final = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)

# Histograms: attribute of a record -> name, what it says, buckets.
_TIMES: Final = (
    (
        "overhead_s",
        "headrace:gateway_overhead_seconds",
        "What the gateway itself added before the answer.",
        _FAST_BUCKETS,
    ),
    ("queue_s", "headrace:gateway_queue_seconds", "Waiting for a place at a backend.", _WAIT_BUCKETS),
    (
        "ttft_s",
        "headrace:gateway_time_to_first_token_seconds",
        "From arrival to the first of an answer.",
        _WAIT_BUCKETS,
    ),
    ("duration_s", "headrace:gateway_request_seconds", "From arrival to the end of the answer.", _WAIT_BUCKETS),
)
# Kinds of tokens: label, attribute of a record.
_TOKENS: Final = (
    ("prompt", "prompt_tokens"),
    ("cached", "cached_tokens"),
    ("written", "written_tokens"),
    ("completion", "completion_tokens"),
    ("reasoning", "reasoning_tokens"),
)
_times_of: Final = attrgetter(*(attribute for attribute, _, _, _ in _TIMES))
_tokens_of: Final = attrgetter(*(attribute for _, attribute in _TOKENS))

Place = tuple[str, str, str]
"""Route, backend, model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendState:
    """How a target of a backend stands: `share` of its usual requests that it may get, 0 while its breaker is open, it
    failed its checks or was drained; requests that run there and that wait for a place."""

    backend: str
    model: str
    share: float
    num_running: int = 0
    num_waiting: int = 0


class _Times:
    """One histogram of one route: counts by bucket, and the sum."""

    __slots__ = ("buckets", "counts", "total")

    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.buckets = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.total = 0.0


class _Sums:
    """What was used at one place."""

    __slots__ = ("attempts", "cost_nanos", "retries", "saved_nanos", "tokens")

    def __init__(self) -> None:
        self.attempts = 0
        self.retries = 0
        self.cost_nanos = 0
        self.saved_nanos = 0
        self.tokens = [0] * len(_TOKENS)


class GatewayMetrics(Collector):
    """Takes in usage records; register it to have them told. `states` says how backends stand now."""

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        states: Callable[[], Iterable[BackendState]] = tuple,
        answers: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self._states = states
        self._answers = answers
        self._known: tuple[set[str], ...] = (set(), set(), set())
        self._sums: dict[Place, _Sums] = {}
        self._requests: dict[tuple[str, str, str, str], int] = {}  # route, backend, outcome, cache
        self._times: dict[str, tuple[_Times, ...]] = {}  # by route
        self._num_estimated = 0
        if registry is not None:
            registry.register(self)

    def add(self, record: UsageRecord) -> None:
        """Take in the record of a request that has ended."""
        place = self._place(record)
        sums = self._sums.get(place)
        if sums is None:
            sums = self._sums[place] = _Sums()
        attempts = record.num_attempts
        sums.attempts += attempts
        if attempts > 1:
            sums.retries += attempts - 1
        sums.cost_nanos += record.cost_nanos
        sums.saved_nanos += record.saved_nanos
        sums.tokens = list(map(add, sums.tokens, _tokens_of(record)))
        self._num_estimated += record.is_estimated
        key = (place[0], place[1], record.outcome, record.cache)
        requests = self._requests
        if key not in requests and len(requests) >= MAX_SERIES:
            key = (OTHER, OTHER, OTHER, OTHER)
        requests[key] = requests.get(key, 0) + 1
        self._add_times(place[0], record)

    def _place(self, record: UsageRecord) -> Place:
        place = (record.route, record.backend, record.model)
        if place in self._sums:
            return place
        if len(self._sums) >= MAX_SERIES:
            return (OTHER, OTHER, OTHER)
        route, backend, model = (self._bounded(known, value) for known, value in zip(self._known, place, strict=True))
        return route, backend, model

    @staticmethod
    def _bounded(known: set[str], value: str) -> str:
        if value not in known:
            if len(known) >= MAX_VALUES:
                return OTHER
            known.add(value)
        return value

    def _add_times(self, route: str, record: UsageRecord) -> None:
        times = self._times.get(route)
        if times is None:
            times = self._times[route] = tuple(_Times(buckets) for _, _, _, buckets in _TIMES)
        for one, seconds in zip(times, _times_of(record), strict=True):
            if seconds is not None:
                one.counts[bisect_left(one.buckets, seconds)] += 1
                one.total += seconds

    def collect(self) -> Iterator[Metric]:
        """All of it in Prometheus's shapes."""
        yield self._request_family()
        yield from self._sum_families()
        estimated = CounterMetricFamily(
            "headrace:gateway_estimated_requests", "Requests charged by bounds, as their backend told no counts."
        )
        estimated.add_metric((), self._num_estimated)
        yield estimated
        yield from self._time_families()
        yield from self._state_families()
        num_answers, num_bytes = self._answers()
        yield GaugeMetricFamily("headrace:gateway_kept_answers", "Answers that may be given again.", num_answers)
        yield GaugeMetricFamily("headrace:gateway_kept_answers_bytes", "Memory that they take.", num_bytes)

    def _request_family(self) -> Metric:
        family = CounterMetricFamily(
            "headrace:gateway_requests",
            "Requests that ended, by how: ok, cancelled, or the code of an error, such as budget_exceeded; `cache` is "
            "exact or semantic where a kept answer was given.",
            labels=("route", "backend", "outcome", "cache"),
        )
        for key, count in self._requests.items():
            family.add_metric(key, count)
        return family

    def _sum_families(self) -> Iterator[Metric]:
        labels = ("route", "backend", "model")
        attempts = CounterMetricFamily("headrace:gateway_attempts", "Times that a backend was asked.", labels=labels)
        retries = CounterMetricFamily(
            "headrace:gateway_retries", "Attempts beyond a request's first: retries, fallbacks, hedges.", labels=labels
        )
        tokens = CounterMetricFamily(
            "headrace:gateway_tokens",
            "Tokens, by kind: prompt (of which cached, and written to a cache), completion (of which reasoning).",
            labels=(*labels, "kind"),
        )
        cost = CounterMetricFamily("headrace:gateway_cost", "Money, in the unit of the price list.", labels=labels)
        saved = CounterMetricFamily("headrace:gateway_saved", "Money that caches spared, in the same.", labels=labels)
        for place, sums in self._sums.items():
            attempts.add_metric(place, sums.attempts)
            retries.add_metric(place, sums.retries)
            cost.add_metric(place, sums.cost_nanos / NANOS)
            saved.add_metric(place, sums.saved_nanos / NANOS)
            for (kind, _), count in zip(_TOKENS, sums.tokens, strict=True):
                tokens.add_metric((*place, kind), count)
        yield from (attempts, retries, tokens, cost, saved)

    def _time_families(self) -> Iterator[Metric]:
        for index, (_, name, words, buckets) in enumerate(_TIMES):
            family = HistogramMetricFamily(name, words, labels=("route",))
            bounds = [*map(str, buckets), "+Inf"]
            for route, times in self._times.items():
                one = times[index]
                family.add_metric((route,), list(zip(bounds, accumulate(one.counts), strict=True)), one.total)
            yield family

    def _state_families(self) -> Iterator[Metric]:
        share = GaugeMetricFamily(
            "headrace:gateway_backend_share",
            "Share of its usual requests that a model of a backend may get: 1 in order, 0 out (breaker, check, drain).",
            labels=("backend", "model"),
        )
        running = GaugeMetricFamily("headrace:gateway_running", "Requests at a backend.", labels=("backend",))
        waiting = GaugeMetricFamily(
            "headrace:gateway_waiting", "Requests that wait for a place at a backend.", labels=("backend",)
        )
        lines: dict[str, BackendState] = {}
        for number, state in enumerate(self._states()):
            if number >= MAX_SERIES:
                break
            share.add_metric((state.backend, state.model), state.share)
            lines.setdefault(state.backend, state)
        for backend, state in lines.items():
            running.add_metric((backend,), state.num_running)
            waiting.add_metric((backend,), state.num_waiting)
        yield from (share, running, waiting)
