"""An endorsement is of one exact thing, for whom it names, as long and as often as it says."""

from typing import Any

import pytest
from tests.doubles_flow import BOOK, TOOLS, tool

from headrace.core.endorsing import Endorsement
from headrace.trust.flow.arguments import UNREAD
from headrace.trust.flow.endorsement import MAX_VALUE, Asked, EndorsementBook, call_digest, fits, value_form

ASKED = Asked(tenant="t", subject="key:k", tool="pay", call="sha256:1", session="s", blocks=("a", "b"))


def endorsement(name: str = "end_1", **fields: Any) -> Endorsement:
    given: dict[str, Any] = {"tenant": "t", "by": "key:boss", "tool": "pay", "made_s": 0.0, "until_s": 100.0}
    return Endorsement(id=name, **given | {"call": "sha256:1"} | fields)


def digest(arguments: str, name: str = "pay") -> str | None:
    return call_digest(BOOK.facts(name, TOOLS), arguments)


def test_a_call_is_the_same_however_its_json_is_written() -> None:
    assert digest('{"amount": 10, "recipient": "X"}') == digest('{ "recipient":"\\u0058","amount":1e1 }')
    assert digest("") == digest("{}") == digest(" ")


@pytest.mark.parametrize(
    "other",
    [
        '{"amount": 10, "recipient": "x"}',
        '{"amount": 10, "recipient": "X "}',
        '{"amount": "10", "recipient": "X"}',
        '{"amount": 10.01, "recipient": "X"}',
        '{"amount": 10, "recipient": ["X"]}',
        '{"amount": 10, "recipient": "X", "note": ""}',
        '{"amount": 10, "recipient": "X", "note": null}',
    ],
)
def test_what_differs_at_all_is_another_call(other: str) -> None:
    first = digest('{"amount": 10, "recipient": "X"}')
    assert first is not None
    assert digest(other) not in (None, first)


def test_another_tool_and_another_declaration_are_another_call() -> None:
    changed = call_digest(BOOK.facts("pay", [tool("pay", "Pays.")]), "{}")
    assert len({digest("{}"), digest("{}", "send_mail"), changed}) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a": 1, "a": 2}',
        "[1]",
        "{",
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 9007199254740993}',
        '{"a": 9007199254740993.0}',
        '{"a": 0.1000000000000000055}',
        '{"a": "\\ud800"}',
        '{"a": ' + "[" * 200 + "]" * 200 + "}",
    ],
)
def test_what_two_readers_could_take_for_two_things_has_no_digest(arguments: str) -> None:
    assert digest(arguments) is None


def test_values_are_compared_exactly_and_as_json() -> None:
    assert value_form(5) == value_form(5.0) == "5"
    assert value_form("5") == '"5"'
    assert value_form("A") != value_form("a")
    for one in (None, True, [], {}, 2**60, 1e300, float("nan"), UNREAD, "\ud800", "x" * MAX_VALUE):
        assert value_form(one) is None


@pytest.mark.parametrize(
    ("fields", "does_fit"),
    [
        ({}, True),
        ({"session": "s", "subject": "key:k", "under": ("a",)}, True),
        ({"under": ("a", "b")}, True),
        ({"tenant": "other"}, False),
        ({"tool": "pay_all"}, False),
        ({"session": "other"}, False),
        ({"subject": "key:other"}, False),
        ({"under": ("b",)}, False),
        ({"under": ("a", "b", "c")}, False),
        ({"uses": 0}, False),
        ({"uses": None}, True),
        ({"until_s": 10.0}, False),
    ],
)
def test_it_fits_whom_it_names_while_it_holds(fields: dict[str, Any], *, does_fit: bool) -> None:
    assert fits(endorsement(**fields), ASKED, 10.0) is does_fit


def test_what_is_not_counted_is_used_before_what_is_and_what_ends_first_before_the_rest() -> None:
    kept = [
        endorsement("late", until_s=90.0),
        endorsement("early", until_s=50.0),
        endorsement("free", uses=None, until_s=99.0),
    ]
    book = EndorsementBook(kept)
    assert book.fitting(ASKED, 0.0).of_call == "free"
    book.withdraw("t", "free")
    assert book.fitting(ASKED, 0.0).of_call == "early"
    assert book.fitting(ASKED, 0.0, lambda one: one.id != "early").of_call == "late"
    assert [one.id for one in book.of_tenant("t", 60.0)] == ["late"]


def test_uses_are_spent_and_then_it_is_gone() -> None:
    book = EndorsementBook([endorsement(uses=2)])
    for left in (1, 0):
        [one] = book.spend("t", ["end_1", "end_1"])
        assert (one.uses, one.num_used) == (left, 2 - left)
    assert book.fitting(ASKED, 0.0).of_call is None
    assert book.of_tenant("t", 0.0) == ()
