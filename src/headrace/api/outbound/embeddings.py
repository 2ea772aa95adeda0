"""Requests that embed or score, to backends that speak OpenAI's embeddings, Cohere's and Jina's rerank, vLLM's score.

Vectors are asked for as base64, which is a third as long and needs no printing of numbers; both forms are read. Pairs
that all have the same first text are a query and its documents; others are scored side by side. Each answer is checked
to have one result for every input.
"""

import base64
import binascii
import sys
from array import array
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from headrace.api.outbound.chat_body import encode_body, unsupported
from headrace.api.outbound.chat_reader import garbage
from headrace.api.outbound.chat_refusals import read_error_frame
from headrace.api.outbound.chat_usage import ChatUsage, read_usage
from headrace.api.outbound.codec import OutboundCall, Quirks
from headrace.api.vectors import FLOAT_BYTES, is_finite
from headrace.core.errors import UpstreamFault
from headrace.core.events import Embedding, Event, Finished, Score, Started, Usage
from headrace.core.request import Request, Task
from headrace.core.shape import Shape

EMBED_PATH: Final = "/embeddings"
RERANK_PATH: Final = "/rerank"
SCORE_PATH: Final = "/score"

_Body = TypeVar("_Body")
_Value = TypeVar("_Value")


class _Vector(msgspec.Struct):
    embedding: str | list[float]
    index: int | None = None


class _Vectors(msgspec.Struct):
    data: list[_Vector] | None = None
    usage: ChatUsage | None = None
    error: Any = None


class _Result(msgspec.Struct):
    """Of rerank (`relevance_score`), or of score."""

    index: int | None = None
    relevance_score: float | None = None
    score: float | None = None


class _Results(msgspec.Struct):
    results: list[_Result] | None = None
    data: list[_Result] | None = None
    usage: ChatUsage | None = None
    error: Any = None


_vectors = msgspec.json.Decoder(_Vectors)
_results = msgspec.json.Decoder(_Results)


def encode_embed(request: Request, model: str, quirks: Quirks) -> OutboundCall:
    """The call that asks for vectors. Raises UnsupportedField for what the provider cannot be told."""
    given = [one.text if isinstance(one.text, str) else list(one.text) for one in request.inputs or ()]
    if len({type(one) for one in given}) > 1:
        raise unsupported("input")  # texts and token ids in one body
    body: dict[str, Any] = {"model": model, "input": given}
    if "encoding_format" not in quirks.drops:
        body["encoding_format"] = "base64"
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return OutboundCall(path=EMBED_PATH, body=encode_body(body | _truncation(request, quirks), quirks), is_stream=False)


def encode_score(request: Request, model: str, quirks: Quirks) -> OutboundCall:
    """The call that asks for scores. Raises UnsupportedField for what the provider cannot be told."""
    if request.logprobs is not None:
        raise unsupported("logprobs")
    pairs = [(one.text, one.pair) for one in request.inputs or ()]
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        raise unsupported("input")
    body: dict[str, Any] = {"model": model}
    if is_rerank(request):
        body |= {"query": pairs[0][0], "documents": [second for _, second in pairs]}
        path = RERANK_PATH
    else:
        body |= {"text_1": [first for first, _ in pairs], "text_2": [second for _, second in pairs]}
        path = SCORE_PATH
    return OutboundCall(path=path, body=encode_body(body | _truncation(request, quirks), quirks), is_stream=False)


def is_rerank(request: Request) -> bool:
    """Whether all pairs have one first text, a query."""
    return len({one.text for one in request.inputs or ()}) == 1


def decode_inputs(request: Request, model: str, body: bytes) -> Iterable[Event]:
    """The results in the order of the inputs. Raises UpstreamFault for what is no answer to the request."""
    return (_decode_vectors if request.task is Task.EMBED else _decode_scores)(request, model, body)


def _truncation(request: Request, quirks: Quirks) -> dict[str, Any]:
    # Where it cannot be asked for, what is too long is refused by the backend, and loudly.
    field = "truncate_prompt_tokens"
    return {field: -1} if request.truncates and field in quirks.knows else {}


def _decode_vectors(request: Request, model: str, body: bytes) -> Iterable[Event]:
    told = _read(_vectors, body)
    if told.error is not None and not told.data:
        raise read_error_frame(told.error)
    vectors = told.data or []
    placed = _placed(request, [(one.index, _vector(one.embedding)) for one in vectors])
    if len({len(vector) for vector in placed}) > 1:
        raise UpstreamFault("the backend sent vectors of different lengths.")
    usage = _usage(request, told.usage)
    yield Started(request.id, model, usage.prompt_tokens)
    for index, vector in enumerate(placed):
        yield Embedding(index, vector, usage.prompt_tokens if len(placed) == 1 else 0)
    yield Finished(usage)


def _decode_scores(request: Request, model: str, body: bytes) -> Iterable[Event]:
    told = _read(_results, body)
    found = told.results if told.results is not None else told.data
    if told.error is not None and not found:
        raise read_error_frame(told.error)
    scores = []
    for one in found or ():
        value = one.score if one.relevance_score is None else one.relevance_score
        if value is None:
            raise UpstreamFault("the backend sent a result without a score.")
        scores.append((one.index, value))
    placed = _placed(request, scores)
    usage = _usage(request, told.usage)
    yield Started(request.id, model, usage.prompt_tokens)
    for index, value in enumerate(placed):
        yield Score(index, value, usage.prompt_tokens if len(placed) == 1 else 0)
    yield Finished(usage)


def _read(decoder: "msgspec.json.Decoder[_Body]", body: bytes) -> _Body:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as error:
        raise garbage(error) from None


def _placed(request: Request, found: list[tuple[int | None, _Value]]) -> list[_Value]:
    """One value for every input. Results without an index stand in the order of the inputs."""
    count = len(request.inputs or ())
    table = {place if index is None else index: value for place, (index, value) in enumerate(found)}
    if len(found) != count or table.keys() != set(range(count)):
        raise UpstreamFault(f"the backend sent {len(found)} results that do not belong to the {count} inputs.")
    return [table[index] for index in range(count)]


def _vector(told: str | list[float]) -> bytes:
    """Float32, little-endian."""
    if isinstance(told, str):
        try:
            data = base64.b64decode(told, validate=True)
        except (binascii.Error, ValueError):
            raise UpstreamFault("the backend sent a vector that is no base64.") from None
    else:
        floats = array("f", told)
        if sys.byteorder == "big":
            floats.byteswap()
        data = floats.tobytes()
    if not data or len(data) % FLOAT_BYTES or not is_finite(data):
        raise UpstreamFault("the backend sent a vector that is no list of float32.")
    return data


def _usage(request: Request, told: ChatUsage | None) -> Usage:
    if told is None:
        return Usage(Shape.of(request).prompt_bound, 0, is_estimated=True)
    return read_usage(told)
