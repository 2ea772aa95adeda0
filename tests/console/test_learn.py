"""The view "Learn": whoever knows nothing finds every route, reads its fields, copies an example and runs it."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tests.console.browser import expect
from tests.console.served import MODEL, ConsoleServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
Shoot = Callable[..., None]
Check = Callable[["Page"], None]
PHONE = {"viewport": {"width": 360, "height": 740}}
CHAT = "/console/learn/reference/post/v1/chat/completions"


def test_the_first_minute_says_what_each_view_shows(page: "Page", check_accessible: Check, shoot: Shoot) -> None:
    page.goto("/console/learn")
    for title in ("Play", "Live", "Traffic", "Manage"):
        expect(page.get_by_role("main").get_by_role("heading", name=title)).to_be_visible()
    expect(page.get_by_role("region", name="A first request with curl")).to_contain_text("/v1/chat/completions")
    expect(page.get_by_role("region", name="A first request with curl")).to_contain_text("$HEADRACE_API_KEY")
    check_accessible(page)
    shoot(page, "learn")


def test_a_view_that_somebody_may_not_see_is_told_with_its_scopes(open_page: Open) -> None:
    page = open_page("user")
    page.goto("/console/learn")
    main = page.get_by_role("main")
    expect(main.get_by_text("needs observe or admin", exact=True).first).to_be_visible()
    expect(main.get_by_role("link", name="Manage")).to_have_count(0)
    expect(main.get_by_role("link", name="Play")).to_be_visible()


def test_every_route_is_listed_and_found_by_words(
    page: "Page", console_server: ConsoleServer, check_accessible: Check
) -> None:
    document = console_server.call("GET", "/openapi.json")
    count = sum(len(methods) for methods in document["paths"].values())
    page.goto("/console/learn")
    page.get_by_role("tab", name="Reference").click()
    expect(page.get_by_role("status").filter(has_text="routes")).to_have_text(f"{count} of {count} routes")
    page.get_by_label("Search routes").fill("post rerank")
    expect(page.get_by_role("link", name="POST /v1/rerank")).to_be_visible()
    expect(page.get_by_role("link", name="POST /v1/chat/completions")).to_have_count(0)
    check_accessible(page)
    page.get_by_label("Search routes").fill("<img src=x>")
    expect(page.get_by_text("No route holds “<img src=x>”.")).to_be_visible()


def test_a_route_shows_its_fields_and_opens_branch_by_branch(page: "Page", check_accessible: Check) -> None:
    page.goto("/console/learn/reference")
    page.get_by_role("link", name="POST /v1/chat/completions", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("/v1/chat/completions")
    body = page.locator("section").filter(has=page.get_by_role("heading", name="Body", exact=True)).last
    expect(body.get_by_role("listitem").filter(has_text="messages").first).to_contain_text("required")
    body.get_by_text("Fields of messages").click()
    expect(
        body.get_by_role("listitem").filter(has_text="messages").get_by_text("role", exact=True).first
    ).to_be_visible()
    body.get_by_role("button", name="more fields").first.click()
    expect(body.get_by_text("frequency_penalty", exact=True)).to_be_visible()
    check_accessible(page)
    page.go_back()
    expect(page.get_by_label("Search routes")).to_be_visible()


def test_an_example_is_chosen_by_language_and_copied(open_page: Open, console_server: ConsoleServer) -> None:
    page = open_page("admin", permissions=["clipboard-read", "clipboard-write"])
    page.goto(CHAT)
    page.get_by_role("tab", name="Python", exact=True).click()
    shown = page.get_by_role("region", name="Example in Python", exact=True).inner_text()
    page.get_by_role("button", name="Copy: Example in Python").click()
    expect(page.get_by_text("Copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()").strip() == shown.strip()
    assert console_server.url in shown and '"model": "chat"' in shown
    page.goto("/console/learn/reference/get/v1/models")
    expect(page.get_by_role("tab", name="Python", exact=True)).to_have_attribute("aria-selected", "true")


def test_a_request_is_run_and_its_answer_shown(page: "Page", check_accessible: Check, shoot: Shoot) -> None:
    page.goto(CHAT)
    page.get_by_role("button", name="Run", exact=True).click()
    answer = page.get_by_role("region", name="Body of the answer")
    expect(answer).to_contain_text('"role": "assistant"')
    expect(answer).to_contain_text('"completion_tokens"')
    expect(page.get_by_text("200", exact=False).first).to_be_visible()
    page.get_by_text("headers", exact=False).last.click()
    expect(page.get_by_text("x-request-id", exact=True)).to_be_visible()
    check_accessible(page)
    shoot(page, "learn-route")


def test_what_is_written_into_the_body_is_in_the_example_and_in_the_request(page: "Page") -> None:
    page.goto(CHAT)
    body = {"model": MODEL, "max_tokens": 3, "messages": [{"role": "user", "content": 'it\'s "me"'}]}
    page.get_by_label("Body", exact=True).fill(json.dumps(body))
    expect(page.get_by_role("region", name="Example in curl")).to_contain_text("it'\\''s")
    page.get_by_label("Body", exact=True).press("Control+Enter")
    expect(page.get_by_role("region", name="Body of the answer")).to_contain_text('"completion_tokens": 3')


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{", "This is no JSON"),
        ('{"model": "m", "messages": []}', "Set max_tokens to at most 256"),
        ('{"max_tokens": 9, "store": true}', "Leave out store"),
    ],
)
def test_what_is_not_sent_is_told_beside_the_body(page: "Page", body: str, said: str) -> None:
    page.goto(CHAT)
    sent: list[str] = []
    page.on("request", lambda asked: sent.append(asked.url) if asked.method == "POST" else None)
    page.get_by_label("Body", exact=True).fill(body)
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text(said)).to_be_visible()
    expect(page.get_by_label("Body", exact=True)).to_have_attribute("aria-invalid", "true")
    assert sent == []


def test_a_refusal_is_shown_as_the_server_words_it(page: "Page") -> None:
    page.goto("/console/learn/reference/get/v1/models/%7Bid%7D")
    run = page.get_by_role("button", name="Run", exact=True)
    expect(run).to_be_disabled()
    page.get_by_label("id", exact=True).fill("no/such model")
    run.click()
    expect(page.get_by_text("Answered 404")).to_be_visible()
    expect(page.get_by_role("region", name="Body of the answer")).to_contain_text("error")


@pytest.mark.parametrize("said", ["markup", "turned"])
def test_what_a_model_says_stays_text(page: "Page", said: str) -> None:
    page.goto(CHAT)
    body = {"model": "scripted", "max_tokens": 64, "messages": [{"role": "user", "content": said}]}
    page.get_by_label("Body", exact=True).fill(json.dumps(body))
    page.get_by_role("button", name="Run", exact=True).click()
    answer = page.get_by_role("region", name="Body of the answer")
    expect(answer).to_contain_text("<script>" if said == "markup" else "U+202E")
    assert page.title() != "taken" and answer.locator("script, img, a, svg").count() == 0


def test_what_changes_the_server_is_not_sent_from_here(page: "Page") -> None:
    page.goto("/console/learn/reference/post/v1/accounts/keys")
    expect(page.get_by_text("This is not sent from here")).to_be_visible()
    expect(page.get_by_role("button", name="Run", exact=True)).to_have_count(0)


def test_a_request_that_does_not_end_is_stopped(page: "Page") -> None:
    page.goto(CHAT)
    body = {"model": "scripted", "max_tokens": 64, "stream": True, "messages": [{"role": "user", "content": "hold"}]}
    page.get_by_label("Body", exact=True).fill(json.dumps(body))
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("button", name="Stop", exact=True)).to_have_count(0)
    expect(page.get_by_role("button", name="Run", exact=True)).not_to_have_attribute("aria-busy", "true")


def test_a_server_that_does_not_answer_is_told(page: "Page") -> None:
    page.goto(CHAT)
    page.route("**/v1/chat/completions", lambda route: route.abort())
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("The server does not answer")


def test_it_is_used_on_a_phone_and_by_keyboard(open_page: Open, check_accessible: Check) -> None:
    page = open_page("user", **PHONE, color_scheme="dark")
    page.goto(CHAT)
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    check_accessible(page)
    page.get_by_role("tab", name="curl").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Python", exact=True)).to_be_focused()
    page.goto("/console/learn/reference")
    expect(page.get_by_label("Search routes")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
