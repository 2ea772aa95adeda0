"""The view "Traffic": where requests went and why, who stands behind the routes, what it costs, by the real server."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import pytest
from tests.console.browser import expect
from tests.console.served import ConsoleServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

Open = Callable[..., "Page"]
Check = Callable[["Page"], None]
PHONE = {"viewport": {"width": 360, "height": 740}}
TABS = ("routes", "backends", "spend", "requests")


def chat(server: ConsoleServer, model: str = "scripted", said: str = "Hi", **by: Any) -> Any:
    body = {"model": model, "messages": [{"role": "user", "content": said}], "max_tokens": 8}
    return server.call("POST", "/v1/chat/completions", body, **by)


def newest(server: ConsoleServer, **query: str) -> dict[str, Any]:
    asked = "&".join(f"{name}={value}" for name, value in query.items())
    found: dict[str, Any] = server.call("GET", f"/v1/gateway/requests?limit=1&{asked}")["data"][0]
    return found


@contextmanager
def budget(server: ConsoleServer, name: str, subject: str, money: float) -> Iterator[None]:
    body = {"name": name, "subject": subject, "window": "total", "money": money}
    server.call("POST", "/v1/accounts/budgets", body)
    try:
        yield
    finally:
        server.call("DELETE", f"/v1/accounts/budgets/{name}")


def stage(page: "Page", name: str) -> Any:
    return page.get_by_role("listitem").filter(has=page.get_by_role("heading", name=name, exact=True))


def test_routes_are_shown_with_their_targets_and_what_was_seen_of_them(
    page: "Page", console_server: ConsoleServer, check_accessible: Check, shoot: Callable[..., None]
) -> None:
    for _ in range(4):
        chat(console_server, "either")
    chat(console_server, "chat")
    page.goto("/console/traffic")
    either = page.get_by_role("article", name="Route either")
    expect(either.get_by_text("least_loaded")).to_be_visible()
    expect(either.get_by_role("cell", name="far/scripted", exact=True)).to_be_visible()
    either.get_by_role("link", name="Its requests").click()
    expect(page.get_by_label("Route", exact=True)).to_have_value("either")
    expect(page.get_by_role("region", name="Requests").get_by_role("row").nth(4)).to_be_visible()
    page.go_back()
    told = console_server.call("GET", "/v1/gateway/routes")["data"]
    made = next(one for one in told if one["id"] == "either")["figures"]["num_requests"]
    assert made >= 4
    expect(either.locator("dl div", has_text="Requests").locator("dd")).to_have_text(str(made))
    check_accessible(page)
    shoot(page, "traffic-routes")


def test_an_administrator_explains_a_request_that_nobody_makes_and_an_observer_cannot(
    open_page: Open, console_server: ConsoleServer
) -> None:
    page = open_page()
    page.goto("/console/traffic/routes")
    page.get_by_label("Model or route").fill("either")
    page.get_by_role("button", name="Explain").click()
    order = page.get_by_role("region", name="Targets now")
    expect(order.get_by_role("row")).to_have_count(3)
    expect(order.get_by_text("least_loaded: 0 on the way").first).to_be_visible()
    page.get_by_label("Model or route").fill("nobody")
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_role("alert")).to_contain_text("nobody")
    observer = open_page("observer")
    observer.goto("/console/traffic/routes")
    expect(observer.get_by_role("article", name="Route either")).to_be_visible()
    expect(observer.get_by_role("button", name="Explain")).to_have_count(0)


def test_a_backend_is_drained_after_a_question_its_route_refuses_and_it_comes_back(
    open_page: Open, console_server: ConsoleServer, check_accessible: Check, shoot: Callable[..., None]
) -> None:
    page, observer = open_page(), open_page("observer")
    page.goto("/console/traffic/backends")
    far = page.get_by_role("article", name="Backend far")
    far.get_by_role("button", name="Drain").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert not console_server.call("GET", "/v1/gateway/backends")["data"][0]["is_draining"]
    expect(far.get_by_text("drained")).to_have_count(0)
    far.get_by_role("button", name="Drain").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    try:
        expect(far.get_by_text("drained: no new requests")).to_be_visible()
        check_accessible(page)
        shoot(page, "traffic-backends")
        with pytest.raises(HTTPError) as refused:
            chat(console_server)
        assert refused.value.code == 503
        observer.goto("/console/traffic/backends")
        seen = observer.get_by_role("article", name="Backend far")
        expect(seen.get_by_text("drained: no new requests")).to_be_visible()
        expect(observer.get_by_role("button", name="Resume")).to_have_count(0)
        observer.goto(f"/console/traffic/requests/{newest(console_server, route='')['id']}")
    finally:
        far.get_by_role("button", name="Resume").click()
        page.get_by_role("dialog").get_by_role("button", name="Resume").click()
        expect(far.get_by_role("button", name="Drain")).to_be_visible()
    chat(console_server)


def test_a_budget_that_blocks_is_seen_in_the_spend_in_the_list_and_in_the_requests_own_path(
    page: "Page", console_server: ConsoleServer, check_accessible: Check, shoot: Callable[..., None]
) -> None:
    spender = console_server.issue("spender", "generate")
    with budget(console_server, "pocket-money", "key:spender", 0.01):
        while True:  # until nothing is left that a request could cost
            try:
                chat(console_server, key=spender, said="What is left of my budget? " * 6)
            except HTTPError as refused:
                assert refused.code == 429
                break
        page.goto("/console/traffic/spend")
        pocket = page.get_by_role("article", name="Budget pocket-money")
        expect(pocket.get_by_role("meter", name="key:spender")).to_have_attribute(
            "aria-valuetext", re.compile(r"of \$0\.01")
        )
        expect(page.get_by_role("figure", name="Cost a day (UTC)")).to_be_visible()
        page.get_by_label("Sums by").select_option("key")
        expect(
            page.get_by_role("region", name="Usage by key").get_by_role("cell", name="spender", exact=True)
        ).to_be_visible()
        check_accessible(page)
        shoot(page, "traffic-spend")
        pocket.get_by_role("link", name="What was refused").click()
        expect(page.get_by_label("Key", exact=True)).to_have_value("spender")
        expect(page.get_by_label("Show")).to_have_value("failed")
        refused_row = page.get_by_role("row").filter(has_text="budget exceeded")
        expect(refused_row).to_have_count(1)
        refused_row.get_by_role("button").click()
        expect(stage(page, "What came of it")).to_contain_text("pocket-money")
        expect(stage(page, "What was tried")).to_contain_text("Nobody was asked")
        expect(stage(page, "Who was considered").get_by_role("cell", name="far/scripted", exact=True)).to_be_visible()
        page.go_back()
        expect(page.get_by_label("Key", exact=True)).to_have_value("spender")
        expect(page.get_by_label("Show")).to_have_value("failed")
    console_server.call("DELETE", "/v1/accounts/keys/spender")


def mended(server: ConsoleServer) -> dict[str, Any]:
    """A request that one target failed and the other answered."""
    while True:
        chat(server, "either", "refuse")  # what the far backend's script says to it is an error
        one = newest(server, route="either")
        if one["num_attempts"] == 2:
            return one


def test_one_requests_path_is_drawn_with_its_attempts_its_record_and_what_would_happen_now(
    page: "Page", console_server: ConsoleServer, check_accessible: Check, shoot: Callable[..., None]
) -> None:
    one = mended(console_server)
    page.goto("/console/traffic/requests")
    row = page.get_by_role("region", name="Requests").get_by_role("row").nth(1)
    expect(row).to_contain_text("local/smollm2-135m-instruct after 2 attempts")
    check_accessible(page)
    shoot(page, "traffic-requests")
    row.get_by_role("button").click()
    expect(page).to_have_url(re.compile(one["id"]))
    expect(stage(page, "Who asked")).to_contain_text("acme")
    expect(stage(page, "Where it led")).to_contain_text("either")
    expect(page.get_by_role("region", name="Candidates, in order").get_by_role("row")).to_have_count(3)
    tried = stage(page, "What was tried").locator("ol > li")
    expect(tried).to_have_count(2)
    failed, answered = tried.nth(0), tried.nth(1)
    expect(failed).to_contain_text("far/scripted failed after")
    expect(failed).to_contain_text("first choice")
    expect(failed).to_contain_text("afterwards: asked for a rest")
    expect(answered).to_contain_text("local/smollm2-135m-instruct answered in")
    expect(answered).to_contain_text("next choice, after a failure")
    # Measured in one breath: between two the page may be drawn anew.
    first, second = tried.evaluate_all(
        "(steps) => steps.map((one) => one.querySelector('.stretch').getBoundingClientRect().x)"
    )
    assert first < second
    expect(stage(page, "What it cost")).to_contain_text("$0.0")
    page.get_by_role("button", name="Explain").click()
    expect(page.get_by_role("region", name="Targets now")).to_contain_text("local/smollm2-135m-instruct")
    check_accessible(page)
    shoot(page, "traffic-request", full_page=True)
    page.get_by_role("button", name="Show it").click()
    expect(page.get_by_label("Provenance record")).to_contain_text("in-toto")
    check_accessible(page)


HOSTILE = "<img src=x onerror=\"document.title='taken'\">\u202egnp"


def test_names_that_somebody_made_up_are_shown_and_never_obeyed(page: "Page", console_server: ConsoleServer) -> None:
    with pytest.raises(HTTPError):
        chat(console_server, HOSTILE)
    page.goto("/console/traffic/requests")
    row = page.get_by_role("row").filter(has_text="<img src=x").first
    expect(row).to_contain_text("U+202E")
    row.get_by_role("button").click()
    expect(stage(page, "Where it led")).to_contain_text("<img src=x")
    expect(stage(page, "What came of it")).to_contain_text("not found")
    assert page.title() == "Traffic · Headrace"


def test_a_request_that_nobody_knows_is_said_to_be_gone(page: "Page") -> None:
    page.goto("/console/traffic/requests/chatcmpl-none")
    expect(page.get_by_role("alert")).to_contain_text("no request")
    page.get_by_role("link", name="All requests").click()
    expect(page.get_by_role("tab", name="Requests")).to_have_attribute("aria-selected", "true")


def test_hundreds_of_requests_are_listed_page_by_page_and_new_ones_come_by_themselves(
    page: "Page", console_server: ConsoleServer
) -> None:
    crowd = console_server.issue("crowd", "generate")
    for _ in range(210):
        chat(console_server, key=crowd)
    page.goto("/console/traffic/requests?key=crowd")
    table = page.get_by_role("region", name="Requests")
    expect(table.get_by_role("row")).to_have_count(101)
    page.get_by_role("button", name="Older ones").click()
    expect(table.get_by_role("row")).to_have_count(201)
    page.get_by_role("button", name="Older ones").click()
    expect(table.locator("table")).to_have_attribute("aria-rowcount", "211")
    expect(page.get_by_role("button", name="Older ones")).to_have_count(0)
    chat(console_server, key=crowd)
    expect(table.locator("table")).to_have_attribute("aria-rowcount", "212")
    console_server.call("DELETE", "/v1/accounts/keys/crowd")


@pytest.mark.parametrize("tab", TABS)
def test_every_part_fits_a_phone_and_keeps_what_it_shows_while_the_server_is_away(
    open_page: Open, console_server: ConsoleServer, check_accessible: Check, tab: str
) -> None:
    chat(console_server)
    page = open_page(**PHONE)
    page.goto(f"/console/traffic/{tab}")
    panel = page.get_by_role("tabpanel")
    shown = panel.get_by_role("heading").or_(panel.get_by_role("row")).first
    expect(shown).to_be_visible()
    expect(panel.locator(".busy")).to_have_count(0)  # what was never read cannot be old
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    check_accessible(page)
    page.context.set_offline(True)
    old = panel.get_by_text("is old: the last try to read it failed").first
    expect(old).to_be_visible(timeout=20_000)
    expect(shown).to_be_visible()
    page.context.set_offline(False)
    expect(old).to_have_count(0, timeout=20_000)


def test_a_thousand_routes_and_a_thousand_made_up_names_leave_the_page_usable(page: "Page") -> None:
    figures = {"num_requests": 1, "num_failed": 0, "cost": 0.0}
    figures |= dict.fromkeys(("first_p50_s", "first_p95_s", "whole_p50_s", "whole_p95_s"))
    target = {"target": "far/m", "role": "candidate", "weight": 1.0, "tier": 0, "share": None, "figures": figures}
    about = {"policies": [], "fallbacks": [], "verifiers": [], "max_attempts": 3, "hedge_after_s": None}
    about |= {"figures": figures, "targets": [target]}
    named = [{"id": f"route-{number:04d}", "is_named": True, **about} for number in range(1000)]
    made_up = [{"id": f"made-up-{number:04d}", "is_named": False, **about} for number in range(1000)]
    page.route("**/v1/gateway/routes", lambda route: route.fulfill(json={"data": named + made_up, "since": 1.0}))
    page.goto("/console/traffic")
    expect(page.get_by_role("article")).to_have_count(50)
    expect(page.get_by_role("region", name="Models asked for by their own names")).to_be_visible()
    assert page.locator("tr").count() < 300
    page.get_by_label("Find routes").fill("route-0777")
    expect(page.get_by_role("article")).to_have_count(1)
    expect(page.get_by_role("article", name="Route route-0777")).to_be_visible()


def test_a_server_without_routes_shows_what_it_can_and_says_how_to_get_the_rest(page: "Page") -> None:
    models = {"data": [], "since": None, "object": "list"}
    page.route("**/v1/gateway/routes", lambda route: route.fulfill(json=models))
    page.route("**/v1/accounts/budgets", lambda route: route.fulfill(json={"data": [], "object": "list"}))
    page.goto("/console/traffic")
    expect(page.get_by_text("No routes are set")).to_be_visible()
    expect(page.get_by_text("[routes.chat]")).to_be_visible()
    page.get_by_role("tab", name="Budgets and spend").click()
    expect(page.get_by_text("No budgets are set")).to_be_visible()
