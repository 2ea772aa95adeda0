"""OpenAI's `POST /v1/embeddings`: a body becomes a request to embed, its vectors become numbers or base64.

`input` has OpenAI's four spellings: a text, texts, the token ids of one input, those of several. The answer is written
in pieces, because the numbers of two thousand inputs take a while to print.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headrace.api.input_fields import INERT_EMBEDDING, EmbeddingBody
from headrace.api.inputs import Asked, ResultTable, input_request, read_body
from headrace.api.openai import Caller
from headrace.api.openai_refusal import bounded, refuse_inert, show
from headrace.api.vectors import encode_base64, encode_floats
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import Input, Request, Task

# Bytes of one piece of an answer: about a millisecond of printing.
PIECE_BYTES: Final = 32 * 1024

_decoder = msgspec.json.Decoder(EmbeddingBody)
_encode_json = msgspec.json.Encoder().encode
_ENCODERS = {"float": encode_floats, "base64": encode_base64}


@dataclass(frozen=True, slots=True)
class EmbeddingCall:
    """A decoded body. `encoding` is a key of the table of encodings."""

    request: Request
    encoding: str
    field: str = "input"

    def encode(self, table: ResultTable, created_s: int) -> Iterator[bytes]:
        """The answer's body, in pieces of about `PIECE_BYTES`; OpenAI's shape has no time in it."""
        encode = _ENCODERS[self.encoding]
        piece = bytearray(b'{"object":"list","data":[')
        for result in table.embeddings():
            comma = b"," if result.index else b""
            piece += b'%s{"object":"embedding","index":%d,"embedding":' % (comma, result.index)
            piece += encode(result.vector)
            piece += b"}"
            if len(piece) >= PIECE_BYTES:
                yield bytes(piece)
                piece.clear()
        usage = {"prompt_tokens": table.prompt_tokens, "total_tokens": table.prompt_tokens}
        yield bytes(piece) + b'],"model":%s,"usage":%s}' % (_encode_json(table.model), _encode_json(usage))


def decode_embeddings(data: bytes, caller: Caller) -> EmbeddingCall:
    """Read the body of `POST /v1/embeddings`. Raises InvalidRequest or UnsupportedField."""
    body = read_body(_decoder, data)
    refuse_inert(body, INERT_EMBEDDING, "")
    encoding = "float" if body.encoding_format is None else body.encoding_format
    if encoding not in _ENCODERS:
        raise UnsupportedField(
            f"encoding_format: {show(encoding)} is not supported; send {' or '.join(_ENCODERS)}.",
            param="encoding_format",
        )
    dimensions = bounded("dimensions", body.dimensions)
    asked = Asked(task=Task.EMBED, field="input", inputs=_inputs(body.input), dimensions=dimensions)
    return EmbeddingCall(input_request(body, caller, asked), encoding)


def _inputs(given: str | list[Any]) -> tuple[Input, ...]:
    if isinstance(given, str):
        return (Input(given),)
    kinds = set(map(type, given))
    if kinds == {int}:
        return (Input(tuple(given)),)
    if len(kinds) > 1:
        first = next(index for index, one in enumerate(given) if type(one) is not type(given[0]))
        raise InvalidRequest(
            f"input[{first}]: {show(given[first])} is of another kind than input[0]; send texts, lists of token ids, "
            "or the ids of one input, but not a mixture.",
            param="input",
            code="invalid_type",
        )
    return tuple(Input(one if isinstance(one, str) else tuple(one)) for one in given)
