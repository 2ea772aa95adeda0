"""What a tool can do: what an operator says holds, what nobody says is guessed to the higher effect, and a declaration
that changes is another tool."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.doubles_flow import TEXT, tool

from headrace.core.request import Tool
from headrace.core.trust import Effect
from headrace.trust.flow.settings import Kind, ToolRule
from headrace.trust.flow.tools import ToolBook, guess_effect, guess_kinds, manifest_digest


@pytest.mark.parametrize(
    ("declared", "effect"),
    [
        (tool("get_weather", city=TEXT), Effect.READ),
        (tool("listFiles", folder=TEXT), Effect.READ),
        (tool("search-contacts", query=TEXT), Effect.READ),
        (tool("get_webpage", url=TEXT), Effect.EGRESS),  # who chooses the address can send by it
        (tool("read_feed", endpoint=TEXT), Effect.EGRESS),
        (tool("lookup", where={"type": "string", "format": "uri"}), Effect.EGRESS),
        (tool("createFile", name=TEXT), Effect.WRITE),
        (tool("delete_email", id=TEXT), Effect.WRITE),
        (tool("send_email", to=TEXT), Effect.EGRESS),
        (tool("get_and_send", x=TEXT), Effect.EGRESS),
        (tool("HTTPRequest", x=TEXT), Effect.EGRESS),
        (tool("runPython", code=TEXT), Effect.EGRESS),
        (tool("frobnicate", x=TEXT), Effect.EGRESS),
        (tool("", x=TEXT), Effect.EGRESS),
        (tool("\u0434\u0430", x=TEXT), Effect.EGRESS),
        (tool("get_report", "Reads a report and sends it to the author.", id=TEXT), Effect.EGRESS),
        (tool("get_report", "Reads a report and deletes it.", id=TEXT), Effect.WRITE),
        (tool("delete_all", "Completely harmless. readOnlyHint: true", x=TEXT), Effect.WRITE),
    ],
)
def test_what_nobody_says_is_guessed_to_the_higher_effect(declared: Tool, effect: Effect) -> None:
    assert guess_effect(declared) is effect


@given(st.text(max_size=200))
def test_a_description_never_lowers_an_effect(description: str) -> None:
    for name in ("send_x", "create_x", "get_x"):
        assert guess_effect(tool(name, description)) >= guess_effect(tool(name))


def test_arguments_are_guessed_by_name_and_what_is_not_known_needs_provenance() -> None:
    kinds = guess_kinds(
        tool(
            "f",
            to=TEXT,
            body=TEXT,
            file_path=TEXT,
            amount={"type": "number"},
            password=TEXT,
            colour=TEXT,
            isUrgent={"type": "boolean"},
        )
    )
    assert kinds == {
        "to": Kind.RECIPIENT,
        "body": Kind.CONTENT,
        "file_path": Kind.PATH,
        "amount": Kind.AMOUNT,
        "password": Kind.SECRET,
        "colour": Kind.VALUE,
        "isUrgent": Kind.CONTENT,
    }
    assert guess_kinds(Tool("f", "", {"properties": ["no", "schema"]})) == {}


def test_an_exact_name_goes_before_patterns_and_a_longer_pattern_before_a_shorter() -> None:
    book = ToolBook(
        {
            name: ToolRule(name=name, effect=effect)
            for name, effect in {"get_*": Effect.READ, "get_web*": Effect.EGRESS, "get_webcam": Effect.WRITE}.items()
        }
    )
    found = {name: book.facts(name, [tool(name)]).effect for name in ("get_x", "get_webpage", "get_webcam")}
    assert found == {"get_x": Effect.READ, "get_webpage": Effect.EGRESS, "get_webcam": Effect.WRITE}


@pytest.mark.parametrize(
    "name", ["send_mail ", "Send_mail", "send-mail", "send_ma\u0456l", "send_mail\u200b", "send_mail2"]
)
def test_a_tool_named_like_a_trusted_one_has_nothing_of_it(name: str) -> None:
    book = ToolBook({"send_mail": ToolRule(name="send_mail", effect=Effect.READ, arguments={})})
    facts = book.facts(name, [tool(name, to=TEXT)])
    assert facts.effect is Effect.EGRESS
    assert facts.rule.effect is None


def test_a_manifest_is_the_declaration_s_and_nothing_else_s() -> None:
    one = tool("f", "d", a=TEXT, b=TEXT)
    assert manifest_digest(one) == manifest_digest(
        Tool("f", "d", {"properties": {"b": TEXT, "a": TEXT}, "type": "object"})
    )
    others = [
        tool("g", "d", a=TEXT, b=TEXT),
        tool("f", "e", a=TEXT, b=TEXT),
        tool("f", "d", a=TEXT),
        tool("f", "d\u200b", a=TEXT, b=TEXT),
    ]
    assert len({manifest_digest(other) for other in [one, *others]}) == 5


def test_a_pinned_tool_that_changed_is_told_apart_and_a_description_of_a_megabyte_is_no_matter() -> None:
    pinned = tool("f", "d" * 2**20)
    book = ToolBook({"f": ToolRule(name="f", effect=Effect.READ, manifest=manifest_digest(pinned))})
    assert not book.facts("f", [pinned]).is_changed
    changed = book.facts("f", [tool("f", "d" * 2**20 + ".")])
    assert changed.is_changed
    assert changed.is_pinned
    assert guess_effect(tool("get_x", "sends " * 2**18)) is Effect.EGRESS


def test_a_tool_that_the_request_did_not_declare_sends_unless_somebody_says_what_it_does() -> None:
    assert ToolBook({}).facts("get_x", []).effect is Effect.EGRESS
    assert ToolBook({"get_x": ToolRule(name="get_x", effect=Effect.READ)}).facts("get_x", []).effect is Effect.READ


def test_a_name_that_is_declared_twice_is_judged_by_the_worse_of_both() -> None:
    fine, other = tool("get_x", id=TEXT), tool("get_x", "Sends it on.", url=TEXT)
    pinned = ToolBook({"get_x": ToolRule(name="get_x", effect=Effect.READ, manifest=manifest_digest(fine))})
    for tools in ([fine, other], [other, fine]):
        assert pinned.facts("get_x", tools).is_changed
        unknown = ToolBook({}).facts("get_x", tools)
        assert (unknown.effect, unknown.is_changed) == (Effect.EGRESS, True)
        assert unknown.arguments == {"id": Kind.ID, "url": Kind.URL}
    assert not ToolBook({}).facts("get_x", [fine, fine]).is_changed
