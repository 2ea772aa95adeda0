"""What `deploy/` asks of the metrics is there, with those labels, and Prometheus's own tool takes rules and dashboard.

The tool is Debian's package prometheus: `make test-deploy` installs it where it can; where it is not there, the tests
that need it are skipped and say so.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.doubles import ManualClock

from headrace.core.trust import Decision, Verdict
from headrace.core.usage import UsageRecord
from headrace.observe.gateway_metrics import BackendState, GatewayMetrics
from headrace.observe.metrics import Metrics
from headrace.observe.trace_export import ExportConfig, Exporter
from headrace.observe.trust_metrics import TrustMetrics

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = DEPLOY / "grafana" / "headrace.json"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool: `make test-deploy` installs it (Debian)")

OF_SCRAPES = {"instance", "job"}
_NAME = re.compile(r"\b(?:vllm|headrace):\w+")
_SELECTOR = re.compile(r"\b((?:vllm|headrace):\w+)\{([^}]*)\}")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring) \(([^)]*)\)")


def every_metric() -> Metrics:
    """Everything that this program can export, each with a series."""
    metrics = Metrics(clock=ManualClock())
    metrics.for_model("m").state.num_blocks = 1
    metrics.states.max_adapters = 1
    metrics.count_end("m", "stop")
    metrics.disk.pages.labels("written").inc()
    metrics.http_requests.labels("/health", "GET", "200").inc()
    metrics.batch_lines.labels("succeeded").inc()
    gateway = GatewayMetrics(metrics.registry, lambda: [BackendState(backend="b", model="m", share=1.0)])
    gateway.add(UsageRecord(request_id="r", started_s=0.0, tenant="t", route="r", backend="b", model="m"))
    trust = TrustMetrics(metrics.registry, records=lambda: (1, 0), waiting=lambda: 0)
    decision = Decision(action="request", resource="r", is_allowed=False, policies=("p",))
    trust.add([decision], [Verdict(monitor="m", version="1", score=1.0)])
    Exporter(ExportConfig(endpoint="http://nowhere")).register(metrics.registry)
    return metrics


@pytest.fixture(scope="module")
def exported() -> dict[str, set[str]]:
    """Names of samples and their labels."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(every_metric().expose()[0].decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def rules() -> Iterator[tuple[str, str]]:
    """Names of rules and what they evaluate; YAML's folded lines are one."""
    text = re.sub(r"expr: >-\n((?: {10}.*\n)+)", lambda one: f"expr: {' '.join(one[1].split())}\n", RULES.read_text())
    yield from re.findall(r"- (?:record|alert): (\S+)\n\s+expr: (.+)", text)


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    return found


def asked() -> Iterator[tuple[str, str]]:
    yield from rules()
    for panel in panels():
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in json.loads(DASHBOARD.read_text("utf-8"))["templating"]["list"]:
        if variable["type"] == "query":
            name, label = re.fullmatch(r"label_values\((\S+), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            yield variable["name"], f"sum by ({label}) ({name})"


def test_there_is_something_to_look_at() -> None:
    assert len(list(rules())) >= 20
    assert [one["title"] for one in panels() if one["type"] == "row"] == [
        "Serving",
        "Cache",
        "Gateway and budgets",
        "Trust",
    ]


@pytest.mark.parametrize(("where", "expression"), list(asked()))
def test_what_a_rule_or_a_panel_asks_for_is_exported_with_those_labels(
    where: str, expression: str, exported: dict[str, set[str]]
) -> None:
    names = set(_NAME.findall(expression))
    assert names <= exported.keys(), f"{where}: {names - exported.keys()}"
    for name, selectors in _SELECTOR.findall(expression):
        wanted = set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selectors))
        assert wanted <= exported[name] | OF_SCRAPES, f"{where}: {name} has no {wanted - exported[name]}"
    grouped = {label.strip() for group in _GROUPING.findall(expression) for label in group.split(",")}
    labels = set().union(*(exported.get(name, set()) for name in names)) | OF_SCRAPES
    assert grouped <= labels, f"{where}: nothing has {grouped - labels}"


def test_panels_have_ids_and_places_of_their_own() -> None:
    assert len({one["id"] for one in panels()}) == len(panels())
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def promtool(*arguments: str | Path, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *map(str, arguments)], input=given, capture_output=True, check=False)


@needs_promtool
@pytest.mark.parametrize("what", [("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")])
def test_prometheus_takes_the_rules_and_they_do_what_they_are_for(what: tuple[str, str, str]) -> None:
    done = promtool(*what[:2], RULES.with_name(what[2]))
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


@needs_promtool
def test_prometheus_takes_the_scrape_of_the_example(tmp_path: Path) -> None:
    for name in ("prometheus.yml", "rules.yml"):
        shutil.copy(RULES.with_name(name), tmp_path / name)
    (tmp_path / "headrace.key").write_text("hr_key", "utf-8")
    done = promtool("check", "config", tmp_path / "prometheus.yml")
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


@needs_promtool
def test_prometheus_reads_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    lines = ["groups:", "  - name: panels", "    rules:"]
    for number, (_, expression) in enumerate(asked()):
        plain = expression.replace("$__rate_interval", "5m").replace("$", "")
        lines += [f"      - record: panel_{number}", f"        expr: {json.dumps(plain)}"]
    (tmp_path / "panels.yml").write_text("\n".join(lines), "utf-8")
    done = promtool("check", "rules", tmp_path / "panels.yml")
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


@needs_promtool
def test_prometheus_reads_what_is_exported() -> None:
    # It finds fault with vLLM's names, which have colons (3); what it cannot read is 1.
    done = promtool("check", "metrics", given=every_metric().expose()[0])
    assert done.returncode in (0, 3), (done.stdout + done.stderr).decode()


def test_the_guide_names_every_metric() -> None:
    guide = (DEPLOY.parent / "docs" / "guides" / "observability.md").read_text("utf-8")
    told = set(re.findall(r"`((?:vllm|headrace):\w+)`", guide))
    kinds = {family.name: family.type for family in every_metric().registry.collect()}
    names = {name + "_total" if kind == "counter" else name for name, kind in kinds.items()}
    assert names <= told
    assert {name for name in told - names if name.startswith("headrace:")} == set()
