"""Whatever names arrive with requests, the metrics stay small and can be read.

Hostile names come in through every door that a label has: paths and methods of HTTP, models and routes of usage
records, monitors and policies, adapters. An independent parser reads what is exposed and finds at most so many series.
"""

from contextvars import copy_context

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.doubles import ManualClock

from headrace.core.trust import Decision, Verdict
from headrace.core.usage import UsageRecord
from headrace.observe import engine_states, gateway_metrics, trust_metrics
from headrace.observe.gateway_metrics import GatewayMetrics
from headrace.observe.logs import AccessRecord
from headrace.observe.metrics import Metrics
from headrace.observe.trust_metrics import TrustMetrics
from headrace.server.tally import Tally

hostile = st.text(alphabet=st.one_of(st.sampled_from('"\\\n{}=,\u202e\x00'), st.characters(codec="utf-8")), max_size=30)


def fed(names: list[str]) -> Metrics:
    metrics = Metrics(clock=ManualClock())
    gateway, trust = GatewayMetrics(metrics.registry), TrustMetrics(metrics.registry)
    tally = Tally(metrics, ManualClock(), 10)
    metrics.states.max_adapters = 4
    for name in names:
        record = AccessRecord(request_id=name, method=name, tenant=name, key=name, model=name, client=name)
        copy_context().run(exchange, tally, record)
        gateway.add(
            UsageRecord(
                request_id=name, started_s=0.0, tenant=name, key=name, user=name, tags=(name,), asked_model=name,
                route=name, backend=name, model=name,
            )
        )  # fmt: skip
        verdict = Verdict(monitor=name, version="1", score=1.0, action=name, reason=name)
        trust.add([Decision(action=name, resource=name, is_allowed=False, policies=(name,))], [verdict])
        metrics.states.use(name).run()
    return metrics


def exchange(tally: Tally, record: AccessRecord) -> None:
    """In a context of its own, as each has in a server: what follows in this thread belongs to no request."""
    with tally.open(record, 0.0):
        pass


def num_series(metrics: Metrics) -> int:
    text = metrics.expose()[0].decode()
    return sum(len(family.samples) for family in text_string_to_metric_families(text))


@settings(max_examples=60, deadline=None)
@given(st.lists(hostile, max_size=20))
def test_hostile_names_break_no_line(names: list[str]) -> None:
    metrics = fed(names)
    plain = {family.name for family in text_string_to_metric_families(metrics.expose()[0].decode())}
    assert {"vllm:lora_requests_info", "headrace:gateway_requests"} <= plain


def test_a_flood_of_names_ends_in_one_that_stands_for_all_others() -> None:
    limits = gateway_metrics.MAX_VALUES, trust_metrics.MAX_VALUES, engine_states.MAX_ADAPTERS
    assert max(limits) <= 200
    at_first = num_series(fed([f"name {number}" for number in range(1000)]))
    later = num_series(fed([f"name {number}" for number in range(3000)]))
    assert later == at_first
