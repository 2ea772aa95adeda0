"""The frame of the console: who gets in, what each role sees, and what the page says when something ends."""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from secrets import token_bytes
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from tests.console.browser import expect
from tests.console.served import ConsoleServer, serving
from tests.end_to_end.test_sign_in_program import long_token
from tests.tokens import AUDIENCE, ISSUER, key, key_set
from tests.unit.server.test_tls import make_pair

from headrace.server.sessions import decode, encode
from headrace.trust.identity.session_seal import AesSeal

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
Check = Callable[["Page"], None]
VIEWS = {
    "admin": ["Play", "Live", "Traffic", "Manage", "Learn"],
    "observer": ["Live", "Traffic", "Manage", "Learn"],
    "user": ["Play", "Learn"],
}
PHONE = {"viewport": {"width": 360, "height": 740}}
LIMIT_BYTES = 300 * 1024
# Counts what a page draws and asks; `hide` and `show` are what a browser does with a tab behind others. `settled` waits
# until what was begun has come and is drawn, however slow the machine; a page that is never still is counted as it is.
COUNTING = """
    globalThis.done = { frames: 0, asked: 0 };
    let onTheirWay = 0;
    const frame = requestAnimationFrame, ask = fetch;
    globalThis.requestAnimationFrame = (call) => { done.frames += 1; return frame(call); };
    globalThis.fetch = (...given) => {
      done.asked += 1;
      onTheirWay += 1;
      return ask(...given).finally(() => (onTheirWay -= 1));
    };
    let isHidden = false;
    Object.defineProperty(document, "hidden", { get: () => isHidden });
    Object.defineProperty(document, "visibilityState", { get: () => (isHidden ? "hidden" : "visible") });
    const turn = (hidden) => { isHidden = hidden; document.dispatchEvent(new Event("visibilitychange")); };
    const pass = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    globalThis.settled = async () => {
      for (let left = 60; left > 0; left -= 1) {
        Object.assign(done, { frames: 0, asked: 0 });
        await pass(500);
        if (done.frames + done.asked + onTheirWay === 0) return;
      }
    };
    globalThis.hide = () => (turn(true), settled());
    globalThis.show = () => turn(false);
    globalThis.watched = async () => (await pass(2000), { ...done });
"""

SIGN_IN = """async (secret) => {
    const headers = { "x-headrace-console": "1", authorization: `Bearer ${secret}` };
    return (await fetch("/console/session", { method: "POST", headers })).status;
}"""


def menu(page: "Page") -> Any:
    return page.get_by_role("navigation", name="Views").get_by_role("link")


def sign_in(page: "Page", key: str) -> None:
    page.get_by_label("API key or token").fill(key)
    page.get_by_role("button", name="Sign in").click()


def session_cookie(page: "Page") -> Any:
    return next(one for one in page.context.cookies() if one["name"].startswith("headrace-session"))


@pytest.mark.parametrize("role", VIEWS)
def test_each_role_signs_in_and_sees_its_own_views(open_page: Open, console_server: ConsoleServer, role: str) -> None:
    page = open_page(None)
    page.goto("/console")
    sign_in(page, console_server.keys[role])
    expect(menu(page)).to_have_text(VIEWS[role])
    expect(page.get_by_text(role, exact=True)).to_be_visible()


def test_a_wrong_key_is_told_beside_its_field_and_lets_nobody_in(open_page: Open) -> None:
    page = open_page(None)
    page.goto("/console/learn")
    sign_in(page, "hr_wrong")
    field = page.get_by_label("API key or token")
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(page.get_by_text("the API key is not valid")).to_be_visible()
    expect(menu(page)).to_have_count(0)
    assert page.context.cookies() == []


def test_a_long_token_that_a_proxy_refuses_is_told_as_that(open_page: Open) -> None:
    page = open_page(None)
    page.goto("/console/learn")
    expect(page.get_by_label("API key or token")).to_be_visible()
    page.route("**/console/session", lambda route: route.fulfill(status=400, body="<h1>Bad Request</h1>"))
    sign_in(page, "a" * 8000)
    expect(page.get_by_text("a proxy in front of it may take no token of 8000 characters")).to_be_visible()


def test_no_script_of_the_page_can_read_the_key_or_the_session(open_page: Open, console_server: ConsoleServer) -> None:
    page = open_page(None)
    page.goto("/console/learn")
    sign_in(page, console_server.keys["user"])
    expect(menu(page).first).to_be_visible()
    kept = page.evaluate(
        "JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}, document.body.outerHTML])"
    )
    assert console_server.keys["user"] not in kept
    assert page.evaluate("document.cookie") == ""
    cookie = session_cookie(page)
    assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
    assert console_server.keys["user"] not in cookie["value"]


def test_a_page_signs_out_and_a_copy_of_its_cookie_is_refused(open_page: Open) -> None:
    page = open_page("user")
    page.goto("/console/learn")
    copied = session_cookie(page)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key or token")).to_be_visible()
    assert page.context.cookies() == []
    page.context.add_cookies([copied])
    page.reload()
    expect(page.get_by_label("API key or token")).to_be_visible()


def test_a_key_taken_back_ends_its_session_and_another_goes_on(open_page: Open, console_server: ConsoleServer) -> None:
    key = console_server.issue("leaver", "observe", "generate")
    page = open_page(key=key)
    page.goto("/console/learn")
    expect(page.get_by_text("leaver")).to_be_visible()
    expect(page.get_by_role("heading", name="Three things to try")).to_be_visible()  # it asks for nothing any more
    console_server.call("DELETE", "/v1/accounts/keys/leaver")
    # Not by the mouse: what the page still asked for on a slow machine may have put the dialog before it already.
    menu(page).filter(has_text="Live").dispatch_event("click")
    dialog = page.get_by_role("dialog", name="Your sign-in has ended")
    expect(dialog).to_be_visible()
    dialog.get_by_label("API key or token").fill(console_server.keys["observer"])
    dialog.get_by_role("button", name="Sign in").click()
    expect(dialog).to_be_hidden()
    expect(menu(page)).to_have_text(VIEWS["observer"])
    expect(page).to_have_url(f"{console_server.url}/console/live")


def test_a_session_that_expires_is_told_without_being_asked(open_page: Open, console_server: ConsoleServer) -> None:
    page = open_page("user")
    page.clock.install()
    page.goto("/console/learn")
    cookie = session_cookie(page)
    seal = AesSeal((console_server.home / "keys" / "console.key").read_bytes(), token_bytes)
    kept = decode(seal.open(cookie["value"].removeprefix("1.")) or b"")

    def end_at(until_s: float) -> None:
        page.context.add_cookies([cookie | {"value": f"1.{seal.seal(encode(replace(kept, until_s=until_s)))}"}])

    end_at(time.time() + 3600)
    page.reload()
    expect(menu(page)).to_have_text(VIEWS["user"])
    end_at(time.time() - 1)  # an hour later, for the server; the page's own clock follows
    page.clock.fast_forward(3602 * 1000)
    expect(page.get_by_role("dialog", name="Your sign-in has ended")).to_be_visible()


def test_a_page_outlives_its_server(open_page: Open, console_server: ConsoleServer) -> None:
    page = open_page("observer")
    page.goto("/console/learn")
    expect(menu(page)).to_have_text(VIEWS["observer"])
    console_server.stop()
    try:
        menu(page).filter(has_text="Live").click()
        lost = page.get_by_text("The connection is lost.")
        expect(lost).to_be_visible()
    finally:
        console_server.start()
    expect(lost).to_be_hidden(timeout=40_000)
    expect(menu(page)).to_have_text(VIEWS["observer"])  # the session lives on


def test_what_a_role_may_not_see_is_said_where_it_is_asked_for(open_page: Open) -> None:
    page = open_page("user")
    page.goto("/console/manage")
    expect(page.get_by_text("You may not see Manage")).to_be_visible()
    page.goto("/console/nowhere")
    expect(page.get_by_text("There is no such view")).to_be_visible()


def test_links_move_within_the_page_and_back_goes_back(open_page: Open, console_server: ConsoleServer) -> None:
    page = open_page("user")
    page.goto("/console/learn")
    page.evaluate("window.isSamePage = true")
    menu(page).filter(has_text="Play").click()
    expect(page).to_have_url(f"{console_server.url}/console/play")
    expect(page).to_have_title("Play · Headrace")
    page.go_back()
    expect(page).to_have_title("Learn · Headrace")
    assert page.evaluate("window.isSamePage")


def test_the_keyboard_alone_reaches_content_and_views(open_page: Open, console_server: ConsoleServer) -> None:
    page = open_page("user")
    page.goto("/console/learn")
    expect(menu(page).first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    menu(page).filter(has_text="Play").focus()
    page.keyboard.press("Enter")
    expect(page).to_have_title("Play · Headrace")


@pytest.mark.parametrize("system", ["light", "dark"])
def test_colours_follow_the_system_until_somebody_chooses(open_page: Open, system: str) -> None:
    page = open_page("user", color_scheme=system)
    page.goto("/console/learn")
    ground = "getComputedStyle(document.body).backgroundColor"
    expect(menu(page).first).to_be_visible()
    by_system = page.evaluate(ground)
    other = {"light": "dark", "dark": "light"}[system]
    page.get_by_label("Colours").select_option(other)
    expect(page.locator(f':root[data-theme="{other}"]')).to_have_count(1)
    chosen = page.evaluate(ground)
    assert chosen != by_system
    page.reload()
    expect(page.get_by_label("Colours")).to_have_value(other)
    assert page.evaluate(ground) == chosen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("role", [None, "user", "observer"])
def test_the_frame_is_accessible_on_a_desk_and_on_a_phone(
    open_page: Open, check_accessible: Check, scheme: str, role: str | None
) -> None:
    for options in ({}, PHONE):
        page = open_page(role, color_scheme=scheme, **options)
        page.goto("/console/learn")
        expect(page.get_by_role("heading").first).to_be_visible()
        check_accessible(page)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_first_visit_loads_little(open_page: Open) -> None:
    page = open_page("admin")
    page.goto("/console/")
    expect(page.get_by_label("Message")).to_be_visible()  # a network may be idle before the page has come so far
    page.wait_for_load_state("networkidle")
    sizes = page.evaluate(
        "performance.getEntries().filter((one) => 'transferSize' in one).map((one) => one.transferSize)"
    )
    assert 0 < sum(sizes) < LIMIT_BYTES
    page.reload()
    expect(page.get_by_label("Message")).to_be_visible()
    page.wait_for_load_state("networkidle")
    again = page.evaluate(
        "performance.getEntries().filter((one) => one.name.includes('/static/')).map((one) => one.transferSize)"
    )
    assert again and sum(again) == 0  # files with a digest in their names come from the browser's own store


def test_a_part_that_an_update_took_away_asks_for_a_reload(open_page: Open) -> None:
    page = open_page("user")
    page.goto("/console/learn")
    expect(page.get_by_role("heading", name="Learn", level=1)).to_be_visible()
    page.route("**/console/static/*.js", lambda route: route.fulfill(status=404))
    menu(page).filter(has_text="Play").click()
    expect(page.get_by_text("This part of the page is not there any more")).to_be_visible()
    page.unroute_all()
    page.get_by_role("button", name="Reload").click()
    expect(page.get_by_role("heading", name="Play")).to_be_visible()


@pytest.mark.parametrize("view", VIEWS["admin"])
def test_a_page_that_nobody_looks_at_asks_nothing_and_draws_nothing(open_page: Open, view: str) -> None:
    page = open_page("admin")
    page.add_init_script(COUNTING)
    page.goto(f"/console/{view.lower()}")
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    page.evaluate("hide()")
    # Two seconds of the page's own clock, after what was on its way has come.
    assert page.evaluate("watched()") == {"frames": 0, "asked": 0}
    page.evaluate("show()")
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_an_idle_page_does_nothing(open_page: Open) -> None:
    page = open_page("user")
    page.add_init_script(COUNTING)
    page.goto("/console/learn")
    expect(page.get_by_role("heading", name="Three things to try")).to_be_visible()
    page.evaluate("settled()")
    assert page.evaluate("watched()") == {"frames": 0, "asked": 0}


def test_another_site_gets_nothing_with_the_cookie(open_page: Open, console_server: ConsoleServer) -> None:
    page = open_page("admin")
    page.goto("/console/learn")
    port = urlsplit(console_server.url).port
    cookie = f"headrace-session-{port}={session_cookie(page)['value']}"
    for headers in (
        {"cookie": cookie},
        {"cookie": cookie, "x-headrace-console": "1", "origin": "https://other.example"},
        {"cookie": cookie, "x-headrace-console": "1", "sec-fetch-site": "same-site"},
        {"cookie": cookie, "x-headrace-console": "1", "authorization": "Bearer hr_other"},
    ):
        answer = page.context.browser.new_context().request.get(
            f"{console_server.url}/v1/gateway/backends", headers=headers
        )
        assert answer.status in (401, 403), headers


def test_over_tls_the_session_is_this_hosts_and_never_in_the_clear_however_long_its_token(
    browser: Any, smollm2_path: Path, tmp_path: Path
) -> None:
    pair = make_pair(tmp_path, "console")
    keys = tmp_path / "issuer.json"
    keys.write_bytes(key_set(key("RS256")))
    more = (
        f'[tls]\ncertificate = "{pair.certificate}"\nkey = "{pair.key}"\n'
        f'[identity.issuers.corp]\nissuer = "{ISSUER}"\naudience = "{AUDIENCE}"\njwks = "{keys}"\n'
        'tenant = "acme"\nscopes = ["generate"]\n'
    )
    with serving(tmp_path, smollm2_path, more, "https") as server:
        context = browser.new_context(base_url=server.url, ignore_https_errors=True)
        page = context.new_page()
        page.goto("/console/learn")
        for secret, num_cookies in ((server.keys["user"], 1), (long_token(12_000), 3), (long_token(8_000), 2)):
            sign_in(page, secret)
            expect(menu(page)).to_have_text(VIEWS["user"])
            cookies = context.cookies()
            assert len(cookies) == num_cookies
            for cookie in cookies:
                assert cookie["name"].startswith("__Host-headrace-session") and cookie["secure"]
                assert cookie["httpOnly"] and cookie["sameSite"] == "Strict"
            page.reload()
            expect(menu(page)).to_have_text(VIEWS["user"])
            page.get_by_role("button", name="Sign out").click()
            expect(page.get_by_label("API key or token")).to_be_visible()
            assert context.cookies() == []
        # One after the other without signing out: the second takes the place of the first, and leaves no piece of it.
        for secret, num_cookies in ((long_token(12_000), 3), (server.keys["user"], 1)):
            assert page.evaluate(SIGN_IN, secret) == 200
            assert len(context.cookies()) == num_cookies
        context.close()


def test_the_shell_is_pictured(open_page: Open, shoot: Callable[..., None]) -> None:
    page = open_page(None)
    page.goto("/console/")
    expect(page.get_by_label("API key or token")).to_be_visible()
    shoot(page, "sign-in")
