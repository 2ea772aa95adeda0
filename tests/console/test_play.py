"""The view "Play" with the real model: answers stream in, are looked into token by token, and their records verify."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.console.browser import expect
from tests.console.served import MODEL, ConsoleServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
Check = Callable[["Page"], None]
PHONE = {"viewport": {"width": 360, "height": 740}}


def choose(page: "Page", model: str, label: str = "Model") -> None:
    box = page.get_by_role("combobox", name=label)
    box.click()
    box.fill(model)
    page.get_by_role("option", name=model).first.click()
    expect(box).to_have_value(model)


def say(page: "Page", text: str) -> None:
    page.get_by_label("Message").fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def answers(page: "Page") -> Any:
    return page.get_by_role("article")


def opened(open_page: Open, model: str = "scripted", role: str = "admin", **options: Any) -> "Page":
    page = open_page(role, **options)
    page.goto("/console/play")
    choose(page, model)
    return page


def test_an_answer_streams_and_tells_what_it_took(open_page: Open, check_accessible: Check, shoot: Any) -> None:
    page = opened(open_page, MODEL)
    page.get_by_text("Parameters").click()
    page.get_by_label("Most tokens").fill("8")
    page.get_by_label("Temperature").fill("0")
    say(page, "Say hello.")
    answer = answers(page).first
    expect(answer.get_by_text("complete")).to_be_visible()
    expect(answer.get_by_text("First token after")).to_be_visible()
    expect(answer.get_by_text("8 tokens", exact=True)).to_be_visible()
    check_accessible(page)
    shoot(page, "play")


def test_a_record_is_verified_in_the_browser(
    open_page: Open, console_server: ConsoleServer, check_accessible: Check, shoot: Any
) -> None:
    page = opened(open_page, "chat")
    page.get_by_text("Parameters").click()
    page.get_by_label("Most tokens").fill("12")
    say(page, "Say hello.")
    answer = answers(page).first
    answer.get_by_role("button", name="Record").click()
    answer.get_by_role("button", name="Verify in this browser").click()
    expect(answer.get_by_text("Level: logged")).to_be_visible()
    check_accessible(page)
    shoot(page, "play-record", full_page=True)
