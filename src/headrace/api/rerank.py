"""Scores over the wire: `POST /v1/score` (vLLM's shape) and `POST /v1/rerank` (Jina's, Cohere's and vLLM's).

Both become a request to score pairs of texts. A score of a model that judges pairs is what it says; of a model that
generates it is the log-probability of the second text as a continuation of the first.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.api.input_fields import INERT_INPUTS, INERT_RERANK, RerankBody, ScoreBody
from headrace.api.inputs import Asked, ResultTable, check_count, input_request, read_body
from headrace.api.openai import Caller
from headrace.api.openai_logprobs import finite
from headrace.api.openai_refusal import bounded, refuse_inert, show
from headrace.core.errors import InvalidRequest
from headrace.core.events import Score
from headrace.core.request import Input, Request, Task

_score_decoder = msgspec.json.Decoder(ScoreBody)
_rerank_decoder = msgspec.json.Decoder(RerankBody)
_encode_json = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ScoreCall:
    """A decoded body of `POST /v1/score`."""

    request: Request
    tells_tokens: bool
    field: str = "text_2"

    def encode(self, table: ResultTable, created_s: int) -> Iterator[bytes]:
        """The answer's body, in one piece."""
        usage = {"prompt_tokens": table.prompt_tokens, "total_tokens": table.prompt_tokens}
        answer = {"id": self.request.id, "object": "list", "created": created_s, "model": table.model}
        yield _encode_json(answer | {"data": [self._entry(score) for score in table.scores()], "usage": usage})

    def _entry(self, score: Score) -> dict[str, Any]:
        entry = {"index": score.index, "object": "score", "score": finite(score.value)}
        if not self.tells_tokens:
            return entry
        tokens = [
            {"token": token.token, "logprob": finite(token.logprob), "bytes": list(token.token_bytes)}
            for token in score.logprobs
        ]
        return entry | {"logprobs": tokens, "is_greedy": score.is_greedy}


@dataclass(frozen=True, slots=True)
class RerankCall:
    """A decoded body of `POST /v1/rerank`. `documents` are empty where the answer does not repeat them."""

    request: Request
    top_n: int
    documents: tuple[str, ...]
    field: str = "documents"

    def encode(self, table: ResultTable, created_s: int) -> Iterator[bytes]:
        """The answer's body, in one piece: the best first, and of equals the one that came first."""
        best = sorted(table.scores(), key=lambda score: (-score.value, score.index))[: self.top_n]
        usage = {"prompt_tokens": table.prompt_tokens, "total_tokens": table.prompt_tokens}
        results = [self._entry(score) for score in best]
        yield _encode_json({"id": self.request.id, "model": table.model, "usage": usage, "results": results})

    def _entry(self, score: Score) -> dict[str, Any]:
        document = {"document": {"text": self.documents[score.index]}} if self.documents else {}
        return {"index": score.index, **document, "relevance_score": finite(score.value)}


def decode_score(data: bytes, caller: Caller) -> ScoreCall:
    """Read the body of `POST /v1/score`. Raises InvalidRequest or UnsupportedField."""
    body = read_body(_score_decoder, data)
    refuse_inert(body, INERT_INPUTS, "")
    inputs = _pairs(body.text_1, body.text_2)
    asked = Asked(task=Task.SCORE, field="text_2", inputs=inputs, logprobs=0 if body.logprobs else None)
    return ScoreCall(input_request(body, caller, asked), bool(body.logprobs))


def decode_rerank(data: bytes, caller: Caller) -> RerankCall:
    """Read the body of `POST /v1/rerank`. Raises InvalidRequest or UnsupportedField."""
    body = read_body(_rerank_decoder, data)
    refuse_inert(body, INERT_RERANK, "")
    if not body.query:
        raise InvalidRequest("query: is empty; give at least one character.", param="query")
    top_n = bounded("top_n", body.top_n)
    if top_n is not None and top_n < 0:
        raise InvalidRequest(f"top_n: {top_n} is below 0; say how many are wanted, or 0 for all.", param="top_n")
    check_count("documents", len(body.documents))
    documents = tuple(one if isinstance(one, str) else one.text for one in body.documents)
    inputs = tuple(Input(body.query, document) for document in documents)
    request = input_request(body, caller, Asked(task=Task.SCORE, field="documents", inputs=inputs))
    return RerankCall(request, top_n or len(documents), () if body.return_documents is False else documents)


def _pairs(first: str | list[str], second: str | list[str]) -> tuple[Input, ...]:
    """One text with each of several, or two lists entry by entry."""
    left = [first] if isinstance(first, str) else first
    right = [second] if isinstance(second, str) else second
    for field, texts in (("text_1", left), ("text_2", right)):
        check_count(field, len(texts))
    if len(left) not in (1, len(right)):
        raise InvalidRequest(
            f"text_1: {show(len(left))} texts given beside {len(right)} in text_2; give one, or as many as there.",
            param="text_1",
        )
    if len(left) == 1:
        left = left * len(right)
    return tuple(Input(one, other) for one, other in zip(left, right, strict=True))
