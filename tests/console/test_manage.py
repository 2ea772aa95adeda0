"""The view Manage, in a browser against a real server: what is changed there holds for real requests, is asked about
first and is in the list of actions; whoever only observes can change none of it."""

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

import pytest
from tests.console.browser import expect
from tests.console.served import MODEL, ConsoleServer

if TYPE_CHECKING:
    from playwright.sync_api import Page

HI = [{"role": "user", "content": "Hi"}]


CHANGES = re.compile("^(New key|Revoke|Disable|Set a|Change|Remove|Load|Unload|Fetch|Clear|Read)")


def chat(server: ConsoleServer, key: str) -> str:
    """How a request to the real model ends: `answered`, or the error's code."""
    body = {"model": MODEL, "messages": HI, "max_tokens": 4}
    try:
        told = server.call("POST", "/v1/chat/completions", body, key=key)
    except HTTPError as error:
        return str(json.loads(error.read())["error"]["code"])
    assert told["usage"]["completion_tokens"] > 0
    return "answered"


def row(page: "Page", name: str) -> Any:
    return page.get_by_role("row").filter(has_text=name)


def all_of(page: "Page") -> str:
    """The page's text, and what stands in its inputs, of which its text says nothing."""
    inputs: list[str] = page.evaluate("[...document.querySelectorAll('input, textarea')].map((one) => one.value)")
    return "\n".join([page.content(), *inputs])


def answer(page: "Page", title: str, button: str, typed: str | None = None) -> None:
    """Say yes to a question."""
    dialog = page.get_by_role("dialog", name=title)
    if typed is not None:
        expect(dialog.get_by_role("button", name=button)).to_be_disabled()
        dialog.get_by_label(f"Write {typed} to go on").fill(typed)
    dialog.get_by_role("button", name=button).click()
    expect(dialog).to_be_hidden()


@pytest.fixture
def clean(console_server: ConsoleServer) -> Iterator[ConsoleServer]:
    """The server; keys and budgets that a test left go afterwards."""
    yield console_server
    for what in ("keys", "budgets", "limits"):
        for one in console_server.call("GET", f"/v1/accounts/{what}")["data"]:
            if one["name"].startswith("test-") or one["name"].startswith("key-test-"):
                console_server.call("DELETE", f"/v1/accounts/{what}/{one['name']}")


def test_a_key_is_made_used_disabled_and_revoked_and_each_holds_at_once(
    clean: ConsoleServer, page: "Page", check_accessible: Callable[..., None], shoot: Callable[..., None]
) -> None:
    page.goto("/console/manage/keys")
    page.get_by_role("button", name="New key").click()
    form = page.get_by_role("dialog", name="New key")
    form.get_by_label("Name").fill("test-laptop")
    form.get_by_label("Tenant").fill("acme")
    form.get_by_label("Models").fill(MODEL)
    check_accessible(page)
    form.get_by_role("button", name="Make the key").click()

    made = page.get_by_role("dialog", name="A new key")
    secret = made.get_by_label("Key test-laptop").input_value()
    assert secret.startswith("hr_") and secret in all_of(page)
    expect(made.get_by_text("This is shown this once")).to_be_visible()
    check_accessible(page)
    assert chat(clean, secret) == "answered"
    made.get_by_role("button", name="Done").click()
    expect(row(page, "test-laptop").get_by_text("valid")).to_be_visible()
    assert secret not in all_of(page)  # and nowhere in the page any more
    shoot(page, "manage")

    page.get_by_role("button", name="Disable test-laptop").click()
    answer(page, "Disable this key?", "Disable")
    expect(row(page, "test-laptop").get_by_text("disabled", exact=True)).to_be_visible()
    assert chat(clean, secret) == "invalid_api_key"
    page.get_by_role("button", name="Enable test-laptop").click()
    answer(page, "Enable this key?", "Enable")
    expect(row(page, "test-laptop").get_by_text("valid")).to_be_visible()
    assert chat(clean, secret) == "answered"

    page.get_by_role("button", name="Revoke test-laptop").click()
    answer(page, "Revoke this key?", "Revoke", typed="test-laptop")
    expect(row(page, "test-laptop")).to_have_count(0)
    assert chat(clean, secret) == "invalid_api_key"

    page.get_by_role("tab", name="Actions").click()
    page.get_by_label("To what").fill("test-laptop")
    expect(page.get_by_role("row")).to_have_count(5)
    for action in ("DELETE /v1/accounts/keys/{name}", "PATCH /v1/accounts/keys/{name}", "POST /v1/accounts/keys"):
        expect(row(page, action).first.get_by_text("done")).to_be_visible()
    expect(row(page, "POST /v1/accounts/keys").get_by_text("console")).to_be_visible()
    assert secret not in all_of(page)
    page.get_by_role("button", name="POST /v1/accounts/keys test-laptop").click()
    shown = page.get_by_role("dialog", name="An action")
    expect(shown.get_by_text('"tenant": "acme"')).to_be_visible()
    check_accessible(page)


def test_a_question_before_a_change_can_be_answered_with_no(clean: ConsoleServer, page: "Page") -> None:
    clean.issue("test-stays", "generate")
    page.goto("/console/manage/keys")
    page.get_by_role("button", name="Revoke test-stays").click()
    question = page.get_by_role("dialog")
    expect(question).to_be_visible()
    page.keyboard.press("Escape")
    expect(question).to_be_hidden()
    page.get_by_role("button", name="Disable test-stays").click()
    question.get_by_role("button", name="Cancel").click()
    expect(question).to_be_hidden()
    assert [
        one["is_disabled"] for one in clean.call("GET", "/v1/accounts/keys")["data"] if one["name"] == "test-stays"
    ] == [False]


def test_a_refusal_stands_beside_the_field_that_it_names(clean: ConsoleServer, page: "Page") -> None:
    page.goto("/console/manage/keys")
    page.get_by_role("button", name="New key").click()
    form = page.get_by_role("dialog", name="New key")
    form.get_by_label("Name").fill("no name at all")
    form.get_by_role("button", name="Make the key").click()
    expect(form.get_by_label("Name")).to_have_attribute("aria-invalid", "true")
    expect(form.locator(".field", has=page.get_by_label("Name")).get_by_text("1 to 64 letters")).to_be_visible()
    form.get_by_label("Name").fill("test-fixed")
    form.get_by_label("Expires").fill("2001-01-01T00:00")
    form.get_by_role("button", name="Make the key").click()
    expect(page.get_by_role("dialog", name="A new key")).to_be_visible()
    page.get_by_role("button", name="Done").click()
    expect(row(page, "test-fixed").get_by_text("expired")).to_be_visible()


def test_a_budget_that_is_set_blocks_and_one_that_is_removed_does_not(
    clean: ConsoleServer, page: "Page", check_accessible: Callable[..., None]
) -> None:
    secret = clean.issue("test-spender", "generate")
    assert chat(clean, secret) == "answered"
    page.goto("/console/manage/budgets")
    page.get_by_role("button", name="Set a budget").click()
    form = page.get_by_role("dialog", name="Set a budget")
    form.get_by_label("Name").fill("test-nothing")
    form.get_by_label("Of whom").fill("somebody")
    form.get_by_label("Dollars").fill("0.000001")
    form.get_by_role("button", name="Set").click()
    expect(form.get_by_label("Of whom")).to_have_attribute("aria-invalid", "true")
    form.get_by_label("Of whom").fill("key:test-spender")
    form.get_by_role("button", name="Set").click()
    expect(row(page, "test-nothing")).to_be_visible()
    assert chat(clean, secret) == "budget_exceeded"
    check_accessible(page)

    page.get_by_role("button", name="Change test-nothing").click()
    form = page.get_by_role("dialog", name="Change a budget")
    form.get_by_label("Dollars").fill("1")
    form.get_by_role("button", name="Change").click()
    expect(row(page, "test-nothing").get_by_text("$1.00, each month")).to_be_visible()
    assert chat(clean, secret) == "answered"
    expect(row(page, "test-nothing").get_by_text(re.compile(r"\$0\.0000\d+ spent"))).to_be_visible(timeout=20_000)

    page.get_by_role("button", name="Remove test-nothing").click()
    answer(page, "Remove this budget?", "Remove")
    expect(row(page, "test-nothing")).to_have_count(0)


def test_whoever_observes_sees_everything_and_is_offered_no_change(
    clean: ConsoleServer, open_page: Callable[..., "Page"], check_accessible: Callable[..., None]
) -> None:
    clean.issue("test-seen", "generate")
    clean.call("POST", "/v1/accounts/budgets", {"name": "test-b", "subject": "all", "window": "day", "tokens": 10**9})
    page = open_page("observer")
    page.goto("/console/manage/keys")
    expect(row(page, "test-seen")).to_be_visible()
    expect(page.get_by_text("You may look, and change nothing")).to_be_visible()
    for tab, seen in (
        ("Keys", "test-seen"),
        ("Budgets and limits", "test-b"),
        ("Models", MODEL),
        ("Policies", "default.cedar"),
        ("Alerts", None),
        ("Actions", "POST /v1/accounts/budgets"),
    ):
        page.get_by_role("tab", name=tab).click()
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        expect(page.get_by_role("tabpanel").locator(".busy")).to_have_count(0)
        if seen is not None:
            expect(row(page, seen).first).to_be_visible()
        for name in (
            "New key",
            "Revoke",
            "Disable",
            "Set a",
            "Change",
            "Remove",
            "Load",
            "Unload",
            "Fetch",
            "Clear",
            "Read",
        ):
            expect(page.get_by_role("button", name=re.compile(f"^{name}"))).to_have_count(0)
        check_accessible(page)
    key = clean.keys["observer"]
    for method, path, body in (
        ("POST", "/v1/accounts/keys", {"name": "test-mine", "scopes": ["admin"]}),
        ("DELETE", "/v1/accounts/keys/test-seen", None),
        ("POST", "/v1/accounts/budgets", {"name": "test-b", "subject": "all", "window": "day", "tokens": 1}),
        ("POST", "/models/unload", {"model": MODEL}),
        ("POST", "/v1/gateway/reload", None),
    ):
        # With the session itself, too: the page is not what holds it back.
        told = page.request.fetch(
            path, method=method, data=body, headers={"x-headrace-console": "1"}, fail_on_status_code=False
        )
        assert told.status == 403, (path, told.status)
        with pytest.raises(HTTPError, match="403"):
            clean.call(method, path, body, key=key)


def test_policies_are_shown_and_answer_what_one_may_do(
    clean: ConsoleServer, page: "Page", check_accessible: Callable[..., None]
) -> None:
    page.goto("/console/manage/policies")
    expect(page.get_by_text("They are watched")).to_be_visible()
    shown = clean.call("GET", "/v1/policy")["data"]
    expect(page.get_by_role("table", name="Policies").get_by_role("row")).to_have_count(len(shown) + 1)
    page.get_by_role("button", name=shown[0]["id"], exact=True).click()
    text = page.get_by_role("dialog")
    expect(text.get_by_text(shown[0]["effect"]).first).to_be_visible()
    text.get_by_role("button", name="Close").click()

    page.get_by_label("To", exact=True).fill(MODEL)
    page.get_by_label("Context").fill("{broken")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_label("Context")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Context").fill("")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("It would be allowed")).to_be_visible()
    page.get_by_label("May you make this").select_option("tool")
    page.get_by_label("To", exact=True).fill("transfer_money")
    page.get_by_label("Its attributes").fill('{"effect": "egress"}')
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("It would be refused, if policies were enforced")).to_be_visible()
    check_accessible(page)

    page.get_by_role("button", name="Read settings again").click()
    answer(page, "Read the settings again?", "Read again")
    expect(page.get_by_text("The settings were read again.")).to_be_visible()
    (told,) = clean.call("GET", "/v1/admin/actions?limit=1")["data"]
    assert (told["action"], told["outcome"]) == ("POST /v1/gateway/reload", "done")


def test_an_alert_says_what_is_wrong_and_a_flag_is_taken_back_under_ones_name(
    clean: ConsoleServer, page: "Page", check_accessible: Callable[..., None]
) -> None:
    secret = clean.issue("test-thief", "generate")
    budget = {"name": "test-spent", "subject": "key:test-thief", "window": "day", "tokens": 10**6}
    clean.call("POST", "/v1/accounts/budgets", budget)
    for token in (10, 11, 12):
        body = {"model": MODEL, "messages": HI, "max_tokens": 1, "logit_bias": {str(token): 5}}
        clean.call("POST", "/v1/chat/completions", body, key=secret)
    (standing,) = clean.call("POST", "/v1/accounts/budgets", budget)["standings"]
    clean.call("POST", "/v1/accounts/budgets", budget | {"tokens": standing["spent_tokens"]})
    page.goto("/console/manage/alerts")
    alerts = page.get_by_role("list", name="Alerts").get_by_role("listitem")
    expect(alerts.filter(has_text="A monitor has flagged an account: acme/key:test-thief")).to_be_visible()
    expect(alerts.filter(has_text="A budget is used up: test-spent")).to_be_visible()
    check_accessible(page)
    page.get_by_role("button", name="Clear acme/key:test-thief").click()
    answer(page, "Take these flags back?", "Take back", typed="acme/key:test-thief")
    expect(alerts.filter(has_text="flagged an account")).to_have_count(0)
    assert clean.call("GET", "/v1/monitors")["data"] == []
    (told,) = clean.call("GET", "/v1/admin/actions?limit=1")["data"]
    assert (told["action"], told["target"]) == ("POST /v1/monitors/clear", "acme/key:test-thief")
    assert (told["who"]["key"], told["who"]["through"]) == ("admin", "console")


def test_models_are_shown_with_what_they_hold_and_unloading_asks_first(clean: ConsoleServer, page: "Page") -> None:
    page.goto("/console/manage/models")
    expect(row(page, MODEL).get_by_text("ready")).to_be_visible()
    expect(page.get_by_text("This server has no folder of adapters")).to_be_visible()
    page.get_by_role("button", name=f"Unload {MODEL}").click()
    expect(page.get_by_role("dialog", name="Unload this model?")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert clean.call("GET", "/models")["data"][0]["state"] == "ready"


def test_a_thousand_keys_are_a_list_that_is_quick_and_can_be_searched(open_page: Callable[..., "Page"]) -> None:
    page = open_page()
    key = {"object": "accounts.key", "tenant": "t", "scopes": ["generate"], "priority": 0, "share": 1, "user": None}
    key |= {
        "tags": [],
        "labels": [],
        "routes": [],
        "created": 1,
        "expires": None,
        "is_disabled": False,
        "is_fixed": False,
    }
    many = {"object": "list", "data": [key | {"name": f"key-{number}"} for number in range(5000)]}
    many["data"][0]["name"] = "<img src=x onerror=alert(1)>\u202etxt"
    page.route("**/v1/accounts/keys", lambda route: route.fulfill(json=many))
    page.goto("/console/manage/keys")
    expect(page.get_by_role("row").nth(3)).to_be_visible()
    assert page.locator("tbody tr").count() < 200
    assert page.locator("img").count() == 0 and "onerror" in page.locator("tbody tr").first.inner_text()
    page.get_by_label("Filter").fill("key-4321")
    expect(page.get_by_role("row")).to_have_count(2)


def test_a_thousand_subjects_of_a_budget_have_rows_of_one_height(open_page: Callable[..., "Page"]) -> None:
    page = open_page()
    one = {"budget": "each", "window": "day", "started_at": 1, "resets_at": None, "spent": 1.5, "spent_nanos": 1}
    one |= {"reserved": 0.1, "reserved_nanos": 1, "left": 1, "left_nanos": 1, "spent_tokens": 5, "reserved_tokens": 0}
    standings = [one | {"subject": f"key:{number}", "left_tokens": 3} for number in range(1000)]
    budget = {"object": "accounts.budget", "name": "each", "subject": "key:*", "window": "day", "money": 2.6}
    budget |= {"tokens": 8, "is_fixed": False, "standings": standings, "has_more": False}
    page.route("**/v1/accounts/budgets", lambda route: route.fulfill(json={"object": "list", "data": [budget]}))
    page.goto("/console/manage/budgets")
    table = page.get_by_role("table", name="Budgets")
    expect(table.locator("tbody tr:not(.gap)").first).to_be_visible()
    # Found and measured in one breath: the window of rows may be drawn anew between two.
    heights = table.evaluate(
        "(table) => [...table.querySelectorAll('tbody tr:not(.gap)')]"
        ".map((one) => Math.round(one.getBoundingClientRect().height))"
    )
    assert len(heights) < 200 and set(heights) <= {37, 38}


def test_the_view_is_usable_on_a_phone(open_page: Callable[..., "Page"], check_accessible: Callable[..., None]) -> None:
    page = open_page(viewport={"width": 360, "height": 740})
    for tab in ("keys", "budgets", "models", "policies", "alerts", "actions"):
        page.goto(f"/console/manage/{tab}")
        expect(page.get_by_role("tabpanel").locator("h2, .notice").first).to_be_visible()
        expect(page.get_by_role("tabpanel").locator(".busy")).to_have_count(0)  # with what was read in it
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, tab
        check_accessible(page)
