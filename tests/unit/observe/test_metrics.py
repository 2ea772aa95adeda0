"""Metrics carry vLLM's names where they mean the same, with vLLM's labels, in a registry of their own."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from tests.doubles import ManualClock

from headrace.observe.histogram import Histogram
from headrace.observe.metrics import Metrics

MODEL = frozenset({"model_name", "engine"})
# The names that routers, autoscalers and dashboards made for vLLM ask for, their kind and their labels.
EXPECTED = {
    # What the Kubernetes gateway API inference extension reads.
    "vllm:num_requests_waiting": ("gauge", MODEL),
    "vllm:num_requests_running": ("gauge", MODEL),
    "vllm:kv_cache_usage_perc": ("gauge", MODEL),
    "vllm:cache_config_info": ("gauge", MODEL | {"block_size", "num_gpu_blocks"}),
    "vllm:lora_requests_info": ("gauge", {"max_lora", "running_lora_adapters", "waiting_lora_adapters"}),
    # What dashboards show besides; a counter's samples end in _total.
    "vllm:prompt_tokens": ("counter", MODEL),
    "vllm:generation_tokens": ("counter", MODEL),
    "vllm:request_success": ("counter", MODEL | {"finished_reason"}),
    "vllm:num_preemptions": ("counter", MODEL),
    "vllm:prefix_cache_queries": ("counter", MODEL),
    "vllm:prefix_cache_hits": ("counter", MODEL),
    "vllm:time_to_first_token_seconds": ("histogram", MODEL),
    "vllm:inter_token_latency_seconds": ("histogram", MODEL),
    "vllm:time_per_output_token_seconds": ("histogram", MODEL),
    "vllm:request_time_per_output_token_seconds": ("histogram", MODEL),
    "vllm:e2e_request_latency_seconds": ("histogram", MODEL),
    "vllm:request_queue_time_seconds": ("histogram", MODEL),
    "vllm:request_inference_time_seconds": ("histogram", MODEL),
    "vllm:request_prefill_time_seconds": ("histogram", MODEL),
    "vllm:request_decode_time_seconds": ("histogram", MODEL),
    "vllm:request_prompt_tokens": ("histogram", MODEL),
    "vllm:request_generation_tokens": ("histogram", MODEL),
    "vllm:iteration_tokens_total": ("histogram", MODEL),
    # What speculation does, by vLLM's names too.
    "vllm:spec_decode_num_drafts": ("counter", MODEL),
    "vllm:spec_decode_num_draft_tokens": ("counter", MODEL),
    "vllm:spec_decode_num_accepted_tokens": ("counter", MODEL),
}
# Upper bounds of vLLM's own histograms, so that both kinds of servers add up.
BOUNDS = {
    "vllm:time_to_first_token_seconds": "0.001 0.005 0.01 0.02 0.04 0.06 0.08 0.1 0.25 0.5 0.75 1.0 2.5 5.0 7.5 10.0 "
    "20.0 40.0 80.0 160.0 640.0 2560.0",
    "vllm:inter_token_latency_seconds": "0.01 0.025 0.05 0.075 0.1 0.15 0.2 0.3 0.4 0.5 0.75 1.0 2.5 5.0 7.5 10.0 20.0 "
    "40.0 80.0",
    "vllm:e2e_request_latency_seconds": "0.3 0.5 0.8 1.0 1.5 2.0 2.5 5.0 10.0 15.0 20.0 30.0 40.0 50.0 60.0 120.0 "
    "240.0 480.0 960.0 1920.0 7680.0",
    "vllm:iteration_tokens_total": "1.0 8.0 16.0 32.0 64.0 128.0 256.0 512.0 1024.0 2048.0 4096.0 8192.0 16384.0",
}


def told(metrics: Metrics) -> dict[str, Metric]:
    body, content_type = metrics.expose()
    assert content_type.startswith("text/plain")
    return {family.name: family for family in text_string_to_metric_families(body.decode())}


def served() -> Metrics:
    metrics = Metrics(clock=ManualClock())
    state = metrics.for_model("m").state
    state.block_size, state.num_blocks = 32, 800
    metrics.states.max_adapters = 64
    metrics.count_end("m", "stop")
    return metrics


def labels_of(family: Metric) -> set[frozenset[str]]:
    return {frozenset(sample.labels) - {"le"} for sample in family.samples}


def test_every_name_of_vllm_that_others_read_is_there_with_its_kind_and_labels() -> None:
    families = told(served())
    ours = {name: (family.type, labels_of(family)) for name, family in families.items() if name.startswith("vllm:")}
    assert ours == {name: (kind, {frozenset(labels)}) for name, (kind, labels) in EXPECTED.items()}
    engines = {
        sample.labels["engine"] for name in ours for sample in families[name].samples if "engine" in sample.labels
    }
    assert engines == {"0"}


@pytest.mark.parametrize("name", BOUNDS)
def test_quantiles_over_our_servers_and_vllms_can_be_taken(name: str) -> None:
    bounds = {sample.labels["le"] for sample in told(served())[name].samples if "le" in sample.labels}
    assert bounds >= {*BOUNDS[name].split(), "+Inf"}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_what_is_recorded_of_a_model_is_told_of_it() -> None:
    metrics = served()
    bound = metrics.for_model("m")
    bound.prompt_tokens.inc(3)
    bound.running.set(2)
    bound.time_to_first_token.observe(0.02)
    bound.state.gaps.add_all([(0.02, 3), (30.0, 1)])
    assert value(metrics, "vllm:prompt_tokens_total", model_name="m", engine="0") == 3
    assert value(metrics, "vllm:num_requests_running", model_name="m", engine="0") == 2
    assert value(metrics, "vllm:request_success_total", model_name="m", engine="0", finished_reason="stop") == 1
    for name in ("inter_token_latency", "time_per_output_token"):
        counted = f"vllm:{name}_seconds"
        assert value(metrics, f"{counted}_bucket", model_name="m", engine="0", le="0.025") == 3
        assert value(metrics, f"{counted}_count", model_name="m", engine="0") == 4
        assert value(metrics, f"{counted}_sum", model_name="m", engine="0") == pytest.approx(30.06)


def test_a_model_without_pages_tells_none() -> None:
    metrics = served()
    pages = {"block_size": "32", "num_gpu_blocks": "800", "model_name": "m", "engine": "0"}
    assert value(metrics, "vllm:cache_config_info", **pages) == 1
    metrics.states.model("m").num_blocks = None
    assert value(metrics, "vllm:cache_config_info", **pages) is None


def adapters(metrics: Metrics) -> tuple[str, str, float]:
    (sample,) = told(metrics)["vllm:lora_requests_info"].samples
    return sample.labels["running_lora_adapters"], sample.labels["waiting_lora_adapters"], sample.value


def test_adapters_are_told_in_one_line_that_says_who_runs_and_who_waits() -> None:
    metrics = served()
    first, second, third = (metrics.states.use(name) for name in ("m:b", "m:a", "m:b"))
    assert adapters(metrics)[:2] == ("", "m:a,m:b")
    first.run()
    first.run()
    assert adapters(metrics)[:2] == ("m:b", "m:a,m:b")
    third.run()
    second.leave()
    first.leave()
    first.leave()
    assert adapters(metrics)[:2] == ("m:b", "")
    third.leave()
    assert adapters(metrics)[:2] == ("", "")
    metrics.states.max_adapters = None
    assert "vllm:lora_requests_info" not in told(metrics)


def test_when_a_counter_was_made_is_not_told() -> None:
    assert not any(name.endswith("_created") for name in told(served()))


def test_two_registries_share_nothing() -> None:
    one, two = Metrics(), Metrics()
    one.for_model("m").preemptions.inc()
    assert value(two, "vllm:num_preemptions_total", model_name="m", engine="0") is None


def plainly(bounds: Iterable[float], pairs: list[tuple[float, int]]) -> list[int]:
    return [sum(count for given, count in pairs if given <= bound) for bound in bounds]


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 5))))
def test_a_histogram_counts_as_one_would_by_hand(pairs: list[tuple[float, int]]) -> None:
    histogram = Histogram((0.5, 1.0, 20.0))
    histogram.add_all(pairs[1:])
    for given_value, count in pairs[:1]:
        histogram.add(given_value, count)
    buckets, total = histogram.told()
    assert [count for _, count in buckets] == plainly((0.5, 1.0, 20.0, float("inf")), pairs)
    assert [bound for bound, _ in buckets] == ["0.5", "1.0", "20.0", "+Inf"]
    assert total == pytest.approx(sum(given_value * count for given_value, count in pairs))
