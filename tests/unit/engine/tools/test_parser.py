"""Calls in every family's syntax, well and badly written, by example; `property/test_tool_text.py` has the rest."""

import json

import pytest
from tests.whole_calls import joined

from headrace.engine.tools.bare import GENERIC, LLAMA_JSON
from headrace.engine.tools.family import Family
from headrace.engine.tools.hermes import Hermes
from headrace.engine.tools.lists import MarkedList
from headrace.engine.tools.literal import LiteralReader
from headrace.engine.tools.mistral import Mistral
from headrace.engine.tools.parser import Argued, Called, CallParser, Piece, Said
from headrace.engine.tools.pythonic import Pythonic
from headrace.engine.tools.scan import Status
from headrace.engine.tools.tagged import Tagged

HERMES, PYTHONIC = Hermes(), Pythonic()
TAGGED = Tagged()
GRANITE = MarkedList("granite", "<|tool_call|>")
MISTRAL = Mistral(writes_lists=False)


def read(family: Family, text: str) -> list[Piece]:
    parser = CallParser(family, frozenset({"f", "g"}))
    told = joined([*parser.push(text), *parser.flush()])
    one_by_one = CallParser(family, frozenset({"f", "g"}))
    pieces = [piece for char in text for piece in one_by_one.push(char)]
    assert joined([*pieces, *one_by_one.flush()]) == told
    return told


F1 = [Called("f"), Argued('{"a": 1}')]
G = [Called("g"), Argued("{}")]


@pytest.mark.parametrize(
    ("family", "text", "told"),
    [
        (HERMES, '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', F1),
        (HERMES, 'Hm.\n<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', [Said("Hm."), *F1]),
        (HERMES, '<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', F1),
        (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', F1),
        (
            HERMES,
            '<tool_call>{"name": "g"}</tool_call>\n<tool_call>{"name": "g", "arguments": null}</tool_call>',
            G + G,
        ),
        # A name that no tool has: the mark says that it is a call.
        (HERMES, '<tool_call>{"name": "x", "arguments": {}}</tool_call>', [Called("x"), Argued("{}")]),
        (HERMES, "<tool_call>not JSON</tool_call>", [Said("<tool_call>not JSON</tool_call>")]),
        (HERMES, 'a < b and <tool_cal {"name"', [Said('a < b and <tool_cal {"name"')]),
        (LLAMA_JSON, '{"name": "f", "parameters": {"a": 1}}', F1),
        (LLAMA_JSON, '<|python_tag|>{"type": "function", "name": "f", "parameters": {"a": 1}}', F1),
        (LLAMA_JSON, '{"name": "f", "parameters": {"a": 1}}; {"name": "g", "parameters": {}}', F1 + G),
        (LLAMA_JSON, '{"name": "x", "parameters": {}}', [Said('{"name": "x", "parameters": {}}')]),
        (LLAMA_JSON, '<|python_tag|>print("hi")', [Said('<|python_tag|>print("hi")')]),
        (GENERIC, 'I look:\n{"name": "f", "arguments": {"a": 1}}\nDone.', [Said("I look:"), *F1, Said("Done.")]),
        (GENERIC, 'So {"name": "f", "arguments": {"a": 1}}', [Said('So {"name": "f", "arguments": {"a": 1}}')]),
        (GENERIC, '{"city": "Bern"}', [Said('{"city": "Bern"}')]),
        (MISTRAL, '[TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}, "id": "abcdefghi"}, {"name": "g"}]', F1 + G),
        (MISTRAL, '[TOOL_CALLS]f[ARGS]{"a": 1}[TOOL_CALLS]g[CALL_ID]x1[ARGS]{}', F1 + G),
        (MISTRAL, "[TOOL_CALLS]f and so on", [Said("[TOOL_CALLS]f and so on")]),
        (GRANITE, '<|tool_call|>[{"name": "f", "arguments": {"a": 1}},{"name": "g", "arguments": {}}]', F1 + G),
        (PYTHONIC, "[f(a=1), g()]", F1 + G),
        (PYTHONIC, "[f(a=1)] or\n[x(a=1)]", [*F1, Said("or\n[x(a=1)]")]),
        (PYTHONIC, "[f(1)]", [Said("[f(1)]")]),
        (PYTHONIC, "[1, 2, 3]", [Said("[1, 2, 3]")]),
        (TAGGED, "So:\n<tool_call>\n<function=g>\n</function>\n</tool_call>", [Said("So:"), *G]),
        (TAGGED, "<function=f>\n<parameter=a>\n1\n</parameter>\n</function>\n</tool_call>", F1),
        (TAGGED, '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>', F1),
        (TAGGED, "<function=x>\n</function>", [Said("<function=x>\n</function>")]),
    ],
)
def test_what_a_text_says_and_calls(family: Family, text: str, told: list[Piece]) -> None:
    assert read(family, text) == told


@pytest.mark.parametrize(
    ("family", "text", "told"),
    [
        (HERMES, '<tool_call>{"name": "f", "arguments": {"a": [1, "}', [Called("f"), Argued('{"a": [1, "}')]),
        (HERMES, '<tool_call>{"name": "f", "arg', [Said('<tool_call>{"name": "f", "arg')]),
        (
            HERMES,
            '<tool_call>{"name": "f", "arguments": {"a": </tool_call>',
            [Called("f"), Argued('{"a": '), Said("</tool_call>")],
        ),
        (TAGGED, "<tool_call><function=f><parameter=a>1", [Called("f"), Argued('{"a": ')]),
        (TAGGED, "<tool_call><function=f>what", [Called("f"), Said("what")]),
        (PYTHONIC, "[f(a='x", [Called("f"), Argued('{"a": "x')]),
        (PYTHONIC, "[f(a=b + 1)]", [Called("f"), Argued('{"a": '), Said("b + 1)]")]),
    ],
)
def test_a_call_that_breaks_off_is_told_as_far_as_it_came(family: Family, text: str, told: list[Piece]) -> None:
    assert read(family, text) == told
    parser = CallParser(family, frozenset({"f"}))
    parser.push(text)
    parser.flush()
    assert parser.num_whole == 0
    assert parser.num_calls == sum(isinstance(piece, Called) for piece in told)


SCHEMA = {
    "properties": {
        "text": {"type": "string"},
        "kind": {"enum": ["1", "2"]},
        "number": {"type": "integer"},
        "maybe": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        "either": {"type": ["string", "integer"]},
    }
}


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("text", "12", "12"),
        ("text", "a <b>\n\n</parameter", "a <b>\n\n</parameter"),
        ("text", "", ""),
        ("kind", "1", "1"),
        ("number", " 12 ", 12),
        ("number", "twelve", "twelve"),
        ("maybe", "12", "12"),
        ("maybe", "null", None),
        ("maybe", '"x"', "x"),
        ("maybe", "x", "x"),
        ("either", "12", 12),
        ("unknown", '{"a": [true]}', {"a": [True]}),
        ("unknown", "True", True),
        ("unknown", "some words", "some words"),
    ],
)
def test_a_schema_says_whether_what_stands_in_a_tag_is_text(key: str, text: str, value: object) -> None:
    said = f"<tool_call>\n<function=f>\n<parameter={key}>\n{text}\n</parameter>\n</function>\n</tool_call>"
    for pieces in ([said], list(said)):
        parser = CallParser(Tagged(), {"f": SCHEMA})
        told = joined([piece for one in pieces for piece in parser.push(one)] + parser.flush())
        assert told[0] == Called("f")
        assert [json.loads(piece[0]) for piece in told[1:]] == [{key: value}]
        assert parser.num_whole == 1


def test_a_text_in_a_tag_is_told_while_it_comes() -> None:
    parser = CallParser(Tagged(), {"f": SCHEMA})
    assert parser.push("<function=f>\n<parameter=text>\none") == [Called("f"), Argued('{"text": "one')]
    assert parser.push("\n") == []
    assert parser.push('"two"\n</para') == [Argued('\\n\\"two\\"')]
    assert parser.push("meter>\n") == [Argued('"')]
    assert parser.push("</function>") == [Argued("}")]


@pytest.mark.parametrize(
    ("family", "before", "after"),
    [
        (Hermes(), '<tool_call>\n{"name": "f", "arguments": ', "}\n</tool_call>"),
        (GENERIC, '{"name": "f", "arguments": ', "}"),
        (LLAMA_JSON, '{"name": "f", "parameters": ', "}"),
    ],
)
def test_a_raw_line_break_in_a_string_is_escaped_for_parsers_that_are_strict(
    family: Family, before: str, after: str
) -> None:
    text = before + '{"a": "one\ntwo\t\\"",\n "b": 1}' + after + "\n" + before + '{"a": "\n"}' + after
    said = [piece.text for piece in joined(read(family, text)) if isinstance(piece, Argued)]
    assert [json.loads(one) for one in said] == [{"a": 'one\ntwo\t"', "b": 1}, {"a": "\n"}]


def test_arguments_are_told_while_they_come() -> None:
    parser = CallParser(HERMES, frozenset({"f"}))
    assert parser.push('<tool_call>{"name": "f", "arguments": ') == []
    assert parser.push('{"a": "lo') == [Called("f"), Argued('{"a": "lo')]
    assert parser.push("ng") == [Argued("ng")]
    assert (parser.num_calls, parser.num_whole) == (1, 0)
    assert parser.push('"}') == [Argued('"}')]
    assert parser.num_whole == 1
    assert parser.push("}\n</tool_call>") == []


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ("a=1, b=-2.5e3, c=.5, d=1_000", {"a": 1, "b": -2500.0, "c": 0.5, "d": 1000}),
        ("a=True, b=False, c=None, d=true", {"a": True, "b": False, "c": None, "d": True}),
        ("a='it\\'s', b=\"\\\"\", c='\\n\\t\\\\\\x41\\u00e9'", {"a": "it's", "b": '"', "c": "\n\t\\A\u00e9"}),
        ("a='', b='''x'y\n''z''', c=\"é\"", {"a": "", "b": "x'y\n''z", "c": "é"}),
        ("a=[1, [], ['x',]], b={'k': {'n': None}, 2: 3}", {"a": [1, [], ["x"]], "b": {"k": {"n": None}, "2": 3}}),
        ("\n  a = 1 ,\n", {"a": 1}),
        ("", {}),
    ],
)
def test_pythons_literals_become_json_as_they_grow(arguments: str, value: object) -> None:
    for size in (1, 2, 3, 1000):
        reader, told, held = LiteralReader(), "", ""
        status = Status.OPEN
        text = f"{arguments})"
        for start in range(0, len(text), size):
            held += text[start : start + size]
            end, said, status = reader.feed(held, is_last=False)
            told, held = told + said, held[end:]
        assert status is Status.DONE and held == ""
        assert json.loads(told) == value


@pytest.mark.parametrize(
    "arguments", ["a=x", "a={1, 2}", "a=f()", "a='x' 'y'", "a=1 b=2", "a==1", "a=1.2.3", "a=b'x'", "a=)"]
)
def test_what_is_no_literal_breaks_a_call_off(arguments: str) -> None:
    reader = LiteralReader()
    _, _, status = reader.feed(f"{arguments})", is_last=True)
    assert status is Status.BROKEN
    assert not reader.is_complete
