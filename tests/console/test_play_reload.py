"""A conversation survives a reload of the page, for whoever had it, and for nobody else."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.console.browser import expect
from tests.console.served import ConsoleServer
from tests.console.test_play import answers, asked, choose, opened, say, short, verified

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
Check = Callable[["Page"], None]
NAME = "headrace-tab:play"
KEPT = "Object.keys(sessionStorage).filter((name) => name.startsWith('headrace-tab:'))"


def test_both_sides_and_all_settings_survive_and_go_on(open_page: Open, check_accessible: Check) -> None:
    page = opened(open_page, "chat")
    short(page, 6)
    page.get_by_label("System prompt").fill("Be kind.")
    page.get_by_label("Show token probabilities").check()
    page.get_by_text("Response format").click()
    page.get_by_label("JSON schema").fill('{"type": ')
    page.get_by_label("JSON schema").fill("")
    page.get_by_text("Tools", exact=True).click()
    page.get_by_label("Tools, as JSON").fill("[]")
    page.get_by_role("button", name="Side by side").click()
    choose(page, "scripted", "Second model")
    say(page, "Say hello.")
    expect(answers(page).get_by_text("complete")).to_have_count(2)
    said = answers(page).locator(".answer").all_inner_texts()
    facts = answers(page).locator(".facts").all_inner_texts()
    page.get_by_label("Message").fill("half a sen")
    page.reload()
    expect(answers(page).get_by_text("complete")).to_have_count(2)
    expect(page.get_by_label("Message")).to_have_value("half a sen")
    assert answers(page).locator(".answer").all_inner_texts() == said
    assert answers(page).locator(".facts").all_inner_texts() == facts
    expect(page.get_by_role("combobox", name="First model")).to_have_value("chat")
    expect(page.get_by_role("combobox", name="Second model")).to_have_value("scripted")
    expect(page.get_by_label("System prompt")).to_have_value("Be kind.")
    expect(page.get_by_label("Show token probabilities")).to_be_checked()
    expect(page.get_by_text("Tools (set)")).to_be_visible()
    expect(page.get_by_text("Parameters (2 set)")).to_be_visible()
    expect(page.get_by_role("table", name="The two answers compared")).to_be_visible()
    expect(page.get_by_text("Not all of it was kept")).to_have_count(0)
    check_accessible(page)
    with page.expect_request("**/v1/chat/completions") as request:
        page.get_by_role("button", name="Send", exact=True).click()
    messages = json.loads(request.value.post_data or "")["messages"]
    assert [one["role"] for one in messages] == ["system", "user", "assistant", "user"]
    assert messages[2]["content"] in said
    expect(answers(page).get_by_text("complete")).to_have_count(4)


def test_after_a_reload_an_answer_is_looked_into_and_verified_byte_for_byte(open_page: Open) -> None:
    page = opened(open_page, "chat")
    short(page)
    page.get_by_label("Show token probabilities").check()
    asked(page)
    page.reload()
    answer = answers(page).first
    answer.get_by_role("button", name="Tokens").click()
    expect(answer.get_by_role("listbox").get_by_role("option")).to_have_count(12)
    answer.get_by_role("button", name="Prompt").click()
    expect(answer.get_by_role("listbox", name="Tokens of the prompt, the cached ones first")).to_be_visible()
    report = verified(answer)
    expect(report).to_contain_text("Level: logged")
    expect(report.locator("li.met strong")).to_have_text(
        ["form", "delegation", "signature", "time", "nonce", "answer", "meaning", "request", "log"]
    )


def test_a_record_that_was_looked_at_is_there_when_the_server_gives_it_no_more(open_page: Open) -> None:
    page = opened(open_page)
    expect(verified(asked(page, "Hello?"))).to_contain_text("Level: logged")
    page.reload()
    page.route("**/v1/provenance/rec_*", lambda route: route.fulfill(status=404, json={"error": {"message": "gone"}}))
    answer = answers(page).first
    expect(verified(answer)).to_contain_text("Level: logged")
    expect(answer.get_by_text("the one that it gave before")).to_be_visible()


def test_what_is_said_of_a_record_after_a_reload_is_what_its_words_say(open_page: Open) -> None:
    """Somebody who changed what lies in the tab is found out as somebody who changed the answer."""
    page = opened(open_page)
    asked(page, "Hello?")
    page.reload()
    expect(answers(page)).to_have_count(1)
    text: str = page.evaluate(f"sessionStorage['{NAME}']")
    left_behind(page, text.replace("It works.", "It is won."))
    answer = answers(page).first
    expect(answer.locator(".answer")).to_have_text("It is won.")
    report = verified(answer)
    expect(report).to_contain_text("Not verified")


def test_an_answer_that_came_at_the_reload_is_cut_off_and_asked_again(open_page: Open) -> None:
    page = opened(open_page)
    say(page, "hold")
    expect(answers(page).first.locator(".answer")).to_contain_text("one two")
    page.reload()
    answer = answers(page).first
    expect(answer.get_by_text("cut off", exact=True)).to_be_visible()
    expect(answer.locator(".answer")).to_contain_text("one two")
    expect(answer.get_by_text("ask again for a whole answer", exact=False)).to_be_visible()
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    with page.expect_request("**/v1/chat/completions") as request:
        answer.get_by_role("button", name="Ask again").click()
    assert [one["content"] for one in json.loads(request.value.post_data or "")["messages"]] == ["hold"]
    expect(answer.locator(".answer")).to_contain_text("one two")
    page.get_by_role("button", name="Stop").click()
    expect(answer.get_by_text("stopped")).to_be_visible()


def test_going_elsewhere_and_back_keeps_it(open_page: Open) -> None:
    page = opened(open_page)
    asked(page, "Hello?")
    page.goto("/console/learn")
    expect(page.get_by_role("link", name="Learn")).to_have_attribute("aria-current", "page")
    page.go_back()
    expect(answers(page).first.locator(".answer")).to_have_text("It works.")


def test_a_new_conversation_leaves_nothing_of_the_old_one(open_page: Open) -> None:
    page = opened(open_page, viewport={"width": 360, "height": 740})
    asked(page, "A secret.")
    page.get_by_role("button", name="New conversation").click()
    page.get_by_role("button", name="Begin anew").click()
    expect(answers(page)).to_have_count(0)
    assert "A secret." not in json.dumps(page.evaluate("({...sessionStorage, ...localStorage})"))
    page.reload()
    expect(page.get_by_role("combobox", name="Model")).to_have_value("scripted")
    expect(page.get_by_text("A secret.")).to_have_count(0)


def signed_in(page: "Page", key: str) -> None:
    page.get_by_label("API key or token").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("Message")).to_be_visible()


def test_a_sign_out_leaves_nothing_even_for_the_same_person(open_page: Open, console_server: ConsoleServer) -> None:
    page = opened(open_page)
    asked(page, "A secret.")
    assert page.evaluate(KEPT) != []
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key or token")).to_be_visible()
    assert page.evaluate(KEPT) == []
    signed_in(page, console_server.keys["admin"])
    expect(page.get_by_text("A secret.")).to_have_count(0)
    page.reload()
    expect(page.get_by_label("Message")).to_be_visible()
    expect(page.get_by_text("A secret.")).to_have_count(0)


def test_a_sign_out_in_one_tab_is_one_in_all(open_page: Open, console_server: ConsoleServer) -> None:
    page = opened(open_page)
    asked(page, "A secret.")
    other = page.context.new_page()
    other.goto("/console/learn")
    other.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key or token")).to_be_visible()
    assert page.evaluate(KEPT) == []
    signed_in(page, console_server.keys["admin"])
    expect(page.get_by_text("A secret.")).to_have_count(0)


def test_who_signs_in_after_a_sign_in_has_ended_finds_only_their_own(
    open_page: Open, console_server: ConsoleServer
) -> None:
    page = opened(open_page)
    asked(page, "A secret.")
    cookies = page.context.cookies()
    page.context.clear_cookies()
    page.reload()
    expect(page.get_by_label("API key or token")).to_be_visible()
    page.context.add_cookies(cookies)
    page.reload()
    expect(page.get_by_text("A secret.")).to_be_visible()
    page.context.clear_cookies()
    page.reload()
    signed_in(page, console_server.keys["user"])
    expect(page.get_by_text("A secret.")).to_have_count(0)
    assert "A secret." not in json.dumps(page.evaluate("({...sessionStorage})"))


COUNTING = """
    globalThis.numWrites = 0;
    const known = Storage.prototype.setItem;
    Storage.prototype.setItem = function (...given) { numWrites += 1; return known.apply(this, given); };
"""


def test_nothing_is_written_while_an_answer_streams_or_nothing_happens(open_page: Open) -> None:
    page = open_page()
    page.add_init_script(COUNTING)
    page.goto("/console/play")
    choose(page, "scripted")
    say(page, "hold")
    expect(answers(page).first.locator(".answer")).to_contain_text("one two")
    assert page.evaluate("numWrites") == 0
    page.get_by_role("button", name="Stop").click()
    expect(answers(page).first.get_by_text("stopped")).to_be_visible()
    page.wait_for_function("numWrites > 0")
    written = page.evaluate("numWrites")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.evaluate("dispatchEvent(new Event('pagehide')); dispatchEvent(new Event('pageshow'))")
    assert page.evaluate("numWrites") == written


def test_a_browser_that_keeps_nothing_is_told_of(open_page: Open) -> None:
    page = open_page()
    page.add_init_script("Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError'); }")
    page.goto("/console/play")
    choose(page, "scripted")
    asked(page, "Hello?")
    expect(page.get_by_text("This browser keeps nothing of it", exact=False)).to_be_visible()


def test_what_strangers_left_in_the_tab_is_text_or_nothing(open_page: Open) -> None:
    page = opened(open_page)
    asked(page, "Hello?")
    page.reload()
    expect(answers(page)).to_have_count(1)

    text: str = page.evaluate(f"sessionStorage['{NAME}']")
    hostile = "<img src=x onerror=\"document.title='taken'\">\u202e"
    left_behind(page, text.replace("It works.", json.dumps(hostile)[1:-1]))
    answer = answers(page).first
    expect(answer.locator(".answer")).to_contain_text("<img src=x")
    assert answer.locator("img").count() == 0 and page.title() != "taken"
    for none in (text.replace('"version":1', '"version":0'), '{"version":1,"root":0,"pool":[["', ""):
        left_behind(page, none)
        expect(page.get_by_text("Say something", exact=False)).to_be_visible()


def left_behind(page: "Page", text: str) -> None:
    """Somebody wrote this where the conversation is kept; the page is reloaded."""
    write = f"(text) => addEventListener('pagehide', () => {{ sessionStorage['{NAME}'] = text; }})"
    page.evaluate(write, text)
    page.reload()
