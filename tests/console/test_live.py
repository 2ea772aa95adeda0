"""The view "Live": what runs is seen while it runs, by who may see it, and after a restart again."""

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest
from tests.console.browser import expect
from tests.console.served import MODEL, ConsoleServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
Check = Callable[["Page"], None]


@contextmanager
def answering(
    server: ConsoleServer, model: str = MODEL, says: str = "Count to a thousand.", **body: Any
) -> Iterator[Any]:
    """An answer that is streamed, and open until the block ends."""
    asked = {"model": model, "stream": True, "messages": [{"role": "user", "content": says}], "max_tokens": 2000} | body
    headers = {"content-type": "application/json", "authorization": f"Bearer {server.keys['user']}"}
    with urlopen(Request(f"{server.url}/v1/chat/completions", json.dumps(asked).encode(), headers)) as answer:
        assert answer.readline()
        yield


def ask(server: ConsoleServer, says: str, **more: Any) -> None:
    """One short answer, whole."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": says}], "max_tokens": 8}
    server.call("POST", "/v1/chat/completions", body | more, role="user")


def picture(page: "Page", name: str) -> Any:
    return page.get_by_role("img", name=name)


def test_an_answer_is_seen_while_it_streams_and_among_what_has_ended_afterwards(
    open_page: Open, console_server: ConsoleServer, check_accessible: Check, shoot: Callable[..., None]
) -> None:
    page = open_page("observer")
    page.goto("/console/live")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    for number in range(4):
        ask(
            console_server, f"A mill stands by the river, and its wheel turns. What is {number}?", max_tokens=4 + number
        )
    with (
        answering(console_server, ignore_eos=True),
        answering(console_server, says="A mill stands by the river, and its wheel turns. Why?", ignore_eos=True),
    ):
        expect(picture(page, "Timeline of requests: 2 running (2 decode), 4 ended")).to_be_visible()
        page.get_by_text("Requests as tables").click()
        row = page.get_by_role("table", name="Requests in flight").get_by_role("row").nth(1)
        expect(row).to_contain_text("decode")
        expect(row).to_contain_text("acme / user")
        expect(row).to_contain_text("/v1/chat/completions")
        expect(page.get_by_text("answers: latest", exact=False)).to_be_attached()
        check_accessible(page)
        shoot(page, "live", full_page=True)
    expect(picture(page, "Timeline of requests: 0 running, ")).to_be_visible()
    expect(page.get_by_text("Nothing runs.")).to_be_visible()
    last = page.get_by_role("table", name="Requests that have just ended").get_by_role("row").nth(1)
    expect(last).to_contain_text("cancelled")
    last.get_by_role("link").click()
    expect(page).to_have_url(re.compile(r"/console/traffic/requests/req_"))


def test_what_prompts_have_in_common_shows_in_the_tree_and_in_the_hit_rate(
    page: "Page", console_server: ConsoleServer
) -> None:
    common = "The same long beginning, which every one of these questions has. " * 30
    for number in range(3):
        ask(console_server, f"{common} What is {number} and {number}?")
    page.goto("/console/live")
    expect(picture(page, "Prefix tree: ")).to_be_visible()
    page.get_by_text("Prefix tree as a table").click()
    expect(page.get_by_role("table", name="Runs of the prefix tree").get_by_role("row").nth(3)).to_be_visible()
    row = page.get_by_role("table", name="Cache hits by tenant").get_by_role("row").nth(1)
    expect(row).to_contain_text("acme")
    rate = row.get_by_role("cell").nth(3)
    expect(rate).not_to_have_text("0 %")
    expect(picture(page, "pages of 32 tokens")).to_be_visible()


def test_a_request_to_a_backend_elsewhere_is_seen_too(page: "Page", console_server: ConsoleServer) -> None:
    page.goto("/console/live")
    with answering(console_server, "scripted", "hold"):
        page.get_by_text("Requests as tables").click()
        row = page.get_by_role("table", name="Requests in flight").get_by_role("row").nth(1)
        expect(row).to_contain_text("streaming")
        expect(row).to_contain_text("far")


def test_latencies_are_on_the_map_and_in_its_table(page: "Page", console_server: ConsoleServer) -> None:
    console_server.restart()  # what others have asked is remembered
    page.goto("/console/live")
    expect(picture(page, "Time to the first token: Nothing")).to_be_visible()
    ask(console_server, "Say something.")
    expect(picture(page, "Time to the first token: 1 in the last minutes")).to_be_visible()
    page.get_by_text("Time to the first token as a table").click()
    expect(
        page.get_by_role("table", name="Time to the first token").get_by_role("cell", name="1", exact=True)
    ).to_be_visible()


def wait_until_remembered(server: ConsoleServer, num_answers: int) -> None:
    """Until the server's own samples hold so many first tokens; a frame a second is what it is looked at by."""
    headers = {"authorization": f"Bearer {server.keys['observer']}"}
    with urlopen(Request(f"{server.url}/v1/live", headers=headers)) as frames:
        for line in frames:
            if line.startswith(b"data: "):
                samples = server.call("GET", "/v1/live?once=true&history=true")["history"]["samples"]
                if sum(sum(one["first_token"]) for one in samples) == num_answers:
                    return
    pytest.fail("the server ended")


def test_who_opens_the_view_later_sees_what_was_before_and_who_paused_it_what_was_missed(
    page: "Page", console_server: ConsoleServer, check_accessible: Check
) -> None:
    console_server.restart()
    ask(console_server, "A mill stands by the river, and its wheel turns. " * 40, max_tokens=40, ignore_eos=True)
    wait_until_remembered(console_server, 1)
    page.goto("/console/live")
    expect(page.get_by_text("The server began at", exact=False)).to_be_visible()
    expect(picture(page, "Time to the first token: 1 in the last minutes")).to_be_visible()
    expect(page.get_by_text(re.compile(r"answers: latest .*, most [1-9]"))).to_be_attached()
    expect(page.get_by_text(re.compile(r"pages cached: latest .*, most (?!0 %)"))).to_be_attached()
    check_accessible(page)
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("paused", exact=True)).to_be_visible()
    ask(console_server, "And once more.")
    wait_until_remembered(console_server, 2)
    expect(picture(page, "Time to the first token: 1 in the last minutes")).to_be_visible()
    page.get_by_role("button", name="Go on").click()
    expect(picture(page, "Time to the first token: 2 in the last minutes")).to_be_visible()


def test_a_paused_view_stands_still_and_asks_for_nothing(page: "Page", console_server: ConsoleServer) -> None:
    page.goto("/console/live")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("paused", exact=True)).to_be_visible()
    give_up_s = time.monotonic() + 60
    while console_server.call("GET", "/v1/live?once=true")["server"]["num_viewers"] != 0:
        assert time.monotonic() < give_up_s, "the paused page still watches"
    page.get_by_role("button", name="Go on").click()
    expect(page.get_by_text("live", exact=True)).to_be_visible()


def test_the_view_goes_on_by_itself_after_a_restart(page: "Page", console_server: ConsoleServer) -> None:
    page.goto("/console/live")
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    console_server.stop()
    expect(page.get_by_text("The feed was cut off")).to_be_visible()
    expect(picture(page, "Timeline of requests")).to_be_visible()
    console_server.start()
    # The longer the server is away, the longer the page pauses before it asks again: half a minute at most.
    expect(page.get_by_text("The feed was cut off")).to_be_hidden(timeout=60_000)
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    expect(page.locator(".plot canvas")).to_have_count(3)  # what draws them was asked for as the server went


def test_a_key_that_is_taken_back_watches_no_more_and_what_it_saw_stays(
    open_page: Open, console_server: ConsoleServer
) -> None:
    page = open_page(key=console_server.issue("watcher", "observe"))
    page.goto("/console/live")
    expect(picture(page, "Timeline of requests")).to_be_visible()
    console_server.call("DELETE", "/v1/accounts/keys/watcher")
    expect(page.get_by_role("dialog", name="Your sign-in has ended")).to_be_visible()
    expect(page.get_by_role("heading", name="Throughput and batches", include_hidden=True)).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_view_is_accessible_and_fits_a_phone(open_page: Open, check_accessible: Check, scheme: str) -> None:
    page = open_page("observer", viewport={"width": 360, "height": 740}, color_scheme=scheme)
    page.goto("/console/live")
    expect(picture(page, "Timeline of requests")).to_be_visible()
    expect(page.locator(".plot canvas")).to_have_count(3)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    check_accessible(page)
