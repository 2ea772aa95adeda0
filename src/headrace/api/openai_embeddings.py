"""OpenAI's `POST /v1/embeddings`: a body becomes a request to embed, its vectors become numbers or base64.

`input` has OpenAI's four spellings: a text, texts, the token ids of one input, those of several. The answer is written
in pieces, because the numbers of two thousand inputs take a while to print.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from headrace.api.input_fields import ANY_INPUT, INERT_EMBEDDING, INPUT_KINDS, EmbeddingBody
from headrace.api.inputs import Asked, ResultTable, check_count, input_request, read_body
from headrace.api.openai import Caller
from headrace.api.openai_refusal import bounded, refuse_field, refuse_inert, show
from headrace.api.vectors import encode_base64, encode_floats
from headrace.core.errors import UnsupportedField
from headrace.core.request import Input, Request, Task

# Bytes of one piece of an answer: about a millisecond of printing.
PIECE_BYTES: Final = 32 * 1024

_decoder = msgspec.json.Decoder(EmbeddingBody)
_decoders = {start: msgspec.json.Decoder(kind) for start, kind in INPUT_KINDS.items()}
_any_decoder = msgspec.json.Decoder(ANY_INPUT)
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
    asked = Asked(task=Task.EMBED, field="input", inputs=_inputs(bytes(body.input), data), dimensions=dimensions)
    return EmbeddingCall(input_request(body, caller, asked), encoding)


def _inputs(raw: bytes, data: bytes) -> tuple[Input, ...]:
    """What is to be embedded. Looks at how it begins, so that nothing large is made of what will be refused."""
    start = raw[:1] + raw[1:].lstrip()[:1] if raw[:1] == b"[" else raw[:1]
    if start == b"[[":
        check_count("input", raw.count(b"[") - 1)
    try:
        given = _decoders.get(start, _any_decoder).decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_field(error, data, "input")
    if isinstance(given, str):
        return (Input(given),)
    if start not in (b'["', b"[["):
        return (Input(tuple(given)),) if given else ()
    check_count("input", len(given))
    return tuple(Input(one if isinstance(one, str) else tuple(one)) for one in given)
