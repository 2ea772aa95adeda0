"""The gateway's metrics: what records add up to, and that no caller can make them grow."""

from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from headrace.core.usage import NANOS, UsageRecord
from headrace.observe.gateway_metrics import MAX_SERIES, MAX_VALUES, OTHER, BackendState, GatewayMetrics


def record(**about: Any) -> UsageRecord:
    given: dict[str, Any] = {
        "request_id": "r",
        "started_s": 1.0,
        "tenant": "t",
        "route": "smart",
        "backend": "a",
        "model": "m",
        "num_attempts": 1,
        "prompt_tokens": 100,
        "cached_tokens": 40,
        "completion_tokens": 10,
        "cost_nanos": NANOS // 2,
        "overhead_s": 0.0004,
        "ttft_s": 0.2,
        "duration_s": 3.0,
    }
    return UsageRecord(**given | about)


def told(metrics: GatewayMetrics) -> dict[str, dict[frozenset[tuple[str, str]], float]]:
    """What a Prometheus would read: by name of the sample, by labels."""
    registry = CollectorRegistry()
    registry.register(metrics)
    found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def labels(**given: str) -> frozenset[tuple[str, str]]:
    return frozenset(given.items())


def test_records_add_up() -> None:
    metrics = GatewayMetrics()
    metrics.add(record())
    metrics.add(record(num_attempts=3, outcome="cancelled", saved_nanos=NANOS, is_estimated=True))
    metrics.add(record(num_attempts=0, backend="", model="", outcome="budget_exceeded", ttft_s=None, cost_nanos=0))
    metrics.add(record(num_attempts=0, cache="exact", cost_nanos=0))
    found = told(metrics)
    requests = found["headrace:gateway_requests_total"]
    assert requests[labels(route="smart", backend="a", outcome="ok", cache="")] == 1
    assert requests[labels(route="smart", backend="a", outcome="ok", cache="exact")] == 1
    assert requests[labels(route="smart", backend="", outcome="budget_exceeded", cache="")] == 1
    place = {"route": "smart", "backend": "a", "model": "m"}
    assert found["headrace:gateway_attempts_total"][labels(**place)] == 4
    assert found["headrace:gateway_retries_total"][labels(**place)] == 2
    assert found["headrace:gateway_cost_total"][labels(**place)] == 1.0
    assert found["headrace:gateway_saved_total"][labels(**place)] == 1.0
    tokens = found["headrace:gateway_tokens_total"]
    assert tokens[labels(**place, kind="prompt")] == 300
    assert tokens[labels(**place, kind="cached")] == 120
    assert tokens[labels(**place, kind="completion")] == 30
    assert found["headrace:gateway_estimated_requests_total"][labels()] == 1
    assert found["headrace:gateway_time_to_first_token_seconds_count"][labels(route="smart")] == 3
    assert found["headrace:gateway_request_seconds_sum"][labels(route="smart")] == 12.0


def test_times_fall_into_the_buckets_that_bound_them() -> None:
    metrics = GatewayMetrics()
    for seconds in (0.00005, 0.0005, 0.0006, 99.0):
        metrics.add(record(overhead_s=seconds))
    buckets = told(metrics)["headrace:gateway_overhead_seconds_bucket"]
    counts = {bound: buckets[labels(route="smart", le=bound)] for bound in ("0.0001", "0.0005", "0.001", "1.0", "+Inf")}
    assert counts == {"0.0001": 1, "0.0005": 2, "0.001": 3, "1.0": 3, "+Inf": 4}


def test_callers_cannot_make_them_grow() -> None:
    metrics = GatewayMetrics()
    for number in range(3 * MAX_SERIES):
        metrics.add(record(model=f"model {number}", outcome=f"code {number}", route=f"route {number % 7}"))
    found = told(metrics)
    assert sum(found["headrace:gateway_attempts_total"].values()) == 3 * MAX_SERIES
    assert sum(found["headrace:gateway_requests_total"].values()) == 3 * MAX_SERIES
    assert len(found["headrace:gateway_requests_total"]) <= MAX_SERIES + 1
    models = {dict(one)["model"] for one in found["headrace:gateway_attempts_total"]}
    assert len(models) == MAX_VALUES + 1
    assert OTHER in models


def test_how_backends_stand_is_asked_when_it_is_read() -> None:
    states = [
        BackendState(backend="a", model="m", share=1.0, num_running=2, num_waiting=1),
        BackendState(backend="a", model="n", share=0.0, num_running=2, num_waiting=1),
        BackendState(backend="b", model="m", share=0.5),
    ]
    found = told(GatewayMetrics(states=lambda: states, answers=lambda: (3, 400)))
    share = found["headrace:gateway_backend_share"]
    assert share[labels(backend="a", model="n")] == 0.0
    assert share[labels(backend="b", model="m")] == 0.5
    assert found["headrace:gateway_running"] == {labels(backend="a"): 2, labels(backend="b"): 0}
    assert found["headrace:gateway_waiting"] == {labels(backend="a"): 1, labels(backend="b"): 0}
    assert found["headrace:gateway_kept_answers_bytes"] == {labels(): 400}


def test_every_one_of_them_is_in_the_reference() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "metrics.md").read_text("utf-8")
    for family in GatewayMetrics().collect():
        name = f"{family.name}_total" if family.type == "counter" else family.name
        assert f"`{name}`" in page
