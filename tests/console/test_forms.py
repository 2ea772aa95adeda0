"""What the page's verifier makes of what was asked and answered, held beside Python's: canonical JSON, the forms of
requests and answers, digests of streams."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.console.verifying import ESBUILD, b64, bundle_driver, stream_of, tell

from headrace.cli.saved_files import read_answer, request_forms
from headrace.core.transcript import transcript_digest
from headrace.trust.records import canonical
from headrace.trust.records.answer_form import arguments_form

pytestmark = pytest.mark.skipif(not ESBUILD.exists(), reason="needs Node's packages: make .venv/.done/console")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's verifier."""
    return bundle_driver(tmp_path_factory.mktemp("forms"))


NUMBERS = st.one_of(
    st.integers(-(2**53) + 1, 2**53 - 1), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.none()
)
VALUES = st.recursive(
    st.one_of(NUMBERS, st.text()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=4, deadline=None)
@given(values=st.lists(VALUES, min_size=40, max_size=40))
def test_canonical_json_is_the_same_as_pythons(driver: Path, values: list[Any]) -> None:
    told = tell(driver, [{"canonical": b64(json.dumps(value, ensure_ascii=False).encode())} for value in values])
    for value, one in zip(values, told, strict=True):
        assert base64.b64decode(one["form"]) == canonical.encode(value)


@pytest.mark.parametrize(
    "text",
    [b'{"a":1,"a":2}', b"[1,]", b"{,}", b"01", b"+1", b"1.", b".5", b"NaN", b"Infinity", b"[1] x", b'"\\x"', b'"\\u12"',
     b'"\n"', b"'a'", b"", b"{", b"nul", b"\xff", b"\xef\xbb\xbf1", b"-", b"[" * 100_000, b'{"a" 1}', b"{1:2}"],
)  # fmt: skip
def test_json_that_python_refuses_is_refused(driver: Path, text: bytes) -> None:
    with pytest.raises(canonical.NotCanonical):
        canonical.read(text)
    (told,) = tell(driver, [{"canonical": b64(text)}])
    assert told["kind"] == "NotVerified"


ARGUMENTS = [
    "", "{}", ' {"b": 1, "a": [1.0, 1e3, -0.0, 12345678901234567890]} ', '{"a":1,"a":2}', "not json", '{"é":"\\u00e9"}',
    '{"n": 1e400}', '"\\ud800"', "[" * 200 + "]" * 200, '{"x": 0.1}', "{" + '"a":' * 3, '{"a":' + "9" * 5000 + "}",
    '{"\U0001f600":1,"\ufb33":2}', "\ufeff{}",
]  # fmt: skip


def test_arguments_of_tool_calls_have_pythons_form(driver: Path) -> None:
    told = tell(driver, [{"arguments": text} for text in ARGUMENTS])
    assert [base64.b64decode(one["form"]).decode() for one in told] == [arguments_form(text) for text in ARGUMENTS]


TEXTS = st.text(max_size=30)
CALLS = st.lists(
    st.builds(
        lambda call_id, name, arguments: {
            "id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}
        },
        st.text(min_size=1, max_size=5), st.sampled_from(["look", "say"]), TEXTS,
    ),
    max_size=2,
)  # fmt: skip
TOOL = {
    "type": "function",
    "function": {"name": "look", "description": "d", "parameters": {"a": 1152921504606847000, "b": [1.5]}},
}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object", "maximum": 1e22}}}
MESSAGES = st.lists(
    st.one_of(
        st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["system", "user"]), TEXTS),
        st.builds(lambda text, calls: {"role": "assistant", "content": text, "tool_calls": calls}, TEXTS, CALLS),
        st.builds(lambda text: {"role": "assistant", "content": text}, TEXTS),
        st.builds(lambda text: {"role": "tool", "tool_call_id": "c", "content": text}, TEXTS),
    ),
    min_size=1,
    max_size=5,
)
BODIES = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "a/b"]), "messages": MESSAGES, "stream": st.just(True)},
    optional={
        "stream_options": st.just({"include_usage": True}),
        "temperature": st.sampled_from([0, 1, 1.0, 0.7, 2]),
        "top_p": st.sampled_from([0.1, 1]),
        "top_k": st.sampled_from([0, 40]),
        "min_p": st.sampled_from([0, 0.05]),
        "max_tokens": st.integers(0, 1000),
        "seed": st.sampled_from([0, 1, -5, 2**53 - 1]),
        "stop": st.one_of(st.just("x"), st.just(["a", "b"]), st.just([])),
        "presence_penalty": st.sampled_from([0, 0.5]),
        "frequency_penalty": st.sampled_from([0, -0.5]),
        "repetition_penalty": st.sampled_from([1, 1.1]),
        "reasoning_effort": st.sampled_from(["none", "low", "max"]),
        "tools": st.just([TOOL]),
        "parallel_tool_calls": st.booleans(),
        "response_format": st.sampled_from([SCHEMA, {"type": "json_object"}, {"type": "text"}]),
        "logprobs": st.just(True),
    },
)


@settings(max_examples=4, deadline=None)
@given(bodies=st.lists(BODIES, min_size=60, max_size=60))
def test_what_was_asked_has_the_forms_that_the_command_makes_of_it(driver: Path, bodies: list[dict[str, Any]]) -> None:
    told = tell(driver, [{"request": body} for body in bodies])
    for body, one in zip(bodies, told, strict=True):
        # The page sends what JSON.stringify makes: numbers as ECMAScript writes them.
        data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).replace("1.0,", "1,").encode()
        made = {base64.b64decode(form) for form in one["requests"]}
        neutral = [form for form in request_forms(data) if not form.startswith(b'{"body"')]
        assert neutral and set(neutral) & made, (body, made)


PIECES = st.lists(
    st.one_of(
        st.builds(lambda text: {"delta": {"content": text}}, TEXTS),
        st.builds(lambda text: {"delta": {"reasoning_content": text, "reasoning": text}}, TEXTS),
        st.builds(
            lambda index, name, text: {
                "delta": {"tool_calls": [{"index": index, "id": "c", "function": {"name": name, "arguments": text}}]}
            },
            st.integers(0, 2), st.sampled_from(["look", None]), st.sampled_from(["{", '"a":', "1}", "x", ""]),
        ),
        st.builds(
            lambda reason: {"delta": {}, "finish_reason": reason},
            st.sampled_from(["stop", "length", "tool_calls", "content_filter", None, "odd"]),
        ),
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


@settings(max_examples=4, deadline=None)
@given(answers=st.lists(st.tuples(PIECES, st.sampled_from(["\n", "\r\n", "\r"])), min_size=60, max_size=60))
def test_what_was_answered_has_the_form_and_the_digest_of_the_command(
    driver: Path, answers: list[tuple[list[dict[str, Any]], str]]
) -> None:
    streams = [
        stream_of(*({"index": number % 2, **piece} for number, piece in enumerate(pieces))).replace(b"\n", end.encode())
        for pieces, end in answers
    ]
    for stream, one in zip(streams, tell(driver, [{"stream": b64(stream)} for stream in streams]), strict=True):
        shown = read_answer(stream).shown()
        assert one["digest"] == transcript_digest(stream).hex() == (shown.body_digest or b"").hex()
        assert one["form"] == (None if shown.answer is None else b64(shown.answer)), stream
        assert one["reasoning"] == (None if shown.reasoning is None else b64(shown.reasoning))
        assert one["model"] == shown.model


@pytest.mark.parametrize("text", ["\ud800", "a\udfff\U0001f600b", "\ud83d"])
def test_halves_of_characters_have_pythons_form(driver: Path, text: str) -> None:
    stream = stream_of({"index": 0, "delta": {"content": text}}, {"index": 0, "delta": {}, "finish_reason": "stop"})
    (told,) = tell(driver, [{"stream": b64(stream)}])
    assert told["form"] == b64(read_answer(stream).shown().answer or b"")


def test_what_the_command_does_not_read_as_an_answer_the_page_does_not_either(driver: Path) -> None:
    stream = stream_of({"index": 0, "delta": {"content": "x"}}, {"index": 0, "delta": None, "finish_reason": "stop"})
    (told,) = tell(driver, [{"stream": b64(stream)}])
    assert told["form"] is None and read_answer(stream).shown().answer is None


@pytest.mark.parametrize(
    "data",
    [b"", b":", b": a", b": a\n", b": a\n\n", b"data: 1", b"data: 1\n", b"data: 1\n\n\n: x\n\n\n",
     b"\n\n: a\n\ndata: b\n: c\n\n",
     b"data\n\n", b"data:\n\n", b"data: a\ndata: b\n\n", b": a\r\n\r\ndata: b\r\r", b"\r\n: a\r\r\ndata: x\n\r"],
)  # fmt: skip
def test_comments_do_not_count_wherever_they_stand(driver: Path, data: bytes) -> None:
    (told,) = tell(driver, [{"stream": b64(data)}])
    assert told["digest"] == transcript_digest(data).hex()
