"""Bodies of `POST /v1/embeddings`: what is understood, and the sentence that refuses the rest."""

import json
import re
from typing import Any

import pytest

from headrace.api.inputs import ResultTable
from headrace.api.openai import Caller
from headrace.api.openai_embeddings import PIECE_BYTES, EmbeddingCall, decode_embeddings
from headrace.core.errors import InvalidRequest
from headrace.core.events import Embedding, Finished, Started, Usage
from headrace.core.request import Input, Principal, Task

CALLER = Caller(request_id="embd-1", principal=Principal(tenant="acme"), deadline_s=9.0)


def decode(**fields: Any) -> EmbeddingCall:
    return decode_embeddings(json.dumps({"model": "m", "input": "text"} | fields).encode(), CALLER)


def test_a_body_becomes_a_request_to_embed() -> None:
    call = decode(input=["a", "b"], dimensions=4, user="u", truncate_prompt_tokens=-1, encoding_format="base64")
    request = call.request
    assert (request.task, request.id, request.model) == (Task.EMBED, "embd-1", "m")
    assert request.inputs == (Input("a"), Input("b"))
    assert (request.dimensions, request.truncates, request.limits.deadline_s) == (4, True, 9.0)
    assert (request.principal.tenant, request.principal.user, call.encoding) == ("acme", "u", "base64")
    plain = decode()
    assert (plain.request.dimensions, plain.request.truncates, plain.encoding) == (None, False, "float")


@pytest.mark.parametrize(
    "fields",
    [
        {"dimensions": None, "encoding_format": None, "truncate_prompt_tokens": None, "user": None},
        {"add_special_tokens": True, "embed_dtype": "float32", "endianness": "little", "normalize": True},
        {"padding": "do_not_pad", "truncation_side": "right", "use_activation": True, "mm_processor_kwargs": {}},
    ],
)
def test_what_asks_for_nothing_is_accepted(fields: dict[str, Any]) -> None:
    assert decode(**fields).request == decode().request


@pytest.mark.parametrize(
    ("fields", "code", "param", "says"),
    [
        ({"input": ""}, "invalid_value", "input", "is empty; give at least one character"),
        ({"input": []}, "invalid_value", "input", "input: is empty; give at least one text"),
        ({"input": ["a", ""]}, "invalid_value", "input", "input[1]: is empty"),
        ({"input": [[1], []]}, "invalid_value", "input", "input[1]: is empty"),
        ({"input": None}, "invalid_type", "input", "input: null given, but a string or a list is needed."),
        ({"input": 5}, "invalid_type", "input", "input: 5 given"),
        ({"input": {"text": "a"}}, "invalid_type", "input", 'input: {"text":"a"} given'),
        ({"input": [1.5]}, "invalid_type", "input[0]", "input[0]: 1.5 given"),
        ({"input": [True]}, "invalid_type", "input[0]", "input[0]: true given"),
        ({"input": [None]}, "invalid_type", "input[0]", "input[0]: null given"),
        ({"input": [[1, "a"]]}, "invalid_type", "input[0][1]", 'input[0][1]: "a" given, but an integer is needed.'),
        ({"input": [[["a"]]]}, "invalid_type", "input[0][0]", 'input[0][0]: ["a"] given'),
        ({"input": ["a", 1]}, "invalid_type", "input[1]", "input[1]: 1 given, but a string is needed."),
        ({"input": [1, 2, [3]]}, "invalid_type", "input[2]", "input[2]: [3] given, but an integer is needed."),
        ({"input": [[3], "a"]}, "invalid_type", "input[1]", 'input[1]: "a" given, but a list is needed.'),
        ({"input": [[1]] * 2049}, "invalid_value", "input", "input: 2049 given; at most 2048 are allowed"),
        ({"input": [1, -2]}, "invalid_value", "input[1]", "input[1]: -2 given, but an integer >= 0 is needed."),
        ({"input": [[2**31]]}, "invalid_value", "input[0][0]", "2147483648 given, but an integer <= 2147483647"),
        ({"input": [10**30]}, "invalid_value", "input[0]", "input[0]: a number of more than 64 bits given"),
        ({"input": ["a"] * 2049}, "invalid_value", "input", "input: 2049 given; at most 2048 are allowed"),
        ({"model": ""}, "invalid_value", "model", "model: must not be empty"),
        ({"model": None}, "invalid_type", "model", "model: null given"),
        ({"dimensions": 0}, "invalid_value", "dimensions", "dimensions: 0 is not in [1, "),
        ({"dimensions": -1}, "invalid_value", "dimensions", "dimensions: -1 is not in [1, "),
        ({"dimensions": 10**30}, "invalid_value", "dimensions", "does not fit 64 bits"),
        ({"dimensions": 1.5}, "invalid_type", "dimensions", "1.5 given"),
        ({"encoding_format": "hex"}, "unsupported_parameter", "encoding_format", '"hex" is not supported; send float'),
        ({"truncate_prompt_tokens": 8}, "unsupported_parameter", "truncate_prompt_tokens", "8 is not supported"),
        ({"truncate_prompt_tokens": 0}, "unsupported_parameter", "truncate_prompt_tokens", "0 is not supported"),
        ({"messages": []}, "unsupported_parameter", "messages", "messages: [] is not supported yet; leave it out."),
        ({"normalize": False}, "unsupported_parameter", "normalize", "leave it out or send true"),
        ({"embed_dtype": "float16"}, "unsupported_parameter", "embed_dtype", "float32"),
        ({"truncation_side": "left"}, "unsupported_parameter", "truncation_side", "right"),
        ({"request_id": "x"}, "unsupported_parameter", "request_id", "leave it out"),
        ({"priority": -1}, "invalid_value", "priority", "-1 is not in [0, "),
        ({"cache_salt": ""}, "invalid_value", "cache_salt", "0 characters given"),
        ({"inputs": "a"}, "unknown_parameter", "inputs", "did you mean input?"),
    ],
)  # fmt: skip
def test_refusals_name_field_value_and_remedy(fields: dict[str, Any], code: str, param: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(says)) as caught:
        decode(**fields)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize(
    ("spelt", "inputs"),
    [
        (' \n"a"', (Input("a"),)),
        ('[\r\n\t "a" , "[[" ]', (Input("a"), Input("[["))),
        ("[ \n 0 ,1]", (Input((0, 1)),)),
        ("[ [0, 1 ],\n[ 2 ] ]", (Input((0, 1)), Input((2,)))),
        ('["[' + "[" * 3000 + '"]', (Input("[" * 3001),)),
    ],
)
def test_space_and_brackets_in_texts_change_nothing(spelt: str, inputs: tuple[Input, ...]) -> None:
    call = decode_embeddings(f'{{"model": "m", "input": {spelt}}}'.encode(), CALLER)
    assert call.request.inputs == inputs


def test_of_a_large_body_the_place_and_the_kind_are_told() -> None:
    with pytest.raises(InvalidRequest) as caught:
        decode(input=["a" * 2**20, 7])
    assert caught.value.message == "input[1]: an integer given, but a string is needed."


def test_a_list_of_many_thousand_ids_is_one_input() -> None:
    assert decode(input=list(range(100_000))).request.inputs == (Input(tuple(range(100_000))),)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_pieces_are_bounded_and_make_one_document(encoding: str) -> None:
    call = decode(input=[f"t{number}" for number in range(300)], encoding_format=encoding)
    table = ResultTable(call.request)
    vector = bytes.fromhex("cdcccc3d") * 384  # 0.1
    table.add([Started("embd-1", 'the "model"', 600)])
    table.add([Embedding(index, vector, 2) for index in reversed(range(300))])
    assert not table.is_done
    table.add([Finished(Usage(600, 0))])
    assert table.is_done
    pieces = list(call.encode(table, 7))
    assert len(pieces) > 5
    assert max(map(len, pieces)) < PIECE_BYTES + 384 * 14
    answer = json.loads(b"".join(pieces))
    assert answer["model"] == 'the "model"'
    assert [entry["index"] for entry in answer["data"]] == list(range(300))
    assert answer["usage"] == {"prompt_tokens": 600, "total_tokens": 600}
    if encoding == "float":
        assert all(entry["embedding"] == [0.1] * 384 for entry in answer["data"])
