"""The view "Play" before a backend that behaves badly: hostile text, a hundred thousand tokens, a thousand models,
streams that hang or break, a server that is killed. Nothing of it is obeyed, and the page stays usable."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.console.browser import expect
from tests.console.served import ConsoleServer, serving
from tests.console.test_play import answers, choose, say
from tests.console.wild import MARKUP, NUM_LONG, Wild

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
Check = Callable[["Page"], None]
NUM_ROUTES = 1000
HOSTILE_NAME = "<img src=x onerror=alert(1)>\u202eevil"
SETTINGS = """
[backends.wild]
kind = "openai-compatible"
url = "http://127.0.0.1:{port}/v1"
[backends.wild.models.wild]
"""


@pytest.fixture(scope="module")
def console_server(wild: Wild, smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsoleServer]:
    """A server of this module's own, with that backend and a thousand routes to it."""
    names = [f"route-{number:04}" for number in range(NUM_ROUTES)] + ["wild", HOSTILE_NAME]
    routes = "".join(f'[routes."{name}"]\ncandidates = ["wild/wild"]\n' for name in names)
    more = SETTINGS.format(port=wild.server_address[1]) + routes
    with serving(tmp_path_factory.mktemp("wild"), smollm2_path, more) as server:
        yield server


def options(page: "Page") -> Any:
    return page.get_by_role("listbox", name="Model").get_by_role("option")


@pytest.fixture
def talk(open_page: Open) -> "Page":
    """The view, with the wild backend chosen."""
    page = open_page()
    page.goto("/console/play")
    choose(page, "wild")
    return page


def test_markup_of_a_model_is_text(talk: "Page") -> None:
    say(talk, "markup")
    answer = answers(talk).first
    expect(answer.get_by_text("complete")).to_be_visible()
    expect(answer.locator(".answer")).to_have_text(MARKUP)
    assert answer.locator("script, img, svg, style, a, iframe").count() == 0
    assert talk.title() != "taken"


def test_what_is_not_seen_or_turns_other_text_is_named(talk: "Page") -> None:
    say(talk, "bidi")
    answer = answers(talk).first
    expect(answer.get_by_text("complete")).to_be_visible()
    names = ["U+202E", "U+202C", "U+2066", "U+2069", "U+200B", "U+0007", "U+001B", "U+001B", "U+0000"]
    expect(answer.locator(".answer .odd")).to_have_text(names)


def test_hostile_calls_of_tools_are_shown_and_answered(talk: "Page", wild: Wild) -> None:
    talk.get_by_text("Tools", exact=True).click()
    talk.get_by_label("Tools, as JSON").fill('[{"type": "function", "function": {"name": "look"}}]')
    say(talk, "calls")
    answer = answers(talk).first
    calls = answer.get_by_role("region", name="Tool calls")
    expect(calls).to_contain_text("Calls look")
    expect(calls).to_contain_text("<script>document.title='taken'</script>")
    assert calls.locator("script, img, svg, a").count() == 0 and talk.title() != "taken"
    calls.get_by_label("What tool 1 says").fill("say it is sunny")
    calls.get_by_role("button", name="Go on with these results").click()
    expect(answers(talk).nth(1)).to_contain_text("it is sunny")
    told = wild.bodies[-1]["messages"]
    assert told[-1]["role"] == "tool" and told[-1]["tool_call_id"] == told[-2]["tool_calls"][0]["id"]


def test_what_a_guard_withheld_is_told_as_that(talk: "Page") -> None:
    say(talk, "withheld")
    expect(answers(talk).first.get_by_text("Something was withheld")).to_be_visible()


def test_a_hundred_thousand_tokens_stay_usable(talk: "Page") -> None:
    talk.set_default_timeout(120_000)
    say(talk, "long")
    answer = answers(talk).first
    expect(answer.get_by_text("complete")).to_be_visible(timeout=120_000)
    expect(answer.locator(".answer")).to_contain_text(f"word{NUM_LONG - 1}")
    # It can be gone on with, scrolled and looked into at once.
    talk.get_by_label("Message").fill("say again")
    talk.get_by_role("button", name="Send", exact=True).click()
    expect(answers(talk).nth(1).locator(".answer")).to_have_text("again")
    answer.get_by_role("button", name="Record", exact=True).click()
    answer.get_by_role("button", name="Verify in this browser").click()
    expect(answer.get_by_text("Level: logged")).to_be_visible(timeout=120_000)


def test_a_line_without_an_end_is_wrapped_and_can_be_shown_whole(talk: "Page") -> None:
    say(talk, "line")
    answer = answers(talk).first
    expect(answer.get_by_text("complete")).to_be_visible()
    expect(answer.get_by_role("button", name="Show all 2,000,000 characters")).to_be_visible()
    assert talk.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_thousand_routes_are_found_by_a_part_of_their_names(open_page: Open) -> None:
    page = open_page()
    page.goto("/console/play")
    box = page.get_by_role("combobox", name="Model")
    box.click()
    expect(options(page)).to_have_count(101)
    expect(page.get_by_text("more: write a part of the name")).to_be_visible()
    box.fill("0777")
    expect(options(page)).to_have_count(1)
    box.press("Enter")
    expect(box).to_have_value("route-0777")
    box.press("ArrowDown")
    box.fill("route")
    box.press("ArrowDown")
    box.press("ArrowDown")
    box.press("Enter")
    expect(box).to_have_value("route-0002")
    box.click()
    box.fill("nothing like it")
    expect(page.get_by_text("No model has this in its name")).to_be_visible()
    box.press("Escape")
    expect(box).to_have_value("route-0002")


def test_the_name_of_a_route_is_text_too(open_page: Open) -> None:
    page = open_page()
    page.goto("/console/play")
    box = page.get_by_role("combobox", name="Model")
    box.click()
    box.fill("onerror")
    options(page).filter(has_text="onerror").click()  # not the remark that there is none, as long as none was read
    say(page, "say hi")
    expect(answers(page).first.locator(".answer")).to_have_text("hi")
    assert page.locator("main img").count() == 0
    expect(answers(page).first.locator("header .odd")).to_have_text("U+202E")


def test_stopping_ends_the_answer_at_the_backend_too(talk: "Page", wild: Wild) -> None:
    say(talk, "hold")
    answer = answers(talk).first
    expect(answer.locator(".answer")).to_have_text("one two ")
    talk.get_by_role("button", name="Stop").click()
    expect(answer.get_by_text("stopped")).to_be_visible()
    expect(answer.locator(".answer")).to_have_text("one two ")
    assert wild.left.acquire(timeout=30)
    answer.get_by_role("button", name="Record", exact=True).click()
    answer.get_by_role("button", name="Verify in this browser").click()
    expect(answer.get_by_text("Level: logged")).to_be_visible()
    expect(answer.get_by_text("state: cancelled")).to_be_visible()
    expect(talk.get_by_label("Message")).to_be_enabled()


def test_an_answer_that_breaks_off_keeps_what_came_and_can_be_tried_again(talk: "Page") -> None:
    say(talk, "break")
    answer = answers(talk).first
    expect(answer.get_by_text("The answer broke off")).to_be_visible()
    expect(answer.locator(".answer")).to_have_text("one two ")
    talk.get_by_role("button", name="Edit").click()
    talk.get_by_label("What you say instead").fill("say better")
    talk.get_by_role("button", name="Send again").click()
    expect(answers(talk)).to_have_count(1)
    expect(answers(talk).first.locator(".answer")).to_have_text("better")


def test_a_conversation_survives_another_view_and_a_killed_server(talk: "Page", console_server: ConsoleServer) -> None:
    say(talk, "say first")
    expect(answers(talk).first.locator(".answer")).to_have_text("first")
    say(talk, "hold")
    expect(answers(talk).nth(1).locator(".answer")).to_have_text("one two ")
    talk.get_by_role("link", name="Learn").click()
    expect(answers(talk)).to_have_count(0)
    talk.get_by_role("link", name="Play").click()
    expect(answers(talk).nth(1).locator(".answer")).to_have_text("one two ")
    assert console_server.process is not None
    console_server.process.kill()
    console_server.process.communicate()
    expect(answers(talk).nth(1).get_by_text("The connection broke", exact=False)).to_be_visible()
    expect(answers(talk).first.locator(".answer")).to_have_text("first")
    console_server.start()
    answers(talk).nth(1).get_by_role("button", name="Try again").click()
    expect(answers(talk).nth(1).locator(".answer")).to_have_text("one two ")
    expect(answers(talk).nth(1).get_by_text("answering")).to_be_visible()
    talk.get_by_role("button", name="Stop").click()
    expect(answers(talk).nth(1).get_by_text("stopped")).to_be_visible()


def test_only_what_was_set_is_sent(talk: "Page", wild: Wild) -> None:
    say(talk, "say plain")
    expect(answers(talk).first.locator(".answer")).to_have_text("plain")
    plain: dict[str, Any] = wild.bodies[-1]
    assert set(plain) == {"model", "messages", "stream", "stream_options"}
    talk.get_by_text("Parameters").click()
    for label, value in (("Temperature", "0.5"), ("Top k", "40"), ("Seed", "7"), ("Presence penalty", "-0.5")):
        talk.get_by_label(label).fill(value)
    talk.get_by_label("Reasoning effort").select_option("low")
    talk.get_by_label("Stop texts").fill("END\nSTOP")
    talk.get_by_label("System prompt").fill("Be brief.")
    talk.get_by_text("Response format").click()
    talk.get_by_label("JSON schema").fill('{"type": "object",}')
    expect(talk.get_by_text("line 1, column 19", exact=False).first).to_be_visible()
    expect(talk.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    talk.get_by_label("JSON schema").fill('{"type": "object"}')
    say(talk, "say set")
    expect(answers(talk).nth(1).locator(".answer")).to_have_text("set")
    body = wild.bodies[-1]
    assert {name: body[name] for name in set(body) - set(plain)} == {
        "temperature": 0.5,
        "top_k": 40,
        "seed": 7,
        "presence_penalty": -0.5,
        "reasoning_effort": "low",
        "stop": ["END", "STOP"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
    }
    assert [one["content"] for one in body["messages"]] == ["Be brief.", "say plain", "plain", "say set"]


def test_a_very_long_answer_survives_a_reload_without_what_would_not_fit(talk: "Page", check_accessible: Check) -> None:
    talk.set_default_timeout(120_000)
    say(talk, "long")
    answer = answers(talk).first
    expect(answer.get_by_text("complete")).to_be_visible(timeout=120_000)
    expect(talk.get_by_text("The bytes of 1 answer as they came", exact=False)).to_be_visible()
    talk.reload()
    expect(answer.locator(".answer")).to_contain_text(f"word{NUM_LONG - 1}", timeout=120_000)
    missing = talk.get_by_text("Not all of it was kept over the reload").locator("..")
    expect(missing).to_contain_text("The bytes of 1 answer")
    check_accessible(talk)
    answer.get_by_role("button", name="Record", exact=True).click()
    answer.get_by_role("button", name="Verify in this browser").click()
    report = answer.get_by_role("region", name="What was verified")
    # A gateway's record of what it passed on is about bytes alone: it can neither hold nor be broken here.
    expect(report).to_contain_text("Could not be verified", timeout=120_000)
    expect(report.locator("li.unknown strong")).to_have_text(["answer"])
    expect(report.locator("li.not")).to_have_count(0)


def test_an_answer_that_is_longer_than_a_tab_keeps_is_told_and_asked_again(talk: "Page") -> None:
    say(talk, "line")
    answer = answers(talk).first
    expect(answer.get_by_text("complete")).to_be_visible()
    expect(talk.get_by_text("1 answer: too long", exact=False)).to_be_visible()
    talk.reload()
    expect(answer.get_by_text("not kept", exact=True)).to_be_visible()
    expect(answer.get_by_text("It had 2,000,000 characters", exact=False)).to_be_visible()
    answer.get_by_role("button", name="Ask again").click()
    expect(answer.get_by_role("button", name="Show all 2,000,000 characters")).to_be_visible()
