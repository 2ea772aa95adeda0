"""The text of metrics is that of Prometheus's own client, byte for byte, in pieces that are short and tell no lies."""

from bench.scrape import Untimed
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.contract.test_deploy import every_metric

from headrace.observe.metrics import Metrics
from headrace.observe.text_format import PIECE_LINES, write_families

texts = st.text(alphabet=st.one_of(st.sampled_from('"\\\n{}=, '), st.characters(codec="utf-8")), max_size=20)
numbers = st.one_of(st.floats(), st.integers(-(10**20), 10**20), st.sampled_from([0.0, -0.0, 1e6, 1e7, 123456789.5]))


def written(registry: CollectorRegistry) -> bytes:
    return "".join(write_families(registry.collect())).encode()


def of_many(num_models: int) -> Metrics:
    metrics = every_metric()
    for number in range(num_models):
        metrics.for_model(f"model-{number}").request_latency.observe(number)
    return metrics


def test_all_that_this_program_tells_is_written_as_prometheus_does() -> None:
    registry = of_many(3).registry
    assert written(registry) == generate_latest(Untimed(registry))


@given(st.lists(st.tuples(texts, texts, numbers), max_size=12), texts)
def test_whatever_labels_and_values_there_are_the_bytes_are_prometheus_own(
    series: list[tuple[str, str, float]], words: str
) -> None:
    registry = CollectorRegistry()
    gauge = Gauge("a_gauge", words, ("zone", "a"), registry=registry)
    counter = Counter("told:things", words, ("zone", "a"), registry=registry)
    histogram = Histogram("took_seconds", words, ("zone",), registry=registry, buckets=(0.1, 1e6, 1e7))
    Gauge("alone", words, registry=registry).set(series[0][2] if series else 0.5)
    for zone, other, value in series:
        gauge.labels(zone, other).set(value)
        counter.labels(zone, other).inc(abs(value))
        histogram.labels(zone).observe(value)
    assert written(registry) == generate_latest(Untimed(registry))


def test_no_piece_is_long_and_no_line_is_cut() -> None:
    pieces = list(of_many(20).pieces())
    assert len(pieces) > 60
    assert all(piece.count("\n") <= PIECE_LINES for piece in pieces)
    assert all(piece.endswith("\n") for piece in pieces)


def test_a_histogram_that_grows_while_it_is_told_is_told_of_one_moment() -> None:
    metrics = of_many(20)
    told: list[str] = []
    for piece in metrics.pieces():
        told.append(piece)
        for number in range(20):
            metrics.for_model(f"model-{number}").request_latency.observe(1.5)
            metrics.for_model(f"model-{number}").state.gaps.add(0.5)
    checked = 0
    for family in text_string_to_metric_families("".join(told)):
        values = {(one.name, one.labels.get("model_name"), one.labels.get("le")): one.value for one in family.samples}
        for (name, model, bound), value in values.items():
            if bound == "+Inf":
                checked += 1
                assert value == values[name.removesuffix("_bucket") + "_count", model, None]
    assert checked > 200
