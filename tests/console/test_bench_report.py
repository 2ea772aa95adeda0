"""The report of `headrace bench run` in a browser: it asks for nothing, breaks no policy, and everybody can read it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.console.browser import expect
from tests.unit.loadtest.test_report import HOSTILE, document

from headrace.loadtest.document import compare
from headrace.loadtest.report import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Check = Callable[["Page"], None]


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_a_report_is_read_by_everybody_and_asks_for_nothing(
    browser: "Browser", check_accessible: Check, tmp_path: Path, colours: str, width: int
) -> None:
    fast, slow = document(1.0, "small"), document(2.0, HOSTILE)
    file = tmp_path / "report.html"
    file.write_text(write_report(fast | {"rows": compare(fast, slow, "slow.json")}, slow), "utf-8")
    context = browser.new_context(viewport={"width": width, "height": 800}, color_scheme=colours)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda told: said.append(told.text))
    page.on("request", lambda asked: said.append(asked.url) if asked.url != file.as_uri() else None)
    page.goto(file.as_uri())
    expect(page.get_by_role("heading", level=1)).to_have_text("Load on small")
    expect(page.get_by_role("img", name="Time to first token", exact=True)).to_be_visible()
    page.get_by_text("Values of: Time to first token", exact=True).click()
    expect(page.get_by_role("region", name="time against requests a second that were due").first).to_be_visible()
    check_accessible(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert said == [] and page.title() == "Load on small"
    context.close()
