"""What metrics say of trust: what was decided, what monitors said, what became of records and of the log.

Label values are bounded, as policies, monitors and codes of refusals are named by others: each label takes so many, and
every further one is `other`. Who asked and for what is told by decisions' log and by records, and by no label here.
Knows no policies, no monitors and no log: others tell it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace.core.trust import Decision, Verdict
from headrace.observe.histogram import Histogram

MAX_VALUES: Final = 200
"""Values of one label."""
OTHER: Final = "other"
_ACTIONS: Final = frozenset({"request", "route", "tool"})

_SEALING_BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25)
_MERGE_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0, 60.0)


class TrustMetrics(Collector):
    """Register it to have it told. `records` says how many records were sealed and how many were lost, and `waiting`
    how many items no checkpoint covers yet, None where there are none to count: they are asked when somebody reads."""

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        records: Callable[[], tuple[int, int] | None] = lambda: None,
        waiting: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._records = records
        self._waiting = waiting
        self._decisions: dict[tuple[str, ...], int] = {}
        self._denials: dict[tuple[str, ...], int] = {}
        self._verdicts: dict[tuple[str, ...], int] = {}
        self._known: dict[str, set[str]] = {}
        self._sealing = Histogram(_SEALING_BUCKETS)
        self._merging = Histogram(_MERGE_BUCKETS)
        if registry is not None:
            registry.register(self)

    def add(self, decisions: Sequence[Decision], verdicts: Sequence[Verdict]) -> None:
        """What was said of one request."""
        for decision in decisions:
            action = decision.action if decision.action in _ACTIONS else OTHER
            outcome = "allowed" if decision.is_allowed else "denied" if decision.is_enforced else "would_be_denied"
            _count(self._decisions, (action, outcome))
            if not decision.is_allowed:
                for policy in decision.policies or ("none",):
                    _count(self._denials, (self._bounded("policy", policy), outcome))
        for verdict in verdicts:
            action = self._bounded("action", verdict.action)
            shadow = "true" if verdict.is_shadow else "false"
            _count(self._verdicts, (self._bounded("monitor", verdict.monitor), action, shadow))

    def add_sealed(self, spent_s: float) -> None:
        """A record was built, signed and handed in, which took so long."""
        self._sealing.add(spent_s)

    def add_merged(self, delays_s: Sequence[float]) -> None:
        """A checkpoint covers some items, each so long after it was handed in; from any thread."""
        self._merging.add_all((delay_s, 1) for delay_s in delays_s)

    def collect(self) -> Iterator[Metric]:
        """All of it in Prometheus's shapes."""
        yield _counter(
            "headrace:trust_decisions",
            "Decisions of policies, by action (request, route, tool) and outcome: allowed, denied, or would_be_denied "
            "where policies are only watched.",
            ("action", "outcome"),
            self._decisions,
        )
        yield _counter(
            "headrace:trust_denials",
            "Denials by the policy that decided; `none`: no policy permitted it.",
            ("policy", "outcome"),
            self._denials,
        )
        yield _counter(
            "headrace:trust_verdicts",
            "What monitors said, by what it was to lead to: note, label, throttle, refuse.",
            ("monitor", "action", "shadow"),
            self._verdicts,
        )
        if (counts := self._records()) is not None:
            num_sealed, num_lost = counts
            yield CounterMetricFamily("headrace:trust_records", "Records that were signed and handed in.", num_sealed)
            yield CounterMetricFamily(
                "headrace:trust_lost_records",
                "Records that were due, and that nobody took in or a defect ended.",
                num_lost,
            )
            yield _times(
                "headrace:trust_sealing_seconds", "Building, signing and handing in one record.", self._sealing
            )
        if (num_waiting := self._waiting()) is not None:
            yield GaugeMetricFamily("headrace:trust_log_waiting", "Items that no checkpoint covers yet.", num_waiting)
            words = "From handing in to a checkpoint that covers the item."
            yield _times("headrace:trust_merge_seconds", words, self._merging)

    def _bounded(self, label: str, value: str) -> str:
        known = self._known.setdefault(label, set())
        if value not in known:
            if len(known) >= MAX_VALUES:
                return OTHER
            known.add(value)
        return value


def _count(counts: dict[tuple[str, ...], int], key: tuple[str, ...]) -> None:
    counts[key] = counts.get(key, 0) + 1


def _counter(name: str, words: str, labels: tuple[str, ...], counts: dict[tuple[str, ...], int]) -> Metric:
    family = CounterMetricFamily(name, words, labels=labels)
    for key, count in counts.items():
        family.add_metric(key, count)
    return family


def _times(name: str, words: str, histogram: Histogram) -> Metric:
    family = HistogramMetricFamily(name, words)
    buckets, total = histogram.told()
    family.add_metric((), buckets, total)
    return family
