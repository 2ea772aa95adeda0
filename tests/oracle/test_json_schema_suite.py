"""Answers drawn at random under the grammars of the JSON-Schema-Test-Suite, judged by the package `jsonschema`.

The vectors are recorded by scripts/record_json_schemas.py. What llguidance does not support must be refused with a
reason, and the number of schemas that are not is held, so that it cannot shrink unnoticed.
"""

import decimal
import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.small_vocabulary import SmallVocabulary, draw_answer

from headrace.core.errors import InvalidRequest
from headrace.core.request import FormatKind, ResponseFormat
from headrace.engine.grammar.compiler import GrammarCompiler
from headrace.engine.grammar.matcher import Grammar
from headrace.kernels import native

VECTORS = Path(__file__).parent / "vectors" / "json_schema_suite.json.gz"
VOCABULARY = SmallVocabulary()
VALIDATORS = {"draft7": jsonschema.Draft7Validator, "draft2020-12": jsonschema.Draft202012Validator}
NUM_SUPPORTED = {"draft7": 167, "draft2020-12": 170}  # of 254 and 368
MAX_TOKENS = 160
SAMPLING = (("temperature", np.float32, 1.5), ("top_k", np.int32, 0), ("top_p", np.float32, 1.0),
            ("min_p", np.float32, 0.0), ("choice", np.uint32, 0))  # fmt: skip
CLOSING = b'"]}0123456789. <>'  # bytes that bring an answer to its end


def load_cases() -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads(gzip.decompress(VECTORS.read_bytes()))["cases"]
    for case in cases:
        # The suite leaves the draft to the folder; a request has only the schema to say it.
        if case["draft"] == "draft7" and isinstance(case["schema"], dict):
            case["schema"] = {"$schema": "http://json-schema.org/draft-07/schema#", **case["schema"]}
    return cases


@pytest.fixture(scope="module")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(VOCABULARY, VOCABULARY.num_tokens)
    yield compiler
    compiler.close()


@pytest.fixture(scope="module")
def supported(compiler: GrammarCompiler) -> list[tuple[dict[str, Any], Grammar]]:
    found = []
    for case in load_cases():
        try:
            grammar = compiler.compile(ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=case["schema"]))
        except InvalidRequest as error:
            assert error.message.startswith("response_format: json_schema: ") and error.param == "response_format"
            assert "\n" not in error.message and len(error.message) < 400
            case["refusal"] = error.message
        else:
            found.append((case, grammar))
    return found


def closing_choice(rng: np.random.Generator, allowed: NDArray[np.intp], step: int) -> int:
    """Uniform over the mask; the longer the answer, the more often among what ends it."""
    if rng.random() < step / MAX_TOKENS * 2:
        ending = [t for t in allowed if t in VOCABULARY.eos_ids or VOCABULARY.byte_table[t] in ([c] for c in CLOSING)]
        ends = [t for t in allowed if t in VOCABULARY.eos_ids]
        allowed = np.array(ends or ending or allowed)
    return int(rng.choice(allowed))


def exact(number: str) -> decimal.Decimal | float:
    """A number as it is written, unless its exponent is absurd."""
    return (
        decimal.Decimal(number)
        if len(number.lower().rpartition("e")[2]) < 5 or "e" not in number.lower()
        else float(number)
    )


def is_valid(case: dict[str, Any], text: bytes) -> bool:
    """Judged with exact numbers: in binary ones 0.3282 is no multiple of 0.0001."""
    with decimal.localcontext(prec=10_000):
        schema = json.loads(json.dumps(case["schema"]), parse_float=exact)
        value = json.loads(text, parse_float=exact)
        return bool(VALIDATORS[case["draft"]](schema).is_valid(value))


def test_the_schemas_that_are_supported_do_not_become_fewer(supported: list[tuple[dict[str, Any], Grammar]]) -> None:
    counted = Counter(case["draft"] for case, _ in supported)
    assert counted == NUM_SUPPORTED


def test_every_complete_answer_drawn_at_random_is_valid(supported: list[tuple[dict[str, Any], Grammar]]) -> None:
    rng = np.random.default_rng(4)
    num_complete = 0
    for case, grammar in supported:
        for _ in range(2):
            text, is_complete = draw_answer(
                grammar,
                VOCABULARY.byte_table,
                VOCABULARY.eos_ids,
                lambda allowed, step: closing_choice(rng, allowed, step),
                MAX_TOKENS,
            )
            num_complete += is_complete
            assert not is_complete or is_valid(case, text), (case["name"], text)
    assert num_complete > 0.9 * 2 * len(supported)


def test_every_complete_answer_sampled_at_temperature_1_5_is_valid(
    supported: list[tuple[dict[str, Any], Grammar]],
) -> None:
    """All at once through the native sampler, from logits at random with a growing wish to end."""
    rng = np.random.default_rng(15)
    threads = native.Threads(2)
    num_rows, num_tokens = len(supported), VOCABULARY.num_tokens
    matchers = [grammar.start() for _, grammar in supported]
    masks = np.zeros((num_rows, supported[0][1].num_words), np.uint32)
    texts, live = [b""] * num_rows, list(range(num_rows))
    ending = np.zeros(num_tokens, np.float32)
    ending[[*CLOSING]], ending[sorted(VOCABULARY.eos_ids)] = 0.1, 0.3
    for step in range(MAX_TOKENS):
        for row, index in enumerate(live):
            matchers[index].mask(masks[row])
        logits = rng.normal(size=(len(live), num_tokens)).astype(np.float32) * 3 + ending * step
        sampling: dict[str, Any] = {name: np.full(len(live), value, kind) for name, kind, value in SAMPLING}
        sampling |= {"seed": np.array(live, np.uint64), "position": np.full(len(live), step, np.uint32)}
        sampling |= {"masks": masks[: len(live)], "mask_rows": np.arange(len(live), dtype=np.int32)}
        tokens = native.sample(threads, logits, sampling)[0].tolist()
        for index, token in list(zip(live, tokens, strict=True)):
            if token not in VOCABULARY.eos_ids:
                matchers[index].accept(token)
                texts[index] += VOCABULARY.byte_table[token]
            if token in VOCABULARY.eos_ids or matchers[index].is_finished:
                live.remove(index)
                assert is_valid(supported[index][0], texts[index]), (supported[index][0]["name"], texts[index])
        if not live:
            break
    threads.close()
    assert len(live) < 0.1 * num_rows


def test_no_invalid_instance_can_be_written_and_most_valid_ones_can(
    supported: list[tuple[dict[str, Any], Grammar]],
) -> None:
    accepted: Counter[bool] = Counter()
    for case, grammar in supported:
        for instance in case["instances"]:
            text = json.dumps(instance["data"], separators=(",", ":"), ensure_ascii=False)
            tokens = VOCABULARY.encode_inside(text)
            matcher = grammar.start()
            is_accepted = matcher.allowed_prefix(tokens) == len(tokens)
            if is_accepted:
                for token in tokens:
                    matcher.accept(token)
                is_accepted = matcher.is_accepting
            assert instance["valid"] or not is_accepted, (case["name"], text)
            if instance["valid"]:
                accepted[is_accepted] += 1
    # The others have their properties in another order than the schema, or escape what need not be.
    assert accepted[True] >= 640 and accepted[False] <= 40
