"""Traces are what the file and OpenTelemetry's own variables say, the file first; off where nobody names a place."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from tests.doubles import ManualClock

from headrace.cli.config import compose
from headrace.cli.kinds import WrongSettings
from headrace.cli.secret_text import read_secret, secret_places
from headrace.cli.surroundings import look_around
from headrace.cli.traces import TracePlan, open_traces, plan_traces
from headrace.core.errors import InvalidRequest
from headrace.gateway.settings import Secret

HERE = "http://127.0.0.1:4318"
OTEL = {"OTEL_EXPORTER_OTLP_ENDPOINT": HERE}


def plan(folder: Path, table: str = "", **environ: str) -> TracePlan | None:
    file = folder / "headrace.toml"
    file.write_text(f"[traces]\n{table}\n" if table else "", "utf-8")
    settings = compose({}, {"HEADRACE_HOME": str(folder)}, file).settings
    secrets = {secret: read_secret(secret, environ) for secret in secret_places(settings).values()}
    return plan_traces(settings.traces, environ, secrets, "1.0")


def planned(folder: Path, table: str = "", **environ: str) -> TracePlan:
    found = plan(folder, table, **environ)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("table", "environ"),
    [
        ("", {}),
        ("sample_ratio = 1.0", {}),
        ("on = false", OTEL),
        (f'on = false\nendpoint = "{HERE}"', {}),
        ("", OTEL | {"OTEL_SDK_DISABLED": "true"}),
        ("", OTEL | {"OTEL_TRACES_EXPORTER": "none"}),
        ("", OTEL | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}),
    ],
)
def test_without_a_place_or_where_it_is_switched_off_there_are_none(
    table: str, environ: dict[str, str], tmp_path: Path
) -> None:
    assert plan(tmp_path, table, **environ) is None
    registry = CollectorRegistry()
    with open_traces(None, registry, ManualClock()) as tracer:
        assert tracer is None
    assert list(registry.collect()) == []


@pytest.mark.parametrize(
    ("table", "environ", "endpoint"),
    [
        (f'endpoint = "{HERE}"', {}, HERE + "/v1/traces"),
        (f'endpoint = "{HERE}/otlp/traces"', {}, HERE + "/otlp/traces"),
        (f'endpoint = "{HERE}"', {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://other"}, HERE + "/v1/traces"),
        ("", OTEL, HERE + "/v1/traces"),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": HERE + "/base/"}, HERE + "/base/v1/traces"),
        ("", OTEL | {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b/as-it-is"}, "http://b/as-it-is"),
    ],
)
def test_where_spans_go(table: str, environ: dict[str, str], endpoint: str, tmp_path: Path) -> None:
    assert planned(tmp_path, table, **environ).endpoint == endpoint


def test_the_file_goes_before_the_variables(tmp_path: Path) -> None:
    environ = OTEL | {
        "OTEL_SERVICE_NAME": "theirs",
        "OTEL_RESOURCE_ATTRIBUTES": "service.name=other,deployment.environment=a%20b",
        "OTEL_EXPORTER_OTLP_HEADERS": "X-Team=search,x-key=one%3D",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.25",
    }
    found = planned(tmp_path, **environ)
    assert found.headers == {"x-team": "search", "x-key": "one="}
    assert found.resource == {"service.name": "theirs", "service.version": "1.0", "deployment.environment": "a b"}
    assert (found.timeout_s, found.sample_ratio, found.captures_content) == (2.5, 0.25, False)
    table = 'service = "ours"\nsample_ratio = 0\ntimeout = "1s"\ncaptures_content = true\nheaders = {x-team = "ours"}'
    found = planned(tmp_path, table, **environ)
    assert (found.resource["service.name"], found.headers["x-team"]) == ("ours", "ours")
    assert (found.timeout_s, found.sample_ratio, found.captures_content) == (1.0, 0.0, True)


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        ("", {"authorization": "Bearer s3cret"}),
        ('secret_header = "x-honeycomb-team"', {"x-honeycomb-team": "s3cret"}),
        ('secret_header = "authorization: Basic"', {"authorization": "Basic s3cret"}),
    ],
)
def test_a_secret_is_sent_where_the_collector_looks_and_shown_nowhere(
    header: str, sent: dict[str, str], tmp_path: Path
) -> None:
    table = f'endpoint = "{HERE}"\nsecret = "env:KEY"\n{header}'
    found = planned(tmp_path, table, KEY="s3cret")
    assert found.headers == sent
    assert "s3cret" not in repr(found)
    text = compose({}, {}, tmp_path / "headrace.toml").toml()
    assert "env:KEY" in text and "s3cret" not in text


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT: '4318' is no URL"),
        (OTEL | {"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, "OTEL_EXPORTER_OTLP_TIMEOUT: 'soon' is no number"),
        (OTEL | {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG"),
        (OTEL | {"OTEL_EXPORTER_OTLP_HEADERS": "s3cret"}, "OTEL_EXPORTER_OTLP_HEADERS: has a member"),
        (OTEL | {"OTEL_EXPORTER_OTLP_HEADERS": "a=b%0Ac"}, "OTEL_EXPORTER_OTLP_HEADERS: has a member"),
    ],
)
def test_a_variable_that_is_wrong_is_named_and_a_credential_not_repeated(
    environ: dict[str, str], says: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        plan(tmp_path, **environ)
    assert says in caught.value.message and "s3cret" not in caught.value.message


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ('endpoint = "ftp://x"', "traces.endpoint"),
        ("sample_ratio = 2", "traces.sample_ratio"),
        ('secret = "s3cret"', "traces.secret"),
        ('headers = {authorization = "s3cret"}', "looks like a credential"),
        ('secret_header = "a\\nb"', "traces.secret_header"),
        ("max_queue = 1", "traces.max_queue"),
        ('sampling = "all"', "traces.sampling"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_name(table: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(WrongSettings) as caught:
        plan(tmp_path, table)
    assert says in str(caught.value) and "s3cret" not in str(caught.value)


def test_an_open_tracer_tells_of_itself_in_the_metrics(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    found: Any = planned(tmp_path, f'endpoint = "{HERE}"\ndelay = 60')
    with open_traces(found, registry, ManualClock()) as tracer:
        assert tracer is not None and not tracer.captures_content
        assert tracer.begin(None).is_sampled
        assert registry.get_sample_value("headrace:trace_spans_waiting") == 0


def test_places_of_secrets_name_that_of_traces(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text(f'[traces]\nendpoint = "{HERE}"\nsecret = "env:KEY"\n', "utf-8")
    settings = compose({}, {}, tmp_path / "headrace.toml").settings
    assert secret_places(settings)["traces", "secret"] == Secret("env:KEY")


@pytest.mark.parametrize(
    ("url", "secret", "warns"),
    [
        ("http://collector.example.com", 'secret = "env:KEY"', True),
        ("https://collector.example.com", 'secret = "env:KEY"', False),
        ("http://127.0.0.1:4318", 'secret = "env:KEY"', False),
        ("http://collector.example.com", "", False),
    ],
)
def test_a_key_that_would_be_sent_in_the_clear_is_warned_of(url: str, secret: str, warns: bool, tmp_path: Path) -> None:
    file = tmp_path / "headrace.toml"
    file.write_text(f'model = "none"\n[traces]\nendpoint = "{url}"\n{secret}\n', "utf-8")
    resolved = compose({}, {"HEADRACE_HOME": str(tmp_path)}, file)
    look_around(resolved, {"KEY": "s3cret"})
    assert any("in the clear" in str(one) for one in resolved.report.problems) is warns
