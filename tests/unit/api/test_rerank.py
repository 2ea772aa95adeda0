"""Scores on their way out, where JSON or the order of equals needs care; bodies are held in tests of the server."""

import json
import math

import pytest

from headrace.api.inputs import InputsCall, ResultTable
from headrace.api.openai import Caller
from headrace.api.rerank import decode_rerank, decode_score
from headrace.core.errors import EngineFault
from headrace.core.events import Finished, Score, Started, Usage
from headrace.core.request import Principal

CALLER = Caller(request_id="r-1", principal=Principal())
DOCUMENTS = b'{"model": "m", "query": "q", "documents": ["a", "b", "c", "d"]%s}'
TEXTS = b'{"model": "m", "text_1": "q", "text_2": ["a", "b"]}'


def tell(call: InputsCall, *values: float) -> dict[str, object]:
    table = ResultTable(call.request)
    scores = [Score(index, value, 1) for index, value in enumerate(values)]
    table.add([Started("r-1", "m", 4), *scores, Finished(Usage(4, 0))])
    answer: dict[str, object] = json.loads(b"".join(call.encode(table, 7)))
    return answer


def test_equals_keep_their_order_and_the_impossible_comes_last() -> None:
    call = decode_rerank(DOCUMENTS % b', "return_documents": false', CALLER)
    assert tell(call, 0.5, -math.inf, 0.5, 0.75)["results"] == [
        {"index": 3, "relevance_score": 0.75},
        {"index": 0, "relevance_score": 0.5},
        {"index": 2, "relevance_score": 0.5},
        {"index": 1, "relevance_score": -9999.0},
    ]


def test_a_log_probability_that_json_cannot_say_is_said_as_openai_says_it() -> None:
    answer = tell(decode_score(TEXTS, CALLER), -math.inf, -12_345.5)
    assert answer["data"] == [
        {"index": 0, "object": "score", "score": -9999.0},
        {"index": 1, "object": "score", "score": -12_345.5},
    ]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_score_is_the_backends_defect(value: float) -> None:
    with pytest.raises(EngineFault, match="score of input 1"):
        tell(decode_score(TEXTS, CALLER), 0.5, value)
