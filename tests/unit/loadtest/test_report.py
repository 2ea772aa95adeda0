"""The report: one file that asks for nothing, holds every value in a table, and only shows what others wrote."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.unit.loadtest.test_measures import POINT

from headrace.core.errors import InvalidRequest
from headrace.loadtest.document import Conditions, build_document, compare, encode_points, read_document
from headrace.loadtest.drawing import HEIGHT, WIDTH, Line, Plot, draw, round_ticks
from headrace.loadtest.measures import stage_result
from headrace.loadtest.plan import Goals, Plan, Prices, Stage
from headrace.loadtest.report import shown, write_report
from headrace.loadtest.run import Tally

HOSTILE = "<script>alert(1)</script>\"'&\u202e\x00http://evil.example/x.js"
NAN = float("nan")
VOID = {"meta", "br", "line"}


class Page(HTMLParser):
    """What is in a page: elements, attributes, text; complains where tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def count(self, tag: str) -> int:
        return sum(one == tag for one, _ in self.elements)


def stage(name_rate: float, speed: float = 1.0, **changes: Any) -> dict[str, Any]:
    tally = Tally(Stage(rate=name_rate), 0.0, counts_from_s=0.0, sent_until_s=10.0, ended_s=12.0, num_begun=200)
    for index in range(200):
        first_s = index * 0.05 + (0.2 + 0.001 * index) * speed
        tally.add(replace(POINT, index=index, due_s=index * 0.05, first_s=first_s, end_s=first_s + 0.5, **changes))
    tally.add(replace(POINT, outcome="http-429", detail=HOSTILE, first_s=None))
    return stage_result(tally, PLAN)


PLAN = Plan(stages=(Stage(rate=1), Stage(rate=16)), goals=Goals(ttft_s=0.5), prices=Prices(input=1, output=2))


def document(speed: float = 1.0, model: str = "small") -> dict[str, Any]:
    conditions = Conditions(
        url="http://127.0.0.1:1/v1",
        model=model,
        machine="a machine",
        version="headrace 0",
        date="2026-01-01T00:00:00+00:00",
        workload={"kind": "made up"},
        fields={},
    )
    return build_document(PLAN, conditions, [stage(1, speed), stage(16, 2 * speed)])


def test_the_page_is_well_formed_and_holds_a_plot_and_a_table_of_each_kind() -> None:
    page = Page(write_report(document(), None))
    assert page.count("figure") >= 12
    figures = [
        dict(attributes) for tag, attributes in page.elements if tag == "svg" and attributes.get("role") == "img"
    ]
    ids = {attributes.get("id") for _, attributes in page.elements}
    assert len(figures) == page.count("figure") == page.count("details")
    for one in figures:
        assert {one["aria-labelledby"], one["aria-describedby"]} <= ids
    assert all(attributes.get("scope") for tag, attributes in page.elements if tag == "th")
    text = " ".join(said for _, said in page.texts)
    for wanted in (
        "Time to first token",
        "Cost of a million",
        "Output tokens a second",
        "a machine",
        "http-429",
        "ttft 0.5",
    ):
        assert wanted in text


def test_the_page_asks_for_nothing_and_its_policy_allows_nothing() -> None:
    text = write_report(document(), document(2.0))
    page = Page(text)
    names = {name for _, attributes in page.elements for name in attributes}
    assert not names & {"src", "href", "srcset", "style", "action", "onload", "onclick", "poster", "data", "background"}
    assert not {tag for tag, _ in page.elements} & {"script", "link", "iframe", "img", "object", "form", "base", "use"}
    (style,) = [said for tag, said in page.texts if tag == "style"]
    assert "url(" not in style and "@import" not in style
    (policy,) = [one["content"] for _, one in page.elements if one.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def test_what_others_wrote_is_shown_and_never_markup() -> None:
    text = write_report(document(model=HOSTILE), document(model=HOSTILE) | {"machine": HOSTILE, "date": HOSTILE})
    page = Page(text)
    assert page.count("script") == 0
    assert "\u202e" not in text and "\x00" not in text
    said = "".join(part for _, part in page.texts)
    assert "<script>alert(1)</script>" in said and "U+202E" in said and "U+0000" in said
    assert shown("a\u200bb") == '<bdi dir="auto">a<span class="odd">U+200B</span>b</bdi>'


def test_values_of_the_plots_are_those_that_were_measured() -> None:
    made = document()
    said = [part for _, part in Page(write_report(made, None)).texts]
    value = made["stages"][0]["spreads"]["ttft"]["quantiles"][0]["value"]
    assert f"{1000 * value:.3g} ms" in said
    assert f"{made['stages'][1]['output_tokens_per_s']:.1f}" in said


def test_two_runs_are_put_side_by_side_with_ratios_above_one_where_the_first_is_better() -> None:
    fast, slow = document(1.0), document(2.0)
    rows = compare(fast, slow, "slow.json")
    by_name = {row["measure"]: row for row in rows}
    assert by_name["ttft-p50@rate-1"]["ratio"] == pytest.approx(2.0, rel=0.01)
    assert by_name["ttft-p50@rate-1"]["peer_name"] == "slow.json"
    assert by_name["goodput-per-s@rate-1"]["ratio"] > 1.0
    text = write_report(fast | {"rows": rows}, slow)
    assert "2.00 better" in text and 'class="curve c0 peer"' in text
    assert "worse" in write_report(slow | {"rows": compare(slow, fast, "fast")}, fast)


def test_the_document_has_the_form_of_all_our_benchmarks() -> None:
    made = json.loads(json.dumps(document()))
    assert {"name", "machine", "commit", "config", "rows"} <= made.keys()
    assert all(
        row.keys() == {*["measure", "unit", "ours", "peer", "peer_name", "ratio", "spread", "n"]}
        for row in made["rows"]
    )
    assert len({row["measure"] for row in made["rows"]}) == len(made["rows"]) == 2 * (4 * 3 + 3)


def test_a_written_run_is_read_again_and_anything_else_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    made = json.loads(json.dumps(document()))
    file.write_text(json.dumps(made), "utf-8")
    assert read_document(file) == made
    (stage, *_) = made["stages"]
    wrong: list[Any] = [[], {"name": "engine"}, made | {"stages": []}, {**made, "form": 9}, made | {"config": {}}]
    wrong += [
        made | {"stages": [stage | {name: value}]} for name, value in (("rate", None), ("rate", 0), ("seconds", "x"))
    ]
    wrong += [made | {"stages": [stage | {"spreads": {"ttft": {}}}]}, made | {"stages": [stage | {"ok_per_s": NAN}]}]
    for text in ("", "\x00", *map(json.dumps, wrong)):
        file.write_text(text, "utf-8")
        with pytest.raises(InvalidRequest, match=re.escape(str(file))):
            read_document(file)
    with pytest.raises(InvalidRequest, match=r"none\.json cannot be read \(No such file or directory\)"):
        read_document(tmp_path / "none.json")


def test_points_are_told_in_order_with_moments_of_their_stage() -> None:
    second, first = replace(POINT, index=1, due_s=5.5, sent_s=None), replace(POINT, index=0, due_s=5.0)
    told = encode_points([("rate 1", [second, first], 4.0)])
    assert [one["index"] for one in told] == [0, 1] and [one["due_s"] for one in told] == [1.0, 1.5]
    assert told[1]["sent_s"] is None and told[0]["gaps_s"] == [0.0625] * 4 + [0.25]
    json.dumps(told)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.007), (3, 1234567), (-5, 5)])
def test_ticks_are_round_and_within(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 3 <= len(ticks) <= 8
    assert all(low - 1e-9 <= tick <= high * (1 + 1e-9) for tick in ticks)
    steps = {float(f"{b - a:.6g}") for a, b in pairwise(ticks)}
    assert len(steps) == 1 and f"{steps.pop():e}"[0] in "125"


@pytest.mark.parametrize(
    "points", [(), ((1.0, 0.0),), ((1.0, 5.0), (1.0, 6.0)), ((0.0, 1e12), (1e-9, 1e-12)), ((1.0, 2.0), (64.0, 3.0))]
)
def test_a_plot_stays_within_its_frame(points: tuple[tuple[float, float], ...]) -> None:
    plot = Plot(
        title="<t>",
        x_label="x",
        y_label="y",
        lines=(Line(name="<b>", points=points),),
        write_y=str,
        write_x=str,
        is_load=True,
    )
    text = draw(plot, "p")
    assert "<b>" not in text and "<t>" not in text
    for path in re.findall(r'class="curve c0" d="M([^"]*)"', text.partition("<ul")[0]):
        for pair in filter(None, path.split("L")):
            x, y = map(float, pair.split())
            assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT


def test_a_run_in_which_nothing_succeeded_has_a_report_too() -> None:
    tally = Tally(Stage(concurrency=1), 0.0, counts_from_s=0.0, sent_until_s=1.0, ended_s=1.0, num_begun=1)
    tally.add(replace(POINT, outcome="connection", first_s=None, sent_s=None, output_tokens=0, num_pieces=0))
    made = document() | {"stages": [stage_result(tally, PLAN)]}
    Page(write_report(made, None))
