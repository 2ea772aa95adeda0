"""Metrics carry vLLM's names where they mean the same, in a registry of their own."""

from headrace.observe.metrics import Metrics


def test_dashboards_made_for_vllm_find_their_names() -> None:
    metrics = Metrics()
    bound = metrics.for_model("m")
    bound.prompt_tokens.inc(3)
    bound.running.set(2)
    bound.time_to_first_token.observe(0.02)
    metrics.request_success.labels("m", "stop").inc()
    body, content_type = metrics.expose()
    text = body.decode()
    assert content_type.startswith("text/plain")
    for line in (
        'vllm:prompt_tokens_total{model_name="m"} 3.0',
        'vllm:num_requests_running{model_name="m"} 2.0',
        'vllm:time_to_first_token_seconds_bucket{le="0.025",model_name="m"} 1.0',
        'vllm:request_success_total{finished_reason="stop",model_name="m"} 1.0',
    ):
        assert line in text
    names = "num_requests_waiting kv_cache_usage_perc generation_tokens_total prefix_cache_queries_total "
    names += "prefix_cache_hits_total num_preemptions_total e2e_request_latency_seconds_count "
    names += "spec_decode_num_drafts_total spec_decode_num_draft_tokens_total spec_decode_num_accepted_tokens_total"
    for name in names.split():
        assert f'vllm:{name}{{model_name="m"}} 0.0' in text


def test_two_registries_share_nothing() -> None:
    one, two = Metrics(), Metrics()
    one.for_model("m").preemptions.inc()
    assert 'vllm:num_preemptions_total{model_name="m"} 1.0' not in two.expose()[0].decode()
