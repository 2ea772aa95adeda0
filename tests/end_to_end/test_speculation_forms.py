"""The real model held to a form, with drafts and without: forced tokens and guessed ones together alter nothing."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.doubles import TickingClock

from headrace.core.events import Event, Finished, TextDelta
from headrace.core.request import FormatKind, Limits, Message, Request, ResponseFormat, Role, Sampling, TextPart
from headrace.engine.config import EngineConfig
from headrace.engine.text import TextEngine
from headrace.models.load import LoadedModel, load_model
from headrace.observe.metrics import Metrics

SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"first name": {"type": "string", "maxLength": 9}, "is quick": {"type": "boolean"}},
        "required": ["first name", "is quick"],
        "additionalProperties": False,
    },
    "minItems": 3,
    "maxItems": 4,
}
EXAMPLE = '[{"first name": "Anna", "is quick": true}, {"first name": "Otto", "is quick": true}]'
PROMPT = f"Name some people. For example: {EXAMPLE}"


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, cache_dir=tmp_path_factory.mktemp("packed"))


def answers(model: LoadedModel, speculation: str) -> tuple[list[str], list[int], float]:
    """Texts, their tokens, and how many tokens of drafts were accepted."""
    metrics = Metrics()
    config = EngineConfig(threads=2, kv_type="fp16", checks=True, speculation=speculation)
    engine = TextEngine([model], config, clock=TickingClock(), metrics=metrics)

    async def one(seed: int) -> list[Event]:
        request = Request(
            id=f"r{seed}",
            model=model.name,
            messages=(Message(Role.USER, (TextPart(PROMPT),)),),
            sampling=Sampling(temperature=0.7 * (seed % 3), seed=seed),
            limits=Limits(max_tokens=160),
            response_format=ResponseFormat(kind=FormatKind.JSON_SCHEMA, schema=SCHEMA),
        )
        return [event async for event in engine.run(request)]

    async def main() -> list[list[Event]]:
        engine.start()
        try:
            return [await one(0), await one(1), *await asyncio.gather(*map(one, range(2, 6)))]
        finally:
            await engine.close()

    told = asyncio.run(main())
    texts = ["".join(event.text for event in events if isinstance(event, TextDelta)) for events in told]
    counts = [events[-1].usage.completion_tokens for events in told if isinstance(events[-1], Finished)]
    name = "vllm:spec_decode_num_accepted_tokens_total"
    return texts, counts, metrics.registry.get_sample_value(name, {"model_name": model.name, "engine": "0"}) or 0.0


def test_drafts_change_no_token_of_an_answer_in_a_form(model: LoadedModel) -> None:
    texts, counts, accepted = answers(model, "auto")
    for text in texts:
        jsonschema.validate(json.loads(text), SCHEMA)
    assert accepted > 0
    assert answers(model, "off") == (texts, counts, 0.0)
