"""Whatever is drawn under a grammar of calls is read back as valid calls, in every family's syntax."""

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import jsonschema
import pytest
from tests.small_vocabulary import SmallVocabulary, allowed_tokens
from tests.whole_calls import joined

from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import FormatKind, ResponseFormat, Tool
from headrace.engine.grammar.compiler import GrammarCompiler
from headrace.engine.grammar.composed import Calls, Composed, Opening
from headrace.engine.thinking import MARKS
from headrace.engine.tools.bare import GENERIC, LLAMA_JSON
from headrace.engine.tools.family import Family
from headrace.engine.tools.hermes import Hermes
from headrace.engine.tools.lists import MarkedList
from headrace.engine.tools.mistral import Mistral
from headrace.engine.tools.parser import Argued, Called, CallParser, Said
from headrace.engine.tools.pythonic import Pythonic
from headrace.engine.tools.tagged import Tagged

FAMILIES: dict[str, Family] = {
    "hermes": Hermes(),
    "generic": GENERIC,
    "llama_json": LLAMA_JSON,
    "granite": MarkedList("granite", "<|tool_call|>"),
    "mistral lists": Mistral(writes_lists=True),
    "mistral names": Mistral(writes_lists=False),
    "pythonic": Pythonic(),
    "tagged": Tagged(),
}
CONTROLS = ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", "<|tool_call|>", "<think>", "</think>"]
TOOLS = {
    tool.name: tool
    for tool in (
        Tool("f", "", {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9}}, "required": ["a"]}),
        Tool(
            "f_long",
            "says /this/",
            {
                "properties": {
                    "s": {"type": "string", "maxLength": 3, "description": 'a "word"', "default": "x"},
                    "b": {"anyOf": [{"$ref": "#/$defs/B"}, {"type": "null"}]},
                    "d": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
                },
                "required": ["b"],
                "$defs": {"B": {"type": "boolean"}},
            },
            strict=True,
        ),
        Tool("none"),
    )
}


# Where arguments are texts as they are, random ones would never end.
SHORT = {**TOOLS["f_long"].parameters["properties"], "s": {"type": "string", "enum": ["x", "<z>"]}}
LONG = replace(TOOLS["f_long"], parameters={**TOOLS["f_long"].parameters, "properties": SHORT})
TAGGED_TOOLS = {**TOOLS, "f_long": LONG}


def tools_of(family: str) -> dict[str, Tool]:
    return TAGGED_TOOLS if family == "tagged" else TOOLS


class Marked(SmallVocabulary):
    """The small vocabulary with marks as control tokens."""

    num_tokens = SmallVocabulary.num_tokens + len(CONTROLS)
    byte_table: ClassVar[list[bytes]] = [*SmallVocabulary.byte_table, *[b""] * len(CONTROLS)]
    special_tokens: ClassVar[dict[str, int]] = SmallVocabulary.special_tokens | {
        text: SmallVocabulary.num_tokens + index for index, text in enumerate(CONTROLS)
    }


@pytest.fixture(scope="module", params=[SmallVocabulary, Marked])
def vocabulary(request: pytest.FixtureRequest) -> SmallVocabulary:
    return request.param()


@pytest.fixture(scope="module")
def compiler(vocabulary: SmallVocabulary) -> Iterator[GrammarCompiler]:
    one = GrammarCompiler(vocabulary, vocabulary.num_tokens)
    yield one
    one.close()


def ids_of(vocabulary: SmallVocabulary, text: str) -> list[int]:
    for mark, token in vocabulary.special_tokens.items():
        if mark in text:
            before, _, after = text.partition(mark)
            return [*ids_of(vocabulary, before), token, *ids_of(vocabulary, after)]
    return vocabulary.encode_inside(text) if text else []


def write(compiler: GrammarCompiler, vocabulary: SmallVocabulary, form: Composed, begin: str, seed: int) -> str | None:
    """What is drawn at random behind `begin`; None if it did not end soon enough."""
    texts = {token: text.encode() for text, token in vocabulary.special_tokens.items()}
    grammar = compiler.compile(form)
    matcher = grammar.start()
    draw = random.Random(seed)
    said = b""
    for step in range(600 if form.calls is not None and form.calls.is_required else 250):
        beginning = ids_of(vocabulary, begin)
        token = beginning[step] if step < len(beginning) else draw.choice(allowed_tokens(matcher, grammar).tolist())
        if token in vocabulary.eos_ids:
            return said.decode("utf-8", "replace")
        matcher.accept(token)
        said += texts.get(token, vocabulary.byte_table[token])
    return None


def read(family: Family, text: str) -> list[tuple[str, Any]]:
    """The calls in a text that says nothing else."""
    tools = tools_of(family.name)
    parser = CallParser(family, {name: tool.parameters for name, tool in tools.items()})
    pieces = joined([*parser.push(text), *parser.flush()])
    assert not any(isinstance(piece, Said) for piece in pieces), pieces
    assert parser.num_calls == parser.num_whole
    names = [piece.name for piece in pieces if isinstance(piece, Called)]
    arguments = [json.loads(piece.text) for piece in pieces if isinstance(piece, Argued)]
    return list(zip(names, arguments, strict=True))


def check(calls: list[tuple[str, Any]]) -> None:
    for name, arguments in calls:
        jsonschema.validate(arguments, {"type": "object", **TOOLS[name].parameters})
        assert set(arguments) <= set(TOOLS[name].parameters.get("properties", arguments))


@pytest.mark.parametrize("family", FAMILIES)
def test_required_calls_are_valid_and_no_more_than_may_be(
    family: str, compiler: GrammarCompiler, vocabulary: SmallVocabulary
) -> None:
    tools = (tools_of(family)["f"], tools_of(family)["f_long"])
    form = Composed(calls=Calls(family=FAMILIES[family], tools=tools, most=3))
    seen = set()
    for seed in range(24):
        text = write(compiler, vocabulary, form, "", seed)
        assert text is not None
        calls = read(FAMILIES[family], text)
        check(calls)
        assert 1 <= len(calls) <= 3
        seen |= {(name, len(calls)) for name, _ in calls}
    assert {name for name, _ in seen} == {"f", "f_long"}
    assert len({count for _, count in seen}) > 1


BEGINNINGS = {
    "hermes": "Well.\n<tool_call>",
    "generic": 'Well.\n{"name": "f_long", "arguments":',
    "llama_json": '{"name" : "f_long","parameters":',
    "granite": "Well <|tool_call|>",
    "mistral lists": "[TOOL_CALLS]",
    "mistral names": "Well[TOOL_CALLS]",
    "pythonic": "[f_long(",
    "tagged": "Well\n<tool_call>",
}


@pytest.mark.parametrize("family", FAMILIES)
def test_free_text_turns_into_a_call_that_is_held_to_its_schema_from_where_it_begins(
    family: str, compiler: GrammarCompiler, vocabulary: SmallVocabulary
) -> None:
    tools = tuple(tools_of(family).values())
    calls = Calls(family=FAMILIES[family], tools=tools, is_required=False, held=frozenset({"f_long"}))
    form = Composed(calls=calls)
    num_ended = 0
    for seed in range(12):
        text = write(compiler, vocabulary, form, BEGINNINGS[family], seed)
        if text is None:  # what is free may go on for ever
            continue
        num_ended += 1
        said, _, _ = BEGINNINGS[family].rpartition("Well")
        called = read(FAMILIES[family], text.removeprefix("Well.").removeprefix("Well").lstrip())
        assert said == "" and called
        check(called)
    assert num_ended > 1
    # Text that only looks like one is as free as any.
    for free in ("Well <tool_cal", '{"name": "x", "arguments": 1', "[f_lon", "[TOOL_", "ok"):
        matcher = compiler.compile(form).start()
        for token in vocabulary.encode_inside(free):
            matcher.accept(token)
        assert matcher.is_accepting


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("opening", Opening)
def test_a_thought_comes_first_if_the_model_thinks(
    family: str, opening: Opening, compiler: GrammarCompiler, vocabulary: SmallVocabulary
) -> None:
    marks = MARKS[0]
    form = Composed(calls=Calls(family=FAMILIES[family], tools=(TOOLS["f"],), most=1), opening=opening, marks=marks)
    begin = {Opening.NONE: "", Opening.MAYBE: "<think>\nhm {", Opening.BEGUN: "\nhm {"}[opening]
    begin += "\n</think>" if opening is not Opening.NONE else ""
    text = write(compiler, vocabulary, form, begin, 1)
    assert text is not None and text.startswith(begin)
    check(read(FAMILIES[family], text[len(begin) :]))
    matcher = compiler.compile(form).start()
    assert not matcher.is_accepting


def test_an_answer_is_a_call_or_has_its_form(compiler: GrammarCompiler, vocabulary: SmallVocabulary) -> None:
    schema = {"type": "object", "properties": {"name": {"enum": ["ab", "foo"]}}, "required": ["name"]}
    answer = ResponseFormat(FormatKind.JSON_SCHEMA, schema={**schema, "additionalProperties": False})
    for family in FAMILIES.values():
        calls = Calls(family=family, tools=(TOOLS["f"],), is_required=False, most=1)
        form = Composed(answer=answer, calls=calls)
        seen = set()
        for seed in range(16):
            text = write(compiler, vocabulary, form, "", seed)
            if text is None:
                continue
            parser = CallParser(family, frozenset(TOOLS))
            pieces = joined([*parser.push(text), *parser.flush()])
            seen.add(parser.num_calls)
            if parser.num_calls:
                check(read(family, text))
            else:
                jsonschema.validate(json.loads("".join(piece[0] for piece in pieces)), schema)
        assert seen == {0, 1}, family.name


@pytest.mark.parametrize("name", ["mcp__a-b.c", "get x/y"])
def test_any_name_can_be_called_or_is_refused(
    name: str, compiler: GrammarCompiler, vocabulary: SmallVocabulary
) -> None:
    for key, family in FAMILIES.items():
        tool = Tool(name, "", {"properties": {}})
        form = Composed(calls=Calls(family=family, tools=(tool,), most=1))
        lazy = Composed(calls=Calls(family=family, tools=(tool,), is_required=False, held=frozenset({name})))
        if " " in name and key in ("pythonic", "mistral names", "tagged"):
            with pytest.raises(InvalidRequest, match="tools: 'get x/y'"):
                compiler.compile(form)
            continue
        text = write(compiler, vocabulary, form, "", 1)
        assert text is not None
        parser = CallParser(family, frozenset({name}))
        assert joined([*parser.push(text), *parser.flush()]) == [Called(name), Argued("{}")]
        compiler.compile(lazy)


def test_what_a_grammar_cannot_ask_for_is_refused_with_its_place(compiler: GrammarCompiler) -> None:
    def compile_tool(parameters: dict[str, Any], family: Family = GENERIC) -> None:
        compiler.compile(Composed(calls=Calls(family=family, tools=(Tool("f", "", parameters),))))

    with pytest.raises(UnsupportedField, match=r"tools: f: the keyword 'contains' at #/properties/x") as unsupported:
        compile_tool({"properties": {"x": {"type": "array", "contains": {"type": "null"}}}})
    assert unsupported.value.param == "tools"
    with pytest.raises(InvalidRequest, match="arguments are an object"):
        compile_tool({"type": "string"})
    with pytest.raises(UnsupportedField, match="'anyOf'"):
        compile_tool({"anyOf": [{}, {}]}, FAMILIES["pythonic"])
    with pytest.raises(UnsupportedField, match="no keyword of Python"):
        compile_tool({"properties": {"a-b": {}}}, FAMILIES["pythonic"])
    with pytest.raises(InvalidRequest, match="tools: the grammar has"):
        compile_tool({"properties": {"x" * 40 + str(index): {} for index in range(3000)}})
