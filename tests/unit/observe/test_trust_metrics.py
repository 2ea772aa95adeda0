"""Metrics of trust: what is told adds up, and nobody who names policies or monitors can make them grow."""

import threading
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from headrace.core.trust import Decision, Verdict
from headrace.observe.trust_metrics import MAX_VALUES, OTHER, TrustMetrics

Samples = dict[str, dict[frozenset[tuple[str, str]], float]]


def told(metrics: TrustMetrics) -> Samples:
    registry = CollectorRegistry()
    registry.register(metrics)
    found: Samples = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return found


def labels(**given: str) -> frozenset[tuple[str, str]]:
    return frozenset(given.items())


def decision(action: str = "request", *policies: str, is_allowed: bool = False, is_enforced: bool = True) -> Decision:
    return Decision(action=action, resource="r", is_allowed=is_allowed, policies=policies, is_enforced=is_enforced)


def test_what_is_said_of_requests_adds_up() -> None:
    metrics = TrustMetrics()
    said = [decision(is_allowed=True), decision("route", "p1", "p2"), decision("tool"), decision("pray", "p1")]
    metrics.add([*said, decision("tool", "p1", is_enforced=False)], [Verdict(monitor="m", version="1", score=0.5)])
    metrics.add([], [Verdict(monitor="m", version="1", score=0.9, action="refuse", is_shadow=True)])
    found = told(metrics)
    assert found["headrace:trust_decisions_total"] == {
        labels(action="request", outcome="allowed"): 1,
        labels(action="route", outcome="denied"): 1,
        labels(action="tool", outcome="denied"): 1,
        labels(action="other", outcome="denied"): 1,
        labels(action="tool", outcome="would_be_denied"): 1,
    }
    assert found["headrace:trust_denials_total"] == {
        labels(policy="p1", outcome="denied"): 2,
        labels(policy="p2", outcome="denied"): 1,
        labels(policy="none", outcome="denied"): 1,
        labels(policy="p1", outcome="would_be_denied"): 1,
    }
    assert found["headrace:trust_verdicts_total"] == {
        labels(monitor="m", action="note", shadow="false"): 1,
        labels(monitor="m", action="refuse", shadow="true"): 1,
    }


def test_records_and_the_log_are_asked_when_they_are_read_and_told_from_any_thread() -> None:
    metrics = TrustMetrics(records=lambda: (7, 2), waiting=lambda: 3)
    metrics.add_sealed(0.0002)
    threads = [threading.Thread(target=metrics.add_merged, args=([0.04] * 1000,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = told(metrics)
    assert found["headrace:trust_records_total"][labels()] == 7
    assert found["headrace:trust_lost_records_total"][labels()] == 2
    assert found["headrace:trust_log_waiting"][labels()] == 3
    assert found["headrace:trust_sealing_seconds_bucket"][labels(le="0.00025")] == 1
    assert found["headrace:trust_sealing_seconds_bucket"][labels(le="0.0001")] == 0
    assert found["headrace:trust_merge_seconds_count"][labels()] == 4000
    assert round(found["headrace:trust_merge_seconds_sum"][labels()]) == 160


def test_where_nothing_is_recorded_nothing_is_told_of_records() -> None:
    assert not [name for name in told(TrustMetrics()) if "record" in name or "log" in name or "merge" in name]


def test_a_label_takes_only_so_many_values() -> None:
    metrics = TrustMetrics()
    for number in range(3 * MAX_VALUES):
        metrics.add([decision("tool", f"p{number}")], [Verdict(monitor=f"m{number}", version="1", score=1.0)])
    found = told(metrics)
    assert len(found["headrace:trust_denials_total"]) == MAX_VALUES + 1
    assert found["headrace:trust_denials_total"][labels(policy=OTHER, outcome="denied")] == 2 * MAX_VALUES
    assert len(found["headrace:trust_verdicts_total"]) == MAX_VALUES + 1


def test_every_one_of_them_is_in_the_reference() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "metrics.md").read_text("utf-8")
    metrics = TrustMetrics(records=lambda: (0, 0), waiting=lambda: 0)
    metrics.add([decision()], [Verdict(monitor="m", version="1", score=0.5)])
    for name in told(metrics):
        base = name
        for end in ("_bucket", "_count", "_sum", "_created"):
            base = base.removesuffix(end)
        assert f"`{base}`" in page, base
