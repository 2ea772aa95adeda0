"""Every metric Headrace exports, in one registry of its own.

Where a metric means exactly what vLLM's means it carries vLLM's name (prefix `vllm:`, label `model_name`), so that
dashboards and autoscalers made for vLLM work; what only Headrace has is called `headrace:`. The engine's thread writes
once in a few steps, never once a token. This file does not know how the text is served (`server`) or who measures.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from headrace.core.clock import Clock, SystemClock
from headrace.observe.engine_states import ENGINE, EngineStates, ModelState
from headrace.observe.text_format import write_families

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
"""Of the text."""

# vLLM's bounds are all among these, so that quantiles over servers of both kinds can be taken; what lies between and
# below them is what small models on CPUs take.
_TTFT_BUCKETS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.025, 0.04, 0.05, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
)  # fmt: skip
_REQUEST_BUCKETS: Final = (
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_STEP_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LENGTH_BUCKETS: Final = tuple(digit * 10.0**power for power in range(6) for digit in (1, 2, 5))  # tokens
_BATCH_BUCKETS: Final = (1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0)


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """The children of every per-model metric for one model, bound once so that recording costs no lookup."""

    running: Gauge
    waiting: Gauge
    kv_usage: Gauge
    pinned: Gauge
    held_bytes: Gauge
    loads: Counter
    prompt_tokens: Counter
    generation_tokens: Counter
    prefix_queries: Counter
    prefix_hits: Counter
    disk_hits: Counter
    preemptions: Counter
    drafts: Counter
    draft_tokens: Counter
    accepted_tokens: Counter
    time_to_first_token: Histogram
    time_per_output_token: Histogram
    request_latency: Histogram
    queue_time: Histogram
    inference_time: Histogram
    prefill_time: Histogram
    decode_time: Histogram
    request_prompt_tokens: Histogram
    request_generation_tokens: Histogram
    step: Histogram
    step_tokens: Histogram
    native: Counter
    faults: Counter
    state: ModelState


@dataclass(frozen=True, slots=True)
class DiskMetrics:
    """What the disk tier of the prefix cache records; `pages` has the label `event`."""

    pages: Counter
    num_pages: Gauge
    num_bytes: Gauge

    @classmethod
    def register(cls, registry: CollectorRegistry) -> "DiskMetrics":
        """Made in a registry."""
        return cls(
            Counter(
                "headrace:disk_cache_pages",
                "Pages of the disk cache, by what became of them: written, read, evicted, dropped (not written), gone "
                "(erased by others), damaged, foreign, other_key, other_version or unreadable.",
                ("event",),
                registry=registry,
            ),
            Gauge("headrace:disk_cache_stored_pages", "Pages in the disk cache.", registry=registry),
            Gauge("headrace:disk_cache_bytes", "Bytes of the disk cache's files.", registry=registry),
        )


# Per-model metrics: attribute of `ModelMetrics` -> name, what it says, and buckets.
_GAUGES = {
    "running": ("vllm:num_requests_running", "Sequences in execution."),
    "waiting": ("vllm:num_requests_waiting", "Sequences waiting to be scheduled."),
    "kv_usage": ("vllm:kv_cache_usage_perc", "Share of KV pages in use by sequences, 0 to 1."),
    "pinned": ("headrace:prefix_cache_pinned_pages", "KV pages that sessions keep."),
    "held_bytes": ("headrace:model_memory_bytes", "Weights and KV pages of a model in memory; 0 while it is not."),
}
_COUNTERS = {
    "prompt_tokens": ("vllm:prompt_tokens", "Prompt tokens of admitted requests."),
    "generation_tokens": ("vllm:generation_tokens", "Tokens generated."),
    "prefix_queries": ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix tree."),
    "prefix_hits": ("vllm:prefix_cache_hits", "Prompt tokens found in the prefix tree."),
    "disk_hits": ("headrace:prefix_cache_disk_hits", "Prompt tokens, of those found, that were read from disk for it."),
    "preemptions": ("vllm:num_preemptions", "Sequences preempted because pages ran out."),
    "drafts": ("vllm:spec_decode_num_drafts", "Drafts that steps tried."),
    "draft_tokens": ("vllm:spec_decode_num_draft_tokens", "Tokens in these drafts."),
    "accepted_tokens": ("vllm:spec_decode_num_accepted_tokens", "Draft tokens that were what the model said."),
    "loads": ("headrace:model_loads", "Times that a model was brought into memory."),
    "native": ("headrace:engine_native_seconds", "Seconds of engine steps that were spent inside the kernels."),
    "faults": ("headrace:engine_faults", "Steps or rows that failed by a defect of the engine."),
}
_HISTOGRAMS = {
    "time_to_first_token": ("vllm:time_to_first_token_seconds", "From arrival to the first token.", _TTFT_BUCKETS),
    "time_per_output_token": (
        "vllm:request_time_per_output_token_seconds",
        "Mean gap between tokens of a request.",
        _TOKEN_BUCKETS,
    ),
    "request_latency": ("vllm:e2e_request_latency_seconds", "From arrival to the end of the answer.", _REQUEST_BUCKETS),
    "queue_time": (
        "vllm:request_queue_time_seconds",
        "Waiting for the engine to begin with a request.",
        _REQUEST_BUCKETS,
    ),
    "inference_time": (
        "vllm:request_inference_time_seconds",
        "From when the engine began with a request to its last token.",
        _REQUEST_BUCKETS,
    ),
    "prefill_time": (
        "vllm:request_prefill_time_seconds",
        "Of that, reading the prompt: up to the first token.",
        _REQUEST_BUCKETS,
    ),
    "decode_time": (
        "vllm:request_decode_time_seconds",
        "Of that, from the first token to the last one.",
        _REQUEST_BUCKETS,
    ),
    "request_prompt_tokens": ("vllm:request_prompt_tokens", "Prompt tokens of a request that ended.", _LENGTH_BUCKETS),
    "request_generation_tokens": (
        "vllm:request_generation_tokens",
        "Tokens generated for one choice of a request that ended.",
        _LENGTH_BUCKETS,
    ),
    "step_tokens": ("vllm:iteration_tokens_total", "Tokens that one engine step computes.", _BATCH_BUCKETS),
    "step": (
        "headrace:engine_step_seconds",
        "One engine step, from the end of the last kernel call or the arrival of work.",
        _STEP_BUCKETS,
    ),
}


class Metrics:
    """The registry and its metrics; `for_model` gives what one model's engine records, `http_*` is the server's,
    `batch*` is written by whoever runs batches."""

    def __init__(self, registry: CollectorRegistry | None = None, clock: Clock | None = None) -> None:
        self.registry = CollectorRegistry() if registry is None else registry
        # Attribute of `ModelMetrics` -> its family, and the values of its labels behind the model's name.
        self._families: dict[str, tuple[Gauge | Counter | Histogram, tuple[str, ...]]] = {}
        for attribute, given in _GAUGES.items():
            names, fixed = _labels(given[0])
            self._families[attribute] = Gauge(*given, names, registry=self.registry), fixed
        for attribute, given in _COUNTERS.items():
            names, fixed = _labels(given[0])
            self._families[attribute] = Counter(*given, names, registry=self.registry), fixed
        for attribute, (name, text, buckets) in _HISTOGRAMS.items():
            names, fixed = _labels(name)
            made = Histogram(name, text, names, registry=self.registry, buckets=buckets)
            self._families[attribute] = made, fixed
        self.states = EngineStates(self.registry, clock or SystemClock())
        self._request_success = Counter(
            "vllm:request_success",
            "Requests that ended, by how: stop, length, tool_calls, abort (closed by the caller) or error.",
            ("model_name", "engine", "finished_reason"),
            registry=self.registry,
        )
        self.disk = DiskMetrics.register(self.registry)
        self.http_requests = Counter(
            "headrace:http_requests", "HTTP responses.", ("route", "method", "status"), registry=self.registry
        )
        self.batch_lines = Counter(
            "headrace:batch_lines",
            "Lines of batches that ended, by how: succeeded, failed or unrun (cancelled, expired).",
            ("outcome",),
            registry=self.registry,
        )
        self.batches = Gauge("headrace:batches_unfinished", "Batches that are not over.", registry=self.registry)
        self.http_in_flight = Gauge("headrace:http_requests_in_flight", "HTTP requests open.", registry=self.registry)

    def for_model(self, model: str) -> ModelMetrics:
        """Bind the per-model metrics to a model's served name."""
        bound: dict[str, Any] = {
            attribute: family.labels(model, *fixed) for attribute, (family, fixed) in self._families.items()
        }
        return ModelMetrics(**bound, state=self.states.model(model))

    def count_end(self, model: str, outcome: str) -> None:
        """A request for a model has ended, and how."""
        self._request_success.labels(model, ENGINE, outcome).inc()

    def pieces(self) -> Iterator[str]:
        """Everything in Prometheus's text format, a piece at a time: what is recorded between two pieces may be in the
        later ones, and a family is of one moment."""
        return write_families(self.registry.collect())

    def expose(self) -> tuple[bytes, str]:
        """Everything in Prometheus's text format, and its content type."""
        return "".join(self.pieces()).encode(), CONTENT_TYPE


def _labels(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a metric's labels, and values of those behind the model's name: vLLM's metrics have vLLM's labels."""
    return (("model_name", "engine"), (ENGINE,)) if name.startswith("vllm:") else (("model_name",), ())
