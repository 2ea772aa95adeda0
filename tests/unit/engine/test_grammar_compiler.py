"""Every kind of form, what is refused and how, and what is remembered."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.small_vocabulary import SmallVocabulary, allowed_tokens

from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import FormatKind, ResponseFormat
from headrace.engine.grammar import compiler as compiler_module
from headrace.engine.grammar.compiler import GrammarCompiler
from headrace.engine.grammar.source import MAX_SOURCE_BYTES, find_keyword, write_source

VOCABULARY = SmallVocabulary()


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(VOCABULARY, VOCABULARY.num_tokens + 2)
    yield compiler
    compiler.close()


def accepts(compiler: GrammarCompiler, form: ResponseFormat, text: str) -> bool:
    """Whether an answer may read `text` and end there."""
    matcher = compiler.compile(form).start()
    tokens = VOCABULARY.encode_inside(text)
    if matcher.allowed_prefix(tokens) < len(tokens):
        return False
    for token in tokens:
        matcher.accept(token)
    return matcher.is_accepting


def schema(value: dict[str, Any]) -> ResponseFormat:
    return ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=value)


def source(kind: FormatKind, text: str) -> ResponseFormat:
    return ResponseFormat(kind=kind, source=text)


ARITHMETIC = """
# the style of llama.cpp's examples
root  ::= (expr "=" ws term "\\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \\t\\n]*
"""
LIST = """
root ::= item+
item ::= "- " [^\\r\\n\\x0b\\x0c\\x85\\u2028\\u2029]+ "\\n"
"""
ENTITY = """
root ::= "{" ws01 root-name "," ws01 root-age "}"
root-name ::= "\\"name\\"" ":" ws01 string
root-age ::= "\\"age\\"" ":" ws01 [0-9]{1,3}
string ::= "\\"" ([^"\\\\] | "\\\\" ["\\\\bfnrt/])* "\\"" ws01
ws01 ::= ([\\n] [ \\t]*)?
"""


@pytest.mark.parametrize(
    ("form", "text", "other"),
    [
        (ResponseFormat(kind=FormatKind.JSON_OBJECT), '{"a": [1, {"b": null}],\n  "c": "é"}', '["a"]'),
        (ResponseFormat(kind=FormatKind.JSON_OBJECT), "{}", "{} "),
        (schema({"type": "integer", "minimum": 7, "maximum": 12}), "12", "13"),
        (schema({"type": "array", "maxItems": 1.0}), "[1]", "[1,1]"),
        (ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=True), '"x"', "x"),
        (source(FormatKind.REGEX, r"\d{2}/\d\/[^/]"), "12/3/a", "12/3//"),
        (source(FormatKind.REGEX, "a\nb|c\\\\/"), "c\\/", "a b"),
        (ResponseFormat(kind=FormatKind.CHOICE, choices=('a"\\', "\x00\x7f\n", "é\u2028", "/", "")), "\x00\x7f\n", "a"),
        (ResponseFormat(kind=FormatKind.CHOICE, choices=("red", "red wine")), "red", "red wi"),
        (source(FormatKind.LARK, 'start: "a" X+ "!"\nX: /[0-9]+/ | "b"'), "a12b!", "ab"),
        (source(FormatKind.LARK, 'start: <start> %json {"type": "null"}'), "", "null"),
        (source(FormatKind.GBNF, ARITHMETIC), "a+12*(b -3)=7\n", "a+=7\n"),
        (source(FormatKind.GBNF, LIST), "- foo\n- bär\n", "- foo"),
        (source(FormatKind.GBNF, ENTITY), '{"name":"a\\"b","age":\n 12}', '{"name":"a","age":1234}'),
        (source(FormatKind.GBNF, 'root ::= "\\u00e9" [\\u0061-c] "\\u0022"'), 'éb"', 'éd"'),
    ],
)  # fmt: skip
def test_each_kind_takes_what_it_describes_and_nothing_else(
    compiler: GrammarCompiler, form: ResponseFormat, text: str, other: str
) -> None:
    assert accepts(compiler, form, text) or "<start>" in form.source
    assert not accepts(compiler, form, other)


@given(st.lists(st.text(max_size=8), min_size=1, max_size=6))
def test_any_text_can_be_chosen(compiler: GrammarCompiler, texts: list[str]) -> None:
    form = ResponseFormat(kind=FormatKind.CHOICE, choices=tuple(texts))
    assert all(accepts(compiler, form, text) for text in texts)


@pytest.mark.parametrize(
    ("form", "sentence"),
    [
        (schema({"properties": {"a/b": {"items": {"contains": {}}}}}), "'contains' at #/properties/a~1b/items is"),
        (ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=False), "keyword 'not' at # is not supported"),
        (ResponseFormat(kind=FormatKind.JSON_SCHEMA), "no schema is given"),
        (schema({"enum": [float("nan")]}), "Out of range float"),
        (schema({"properties": {"a": False}, "required": ["a"], "type": "object"}), "Unsatisfiable"),
        (schema({"oneOf": [{"type": "integer"}, {"minimum": 2}]}), "oneOf"),
        (schema({"$ref": "https://example.org/s"}), "not present"),
        (schema({"type": "object", "minProperties": 2}), "minProperties 2 at # asks"),
        (schema({"x-guidance": {"lenient": True}, "contains": {}}), "x-guidance may hold"),
        (schema({"description": "x" * MAX_SOURCE_BYTES}), "bytes; at most 131072"),
        (source(FormatKind.REGEX, ""), "regex is empty"),
        (source(FormatKind.REGEX, "(?=a)b"), "look-around"),
        (source(FormatKind.REGEX, r"[^\s\S]"), "no text that this model can write"),
        (source(FormatKind.REGEX, "\ud800"), "half of a surrogate pair at character 0"),
        (source(FormatKind.LARK, "start: X"), "unknown name"),
        (source(FormatKind.LARK, 'start: a\na[lazy, max_tokens=3]: "x"'), "option max_tokens of line 2 is"),
        (source(FormatKind.GBNF, 'root ::= "a" b'), "rule 'b' is used and not defined"),
        (source(FormatKind.GBNF, 'start ::= "a"'), "root"),
        (source(FormatKind.GBNF, "root ::= " + '"a" ' * 5000), "20009 characters; at most 16384"),
        (ResponseFormat(kind=FormatKind.CHOICE), "0 texts are given"),
        (ResponseFormat(kind=FormatKind.CHOICE, choices=("a", "\udc00")), "half of a surrogate pair"),
        (ResponseFormat(kind=FormatKind.JSON_OBJECT, after="<start>x"), "mixes a control token and text"),
        (ResponseFormat(kind=FormatKind.JSON_OBJECT, after="x" * 257), "after: 257 characters"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_with_its_place(
    compiler: GrammarCompiler, form: ResponseFormat, sentence: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        compiler.compile(form)
    assert sentence in caught.value.message
    assert caught.value.message.startswith("response_format: ") and caught.value.param == "response_format"
    assert len(caught.value.message) < 450 and "\n" not in caught.value.message


def test_a_schema_that_nests_without_end_is_refused_before_it_is_compiled() -> None:
    deep: dict[str, Any] = {}
    for _ in range(200):
        deep = {"items": deep}
    with pytest.raises(InvalidRequest, match="nested deeper"):
        write_source(schema(deep), {})
    for _ in range(5000):
        deep = {"items": deep}
    with pytest.raises(InvalidRequest, match="recursion"):
        write_source(schema(deep), {})


def test_a_model_without_an_ending_token_cannot_be_held_to_a_form() -> None:
    class Endless(SmallVocabulary):
        eos_ids = frozenset()  # type: ignore[var-annotated]

    compiler = GrammarCompiler(Endless(), Endless.num_tokens)
    with pytest.raises(UnsupportedField, match="no token that ends"):
        compiler.compile(ResponseFormat(kind=FormatKind.JSON_OBJECT))


def test_a_place_is_not_looked_for_in_names_and_values() -> None:
    assert find_keyword(
        {"properties": {"not": {}}, "const": {"not": 1}, "items": {"anyOf": [{}, {"not": {}}]}}, "not"
    ) == ("#/items/anyOf/1")
    assert find_keyword({"$defs": {"if": {}}}, "if") is None


def test_blanks_are_bounded_and_a_schema_can_do_without() -> None:
    compiler = GrammarCompiler(VOCABULARY, VOCABULARY.num_tokens)
    form = ResponseFormat(kind=FormatKind.JSON_OBJECT)
    assert accepts(compiler, form, '{ "a" :\n    1\n}')
    assert not accepts(compiler, form, '{  "a": 1}') and not accepts(compiler, form, '{\n\n"a": 1}')
    compact = schema({"type": "object", "x-guidance": {"whitespace_flexible": False}})
    assert accepts(compiler, compact, '{"a":1}') and not accepts(compiler, compact, '{"a": 1}')
    compiler.close()


def test_rows_of_the_head_without_a_token_and_control_tokens_are_in_no_mask(compiler: GrammarCompiler) -> None:
    grammar = compiler.compile(source(FormatKind.REGEX, "(?s:.*)"))
    allowed = allowed_tokens(grammar.start(), grammar)
    assert max(allowed) == max(VOCABULARY.eos_ids)
    assert VOCABULARY.special_tokens["<start>"] not in allowed


def test_grammars_are_remembered_by_what_they_say_and_the_oldest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_module, "MAX_GRAMMARS", 2)
    compiler = GrammarCompiler(VOCABULARY, VOCABULARY.num_tokens)
    forms = [ResponseFormat(kind=FormatKind.CHOICE, choices=(text,)) for text in "abc"]
    first, second = compiler.compile(forms[0]), compiler.compile(forms[1])
    assert compiler.compile(forms[0]) is first
    compiler.compile(forms[2])
    assert compiler.compile(forms[0]) is first
    assert compiler.compile(forms[1]) is not second


def test_the_order_of_properties_is_part_of_what_a_schema_says() -> None:
    one, two = {"a": {}, "b": {}}, {"b": {}, "a": {}}
    assert write_source(schema({"properties": one}), {}) != write_source(schema({"properties": two}), {})
    assert json.loads(write_source(schema({"properties": one}), {}))["grammars"]


def test_what_was_compiled_before_is_found_without_compiling(compiler: GrammarCompiler) -> None:
    form = source(FormatKind.REGEX, "a quite particular [0-9]+")
    assert compiler.find(form) is None
    grammar = compiler.compile(form)
    assert compiler.find(ResponseFormat(kind=FormatKind.REGEX, source=form.source)) is grammar
    assert compiler.find(schema({"enum": [float("nan")]})) is None


def test_a_grammar_that_would_end_the_process_is_refused_and_the_next_one_is_compiled(
    compiler: GrammarCompiler,
) -> None:
    chain = "\n".join(f'x{i}: "(" x{i + 1} ")"' for i in range(5000))
    with pytest.raises(InvalidRequest, match="refers too deeply"):
        compiler.compile(source(FormatKind.LARK, f'start: x0\n{chain}\nx5000: "a"'))
    assert accepts(compiler, source(FormatKind.LARK, 'start: "(" "a" ")"'), "(a)")
