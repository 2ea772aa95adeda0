"""However a text is cut into pieces, the same is said and called: what a naive reader of the whole text finds."""

from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.whole_calls import Unknown, joined, read_whole

from headrace.engine.tools.bare import GENERIC, LLAMA_JSON
from headrace.engine.tools.family import Family
from headrace.engine.tools.hermes import Hermes
from headrace.engine.tools.lists import MarkedList
from headrace.engine.tools.mistral import Mistral
from headrace.engine.tools.parser import CallParser, Piece
from headrace.engine.tools.pythonic import Pythonic
from headrace.engine.tools.tagged import Tagged

NAMES = {"f": {"properties": {"a": {"type": "string"}}}, "add": {}}
FAMILIES: dict[str, Family] = {
    "hermes": Hermes(),
    "generic": GENERIC,
    "llama_json": LLAMA_JSON,
    "granite": MarkedList("granite", "<|tool_call|>"),
    "mistral_lists": Mistral(writes_lists=True),
    "pythonic": Pythonic(),
    "tagged": Tagged(),
}
OBJECTS = [
    '{"name": "f", "arguments": {"a": 1}}',
    '{"name":"add","parameters":{"s":"a \\"quoted\\" } é","l":[{},[1.5]]}}',
    '{"type": "function", "name": "f", "parameters": {}}',
    '{"name": "other", "arguments": {}}',
    '{"name": "f"}',
    '{"name": "f", "arguments": "{\\"a\\": 1}"}',
    '{"name": "f", "arguments": null, "id": "x"}',
    '{"name": "f", "arguments": {}, "id": "x"}',
    '{"arguments": {"a": 1}, "name": "f"}',
    '{"a": 1}',
    '{"name": "f", "arguments": {"a": <1>}}',
]
BITS = [
    *("<tool_call>", "</tool_call>", "<tool", "<", "[TOOL_CALLS]", "[TOOL", "[ARGS]", "[CALL_ID]", "<|python_tag|>"),
    *("<function=f>", "</function>", "<parameter=a>", "</parameter>"),
    *("f", "add", "hello", " ", "\n", "\n\n", ";", ",", "[", "]", "{", "}", '"', "\\", '"name"', ":", "é"),
    '{"name": "f", "arguments": ',
]
CALLS = [f"f(a={value})" for value in (1, "'x\\\\'y'", '[True, {"k": None}]', '"""a"b"""', "-1.5e3", "b")] + ["add()"]
VALUES = ("1", '"quoted"', "<b>a\nb\n\n</b>", " x ", "", "{'k': None}", "[true]", "</param", "é")
FUNCTIONS = [
    *(f"<function=f>\n<parameter={key}>\n{value}\n</parameter>\n</function>" for key in "ab" for value in VALUES),
    "<function=add>\n</function>",
    "<function=f><parameter=a>1</parameter><parameter=c>2</parameter></function>",
    "<function=other></function>",
]
WRAPPED = [
    *(f"<tool_call>\n{one}\n</tool_call>" for one in OBJECTS),
    *(f"<|python_tag|>{one}; " for one in OBJECTS),
    *(f"[TOOL_CALLS] [{one}, {one}]" for one in OBJECTS),
    *(f"<|tool_call|>[{one},{one}]" for one in OBJECTS),
    *("[TOOL_CALLS]f[ARGS]{}", '[TOOL_CALLS]add[CALL_ID]x1[ARGS]{"a": "[ARGS]"}'),
    *(f"<tool_call>\n{one}\n</tool_call>" for one in FUNCTIONS),
    *FUNCTIONS,
    *(f"[{one}, {two}]" for one in CALLS for two in CALLS[::3]),
]
TEXTS = st.lists(
    st.one_of(*map(st.sampled_from, (BITS, OBJECTS, WRAPPED, CALLS)), st.text(max_size=3)), max_size=12
).map("".join)


def parsed(family: Family, pieces: list[str]) -> list[Piece]:
    parser = CallParser(family, NAMES)
    told = [piece for text in pieces for piece in parser.push(text)]
    return joined(told + parser.flush())


@st.composite
def cut_texts(draw: st.DrawFn) -> list[str]:
    text = draw(TEXTS)
    text = text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text
    places = sorted(draw(st.sets(st.integers(0, len(text)), max_size=8)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@settings(max_examples=800)
@given(family=st.sampled_from(sorted(FAMILIES)), pieces=cut_texts())
@example(family="hermes", pieces=["x <tool_call>", '{"name": "f', '", "arguments": {"a": "}', '"}}</tool_', "call> y"])
def test_a_cut_text_says_what_the_whole_one_says(family: str, pieces: list[str]) -> None:
    text = "".join(pieces)
    told = parsed(FAMILIES[family], pieces)
    assert told == parsed(FAMILIES[family], list(text)) == parsed(FAMILIES[family], [text])
    try:
        assert told == read_whole(family, text, NAMES)
    except Unknown:
        assert family in ("pythonic", "tagged")
