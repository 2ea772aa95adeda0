"""The view "Play" with the real model: answers stream in, are looked into token by token, and their records verify."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tests.console.browser import expect
from tests.console.served import MODEL, ConsoleServer
from tests.console.tampering import CHANGES
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.trust.records.bundle import Bundle, read_bundle
from headrace.trust.records.keys import SPKI_ED25519
from headrace.trust.records.node_key import NodeKey

if TYPE_CHECKING:
    from playwright.sync_api import Page

COMPACT: dict[str, Any] = {"ensure_ascii": False, "separators": (",", ":")}
Open = Callable[..., "Page"]
Check = Callable[["Page"], None]


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
    page.get_by_label("Max tokens").fill("8")
    page.get_by_label("Temperature").fill("0")
    say(page, "Say hello.")
    answer = answers(page).first
    expect(answer.get_by_text("complete")).to_be_visible()
    expect(answer.get_by_text("Time to first token")).to_be_visible()
    expect(answer.get_by_text("8 tokens", exact=True)).to_be_visible()
    check_accessible(page)
    shoot(page, "play")


def short(page: "Page", num_tokens: int = 12) -> None:
    page.get_by_text("Parameters").click()
    page.get_by_label("Max tokens").fill(str(num_tokens))
    page.get_by_label("Temperature").fill("0")


def asked(page: "Page", text: str = "Say hello.") -> Any:
    """The newest answer, once it is whole."""
    count = answers(page).count()
    say(page, text)
    answer = answers(page).nth(count)
    expect(answer.get_by_text("complete")).to_be_visible()
    return answer


def verified(answer: Any) -> Any:
    """The answer's record, verified; the region that says how that went."""
    record = answer.get_by_role("button", name="Record", exact=True)
    if record.get_attribute("aria-pressed") != "true":
        record.click()
    answer.get_by_role("button", name="Verify in this browser").click()
    report = answer.get_by_role("region", name="What was verified")
    expect(report.get_by_role("status")).not_to_be_empty()
    return report


def test_a_record_is_verified_in_the_browser(open_page: Open, check_accessible: Check, shoot: Any) -> None:
    page = opened(open_page, "chat", viewport={"width": 1200, "height": 1500})
    short(page)
    page.get_by_label("System prompt").fill("Be kind.")
    report = verified(asked(page))
    expect(report).to_contain_text("Level: logged")
    expect(report.locator("li.met strong")).to_have_text(
        ["form", "delegation", "signature", "time", "nonce", "answer", "meaning", "request", "log"]
    )
    expect(report.locator("li.not")).to_have_count(0)
    expect(report).to_contain_text("A server cannot vouch for itself")
    check_accessible(page)
    shoot(page, "play-record")
    page.emulate_media(color_scheme="dark")
    check_accessible(page)


WHEN_FIRST_DRAWN = """(record) => new Promise((resolve) => {
    const look = (_, watching) => {
      const buttons = [...document.querySelectorAll("button")];
      const verify = buttons.find((one) => one.textContent === "Verify in this browser");
      if (!verify) return;
      watching.disconnect();
      resolve(verify.ariaBusy);
    };
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true });
    record.click();
})"""


def test_a_record_that_is_still_read_cannot_be_verified_yet(open_page: Open) -> None:
    """Not even in the moment in which the button appears: that press would be lost."""
    answer = asked(opened(open_page), "Hello?")
    record = answer.get_by_role("button", name="Record", exact=True)
    assert record.evaluate(WHEN_FIRST_DRAWN) == "true"
    expect(verified(answer)).to_contain_text("Level: logged")


def test_what_is_saved_verifies_with_the_command(
    open_page: Open, console_server: ConsoleServer, tmp_path: Path
) -> None:
    page = opened(open_page, "chat")
    short(page)
    answer = asked(page)
    verified(answer)
    env = {"HEADRACE_HOME": str(console_server.home)}
    trust = CliRunner().invoke(app, ["log", "trust-file", "--config", str(console_server.file)], env=env)
    assert trust.stdout == console_server.call("GET", "/v1/provenance/trust-file"), trust.output
    (tmp_path / "trust").write_text(trust.stdout, "utf-8")
    for name in ("record", "answer", "request"):
        with page.expect_download() as download:
            answer.get_by_role("button", name=f"Save {name}").click()
        download.value.save_as(tmp_path / name)
    given = [f"--{name}={tmp_path / name}" for name in ("record", "request", "trust")]
    result = CliRunner().invoke(app, ["verify", str(tmp_path / "answer"), *given])
    assert result.exit_code == 0, result.output
    assert "Level reached: logged" in result.output


def tampered(page: "Page", change: Callable[[Bundle], Bundle]) -> None:
    """From now on the server's records come changed, with a checksum that fits."""

    def handle(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=change(read_bundle(answer.body())).encode())

    page.unroute("**/v1/provenance/rec_*")
    page.route("**/v1/provenance/rec_*", handle)


def test_a_record_that_was_tampered_with_is_refused_with_its_clause(open_page: Open, shoot: Any) -> None:
    page = opened(open_page, "chat", viewport={"width": 1200, "height": 1200})
    short(page)
    answer = asked(page)
    for change, clause in CHANGES:
        tampered(page, change)
        report = verified(answer)
        expect(report).to_contain_text("Not verified")
        expect(report.locator("li.not strong")).to_have_text([clause])
        expect(answer.get_by_role("region", name="What the record states")).to_contain_text("do not go by it")
    shoot(page, "play-tampered")
    page.unroute("**/v1/provenance/rec_*")
    expect(verified(answer)).to_contain_text("Level: logged")


def test_the_record_of_another_answer_is_refused_and_no_keys_are_kept_for_it(
    open_page: Open, console_server: ConsoleServer
) -> None:
    page = opened(open_page, "scripted")
    with page.expect_response("**/v1/chat/completions") as first:
        asked(page, "Hello?")
    other = first.value.headers["x-headrace-record"]
    answer = asked(page, "Hello again?")
    bundle = read_bundle(
        json.dumps(console_server.call("GET", f"/v1/provenance/{other}?wait_s=10"), **COMPACT).encode()
    )
    tampered(page, lambda _: bundle)
    report = verified(answer)
    expect(report.locator("li.not strong")).to_have_text(["form"])
    expect(report).to_contain_text(f"and this is {other}")
    assert page.evaluate("localStorage['headrace:trust']") is None


def test_an_answer_that_was_changed_on_its_way_is_refused(open_page: Open) -> None:
    page = opened(open_page, "chat")
    short(page)

    def handle(route: Any) -> None:
        came = route.fetch()
        route.fulfill(response=came, body=came.body().replace(b"Hello", b"Hallo"))

    page.route("**/v1/chat/completions", handle)
    answer = asked(page)
    expect(answer.locator(".answer")).to_contain_text("Hallo")
    report = verified(answer)
    expect(report.locator("li.not strong")).to_have_text(["answer"])
    expect(report).to_contain_text("not those that were sent")


def test_other_keys_than_before_are_told_loudly_and_not_taken_over(
    open_page: Open, console_server: ConsoleServer
) -> None:
    page = opened(open_page, "chat")
    short(page)
    answer = asked(page)
    expect(verified(answer)).to_contain_text("Level: logged")
    own = console_server.call("GET", "/v1/provenance/trust-file")
    other = own.replace("quorum none", f"{stranger_line()}\nquorum none")
    page.route("**/v1/provenance/trust-file", lambda route: route.fulfill(body=other))
    report = verified(answer)
    expect(report.get_by_role("alert")).to_contain_text("The server tells other keys than those that you trust")
    expect(report).to_contain_text("Level: logged")
    page.reload()
    assert json.loads(page.evaluate("localStorage['headrace:trust']"))["text"] == own


def stranger_line() -> str:
    """A node that is none of ours."""
    key = Ed25519PrivateKey.from_private_bytes(b"\5" * 32).public_key().public_bytes_raw()
    return f"node stranger {NodeKey('stranger', SPKI_ED25519 + key).encode()}"


def test_a_trust_file_can_be_picked_and_one_of_strangers_verifies_nothing(
    open_page: Open, console_server: ConsoleServer
) -> None:
    page = opened(open_page, "chat")
    short(page)
    answer = asked(page)
    answer.get_by_role("button", name="Record", exact=True).click()
    answer.get_by_text("Trusted keys: none yet").click()
    picker = answer.get_by_label("Trust file").last

    def pick(text: str) -> None:
        picker.set_input_files({"name": "trust.txt", "mimeType": "text/plain", "buffer": text.encode()})

    pick("nodes a b\n")
    expect(answer.get_by_text("is no word of a trust file", exact=False)).to_be_visible()
    # Each is read first, and what was verified with others is gone.
    pick(stranger_line() + "\n")
    expect(answer.get_by_text("Trusted keys: from a file")).to_be_visible()
    report = verified(answer)
    expect(report.locator("li.not strong")).to_have_text(["delegation"])
    pick(console_server.call("GET", "/v1/provenance/trust-file"))
    expect(report).to_have_count(0)
    report = verified(answer)
    expect(report).to_contain_text("Level: logged")
    expect(report).to_contain_text("a file that you picked")


def test_tokens_tell_their_probabilities_to_the_pointer_and_the_keyboard(
    open_page: Open, check_accessible: Check, shoot: Any
) -> None:
    page = opened(open_page, "chat")
    short(page)
    page.get_by_label("Show token probabilities").check()
    answer = asked(page)
    answer.get_by_role("button", name="Tokens").click()
    tokens = answer.get_by_role("listbox", name="Tokens of the answer, each with its probability").get_by_role("option")
    expect(tokens).to_have_count(12)
    expect(tokens.first).to_have_accessible_name(re.compile(r'^"Hello": [0-9.]+ %$'))
    detail = answer.locator(".token-detail")
    tokens.nth(2).hover()
    expect(detail.get_by_role("listitem")).to_have_count(5)
    tokens.first.focus()
    page.keyboard.press("ArrowRight")
    expect(tokens.nth(1)).to_be_focused()
    expect(detail).to_contain_text("%")
    page.keyboard.press("End")
    expect(tokens.nth(11)).to_be_focused()
    check_accessible(page)
    shoot(page, "play-tokens")
    page.emulate_media(color_scheme="dark")
    check_accessible(page)


def test_what_was_cached_of_the_prompt_is_shown(open_page: Open, check_accessible: Check, shoot: Any) -> None:
    page = opened(open_page, "chat")
    short(page, 4)
    page.get_by_label("System prompt").fill("You are a keeper of bees, who answers in few words. " * 12)
    asked(page, "What do bees eat?")
    answer = asked(page, "And in winter?")
    answer.get_by_role("button", name="Prompt").click()
    tokens = answer.get_by_role("listbox", name="Tokens of the prompt, the cached ones first").get_by_role("option")
    expect(tokens.first).to_have_accessible_name(re.compile("cached, token"))
    expect(tokens.last).to_have_accessible_name(re.compile("computed, token"))
    told = answer.get_by_text("tokens were found in the cache", exact=False).inner_text()
    cached, count = map(int, re.match(r"(\d+) of (\d+)", told).groups())  # type: ignore[union-attr]
    assert 0 < cached < count
    expect(answer.locator(".token-list .token.cached")).to_have_count(cached)
    expect(tokens).to_have_count(count)
    check_accessible(page)
    shoot(page, "play-prompt")


def test_two_models_answer_the_same_side_by_side(open_page: Open, check_accessible: Check, shoot: Any) -> None:
    page = opened(open_page, "chat")
    short(page)
    asked(page)
    page.get_by_role("button", name="Side by side").click()
    choose(page, "scripted", "Second model")
    say(page, "And now?")
    both = page.get_by_role("region", name="Turn 2").get_by_role("article")
    expect(both).to_have_count(2)
    expect(both.get_by_text("complete")).to_have_count(2)
    expect(both.nth(1).locator(".answer")).to_have_text("It works.")
    expect(both.get_by_text("Time to first token")).to_have_count(2)
    table = page.get_by_role("table", name="The two answers compared")
    expect(table.get_by_role("row", name="Time to first token")).to_be_visible()
    expect(table.get_by_role("row", name="Cost")).to_be_visible()
    expect(table).to_contain_text("better")
    check_accessible(page)
    shoot(page, "play-both")


def test_a_tool_is_called_answered_and_gone_on_with(open_page: Open) -> None:
    page = opened(open_page, "scripted")
    page.get_by_text("Tools", exact=True).click()
    tools = page.get_by_label("Tools, as JSON")
    tools.fill("[{]")
    expect(page.get_by_text("line 1, column 3", exact=False).first).to_be_visible()
    tools.fill('[{"type": "function", "function": {"name": ""}}]')
    expect(page.get_by_text("tools[0].function.name", exact=False).first).to_be_visible()
    tools.fill('[{"type": "function", "function": {"name": "get_weather"}}]')
    answer = asked(page, "What is it like?")
    calls = answer.get_by_role("region", name="Tool calls")
    expect(calls).to_contain_text("get_weather")
    expect(calls).to_contain_text("Paris")
    calls.get_by_label("What tool 1 says").fill("sunny")
    calls.get_by_role("button", name="Go on with these results").click()
    expect(answers(page).nth(1).locator(".answer")).to_have_text("It works.")
    report = verified(answers(page).nth(1))
    expect(report).to_contain_text("Level: logged")


def test_reasoning_is_told_apart(open_page: Open) -> None:
    page = opened(open_page, "scripted")
    answer = asked(page, "think")
    expect(answer.locator(".answer")).to_have_text("Then I say.")
    answer.get_by_text("Reasoning", exact=True).click()
    expect(answer.get_by_text("First I think.")).to_be_visible()


def test_a_refusal_of_the_server_is_told_in_its_words(open_page: Open, console_server: ConsoleServer) -> None:
    page = opened(open_page, "scripted")
    say(page, "refuse")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("There is no answer")
    expect(alert).to_contain_text("<b>busy</b> for now")
    console_server.wait_for_rest("scripted")


def test_the_conversation_is_saved_as_json(open_page: Open) -> None:
    page = opened(open_page, "scripted")
    asked(page, "Hello?")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as JSON").click()
    saved = json.loads(download.value.path().read_text("utf-8"))
    assert saved["format"] == "headrace-conversation-v1"
    (lane,) = saved["lanes"]
    assert lane["messages"] == [
        {"role": "user", "content": "Hello?"},
        {"role": "assistant", "content": "It works."},
    ]
    assert lane["answers"][0]["usage"]["completionTokens"] > 0


def test_it_can_be_used_on_a_phone_and_in_the_dark(open_page: Open, check_accessible: Check, shoot: Any) -> None:
    page = opened(open_page, "scripted", viewport={"width": 360, "height": 740}, color_scheme="dark")
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Show token probabilities").check()
    page.get_by_text("Settings", exact=True).click()
    answer = asked(page, "Hello?")
    check_accessible(page)
    shoot(page, "play-phone")
    answer.get_by_role("button", name="Tokens").click()
    expect(answer.get_by_role("listbox", name="Tokens of the answer")).to_be_attached()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    expect(verified(answer)).to_contain_text("Level: logged")
    page.get_by_role("button", name="Side by side").click()
    expect(page.get_by_role("combobox", name="Second model")).to_be_attached()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    check_accessible(page)


def test_whoever_has_not_the_scope_is_told_why_less_is_told(open_page: Open) -> None:
    page = opened(open_page, "scripted", role="user")
    page.get_by_label("Show token probabilities").check()
    answer = asked(page, "Hello?")
    answer.get_by_role("button", name="Tokens").click()
    expect(answer.get_by_text("the scope `logprobs`", exact=False)).to_be_visible()


def test_the_next_person_in_the_same_tab_does_not_see_the_conversation(
    open_page: Open, console_server: ConsoleServer
) -> None:
    page = opened(open_page, "scripted")
    asked(page, "A secret.")
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("API key or token").fill(console_server.keys["user"])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("Message")).to_be_visible()
    expect(page.get_by_text("A secret.")).to_have_count(0)


@pytest.mark.parametrize(
    ("lacks", "sentence"),
    [
        ("Object.defineProperty(Crypto.prototype, 'subtle', {get: () => undefined})", "offers no WebCrypto here"),
        (
            "const known = SubtleCrypto.prototype.importKey; SubtleCrypto.prototype.importKey = function (...given) {"
            " if (given[2].name === 'Ed25519') throw new DOMException('no', 'NotSupportedError');"
            " return known.apply(this, given); }",
            "has no Ed25519",
        ),
    ],
)
def test_a_browser_that_lacks_the_means_says_so_and_claims_nothing(open_page: Open, lacks: str, sentence: str) -> None:
    page = open_page()
    page.add_init_script(lacks)
    page.goto("/console/play")
    choose(page, "scripted")
    answer = asked(page, "Hello?")
    answer.get_by_role("button", name="Record", exact=True).click()
    answer.get_by_role("button", name="Verify in this browser").click()
    expect(answer.get_by_text(sentence, exact=False).first).to_be_visible()
    expect(answer.get_by_text("Level:")).to_have_count(0)
    expect(answer.get_by_text("verified", exact=True)).to_have_count(0)


def test_a_sign_in_that_ends_keeps_the_conversation_and_goes_on_after_the_next(
    open_page: Open, console_server: ConsoleServer
) -> None:
    first, second = (console_server.issue(f"play-{number}", "generate") for number in range(2))
    page = opened(open_page, "scripted", role=None, key=first)
    asked(page, "Hello?")
    console_server.call("DELETE", "/v1/accounts/keys/play-0")
    say(page, "And now?")
    dialog = page.get_by_role("dialog", name="Your sign-in has ended")
    expect(dialog).to_be_visible()
    expect(page.get_by_text("It works.")).to_be_visible()
    dialog.get_by_label("API key or token").fill(first)
    dialog.get_by_role("button", name="Sign in").click()
    expect(dialog.get_by_text("API key is not valid", exact=False)).to_be_visible()
    dialog.get_by_label("API key or token").fill(second)
    dialog.get_by_role("button", name="Sign in").click()
    expect(dialog).to_be_hidden()
    # Somebody else, as far as the page can tell: nothing of the first is left to see.
    expect(page.get_by_text("Hello?")).to_have_count(0)
    console_server.call("DELETE", "/v1/accounts/keys/play-1")


def test_the_prompt_of_a_model_that_runs_elsewhere_is_told_by_its_counts(open_page: Open) -> None:
    page = opened(open_page, "scripted")
    answer = asked(page, "Hello?")
    answer.get_by_role("button", name="Prompt").click()
    expect(answer.get_by_text("tokens were found in the cache", exact=False)).to_be_visible()
    expect(answer.get_by_text("The prompt cannot be shown token by token")).to_be_visible()


def test_all_of_it_is_done_by_the_keyboard(open_page: Open) -> None:
    page = open_page()
    page.goto("/console/play")
    box = page.get_by_role("combobox", name="Model")
    box.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.type("scripted")
    page.keyboard.press("Enter")
    expect(box).to_have_value("scripted")
    page.get_by_label("Message").focus()
    page.keyboard.type("hold")
    page.keyboard.press("Control+Enter")
    answer = answers(page).first
    expect(answer.locator(".answer")).to_contain_text("one two")
    page.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Enter")
    expect(answer.get_by_text("stopped")).to_be_visible()
    answer.get_by_role("button", name="Record", exact=True).focus()
    page.keyboard.press("Space")
    expect(answer.get_by_role("button", name="Verify in this browser")).to_be_visible()
