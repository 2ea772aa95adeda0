"""What metrics say of engines as they stand, made when somebody reads it: pages of each model, gaps between tokens, and
which adapters have requests.

Names, labels and meanings are vLLM's, as the Kubernetes gateway API inference extension reads them. Adapters are an
operator's files, so that their names are bounded; one line tells of all of them, and only while there may be some.
Knows no engine: others tell it.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from headrace.core.clock import Clock
from headrace.observe.histogram import Histogram

ENGINE: Final = "0"
"""The label `engine`: a process has one, whose models are told apart by `model_name`."""
MAX_ADAPTERS: Final = 200
"""Names in one label."""

_MODEL_LABELS: Final = ("model_name", "engine")
_GAP_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip


class ModelState:
    """Pages that one model has, None while it has none, and the gaps between tokens of its streams."""

    __slots__ = ("block_size", "gaps", "num_blocks")

    def __init__(self) -> None:
        self.block_size = 0  # tokens
        self.num_blocks: int | None = None
        self.gaps = Histogram(_GAP_BUCKETS)


class AdapterUse:
    """One request for an adapter: it waits until it `run`s, and both are over when it `leave`s."""

    __slots__ = ("_name", "_place", "_states")

    def __init__(self, states: "EngineStates", name: str) -> None:
        self._states = states
        self._name = name
        self._place: Counter[str] | None = states.waiting
        self._place[name] += 1

    def run(self) -> None:
        """The engine has begun with it."""
        if self._place is self._states.waiting:
            self._leave()
            self._place = self._states.running
            self._place[self._name] += 1

    def leave(self) -> None:
        """It is over; a second time is no error."""
        if self._place is not None:
            self._leave()
            self._place = None

    def _leave(self) -> None:
        place, name = self._place, self._name
        assert place is not None
        place[name] -= 1
        if not place[name]:
            del place[name]


class EngineStates(Collector):
    """See the file's head. `max_adapters` is how many may run at once, None where there can be none."""

    def __init__(self, registry: CollectorRegistry, clock: Clock) -> None:
        self.max_adapters: int | None = None
        self.waiting: Counter[str] = Counter()
        self.running: Counter[str] = Counter()
        self._models: dict[str, ModelState] = {}
        self._clock = clock
        registry.register(self)

    def model(self, name: str) -> ModelState:
        """The state of one model, by its served name."""
        return self._models.setdefault(name, ModelState())

    def use(self, name: str) -> AdapterUse:
        """A request for an adapter has come; on the event loop, as all of it."""
        return AdapterUse(self, name)

    def collect(self) -> Iterator[Metric]:
        """All of it in Prometheus's shapes."""
        pages = GaugeMetricFamily(
            "vllm:cache_config_info",
            "How keys and values are kept: tokens of a page (block_size), and pages (num_gpu_blocks), here in memory.",
            labels=("block_size", "num_gpu_blocks", *_MODEL_LABELS),
        )
        for name, state in list(self._models.items()):
            if state.num_blocks is not None:
                pages.add_metric((str(state.block_size), str(state.num_blocks), name, ENGINE), 1)
        yield pages
        yield self._gaps("vllm:inter_token_latency_seconds", "Time between tokens of a stream, as they are computed.")
        yield self._gaps(
            "vllm:time_per_output_token_seconds", "The same as vllm:inter_token_latency_seconds, for older dashboards."
        )
        if self.max_adapters is not None:
            adapters = GaugeMetricFamily(
                "vllm:lora_requests_info",
                "Adapters that requests run with and wait for; its value is the time of reading, as in vLLM.",
                labels=("max_lora", "running_lora_adapters", "waiting_lora_adapters"),
            )
            labels = (str(self.max_adapters), _names(self.running), _names(self.waiting))
            adapters.add_metric(labels, self._clock.unix_s())
            yield adapters

    def _gaps(self, name: str, words: str) -> Metric:
        family = HistogramMetricFamily(name, words, labels=_MODEL_LABELS)
        for model, state in list(self._models.items()):
            buckets, total = state.gaps.told()
            family.add_metric((model, ENGINE), buckets, total)
        return family


def _names(place: Counter[str]) -> str:
    return ",".join(sorted(place)[:MAX_ADAPTERS])
