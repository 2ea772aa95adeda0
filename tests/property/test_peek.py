"""Whatever a body holds, what travels of it means what it meant, and the shape's bounds hold."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from headrace.api.openai import Caller, decode_chat
from headrace.api.peek import CHAT, COMPLETIONS, EMBEDDINGS, MESSAGES, RESPONSES, BodyKind, peek
from headrace.core.errors import HeadraceError
from headrace.core.request import Principal
from headrace.core.shape import Shape

CALLER = Caller(request_id="id", principal=Principal())
KINDS = st.sampled_from([CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from(
    ["messages", "prompt", "input", "stream", "n", "max_tokens", "tools", "store", "user", "metadata", "text", "seed"]
)


def _joined(fields: Any) -> Any:
    return json.loads(
        b"{" + b",".join(json.dumps(name).encode() + b":" + value for name, value in fields.items()) + b"}"
    )


@given(KINDS, st.dictionaries(NAMES | TEXT, VALUES, max_size=8), st.booleans(), st.sampled_from([None, 1]))
def test_what_travels_decodes_to_what_came(kind: BodyKind, body: Any, is_ascii: bool, indent: int | None) -> None:
    body = {**body, "model": "m"}
    try:
        raw = peek(kind, json.dumps(body, ensure_ascii=is_ascii, indent=indent).encode(), CALLER).raw
    except HeadraceError:
        return
    if raw is None:
        return
    if kind is COMPLETIONS and body.get("max_tokens") is None:
        body["max_tokens"] = 16
    assert _joined(raw.fields) == body


@given(st.lists(st.tuples(st.sampled_from(["model", "a", "b"]), st.integers(0, 9)), min_size=1, max_size=9))
def test_a_name_that_stands_there_often_has_one_value(pairs: list[tuple[str, int]]) -> None:
    shown = [f"{json.dumps(name)}:{json.dumps(str(value))}" for name, value in [*pairs, ("model", 1)]]
    raw = peek(CHAT, ("{" + ",".join(shown) + "}").encode(), CALLER).raw
    assert raw is not None
    assert _joined(raw.fields) == {name: str(value) for name, value in pairs} | {"model": "1"}


@given(KINDS, st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_do_more_than_be_refused(kind: BodyKind, data: bytes) -> None:
    try:
        peek(kind, data, CALLER)
    except HeadraceError as error:
        assert error.status == 400


@given(
    st.lists(st.tuples(st.sampled_from(["user", "assistant", "system"]), TEXT), min_size=1, max_size=6), st.booleans()
)
def test_bytes_bound_what_the_model_reads(talk: list[tuple[str, str]], is_ascii: bool) -> None:
    messages = [{"role": role, "content": content} for role, content in talk]
    data = json.dumps({"model": "m", "messages": messages, "max_tokens": 7}, ensure_ascii=is_ascii).encode()
    peeked, decoded = peek(CHAT, data, CALLER).shape, Shape.of(decode_chat(data, CALLER).request)
    assert peeked.prompt_bound >= decoded.prompt_bound
    assert (peeked.max_tokens, peeked.num_choices, peeked.needs) == (7, decoded.num_choices, decoded.needs)
