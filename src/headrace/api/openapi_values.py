"""What the OpenAPI document says of single fields beyond their types: ranges, words, values that ask for nothing.

Tables only, one row for each struct of a body, by its name. The checks themselves are `core.request`'s and the codecs';
a range that is missing here is no defect, for what is out of range is refused with 400 either way.
"""

from collections.abc import Mapping
from typing import Any, Final

from headrace.api import input_fields, openai_fields, responses_fields
from headrace.api.service_tier import TIERS
from headrace.core.request import (
    MAX_CHOICES,
    MAX_INPUTS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
    MAX_TOP_LOGPROBS,
    Effort,
)

Inert = Mapping[str, tuple[Any, ...] | None]

# Struct -> its fields that are taken only with values that ask for nothing we would leave undone.
INERT: Final[dict[str, Inert]] = {
    "ChatBody": openai_fields.INERT_CHAT,
    "CompletionBody": openai_fields.INERT_COMPLETION,
    "Message": openai_fields.INERT_MESSAGE,
    "StreamOptions": openai_fields.INERT_STREAM_OPTIONS,
    "EmbeddingBody": input_fields.INERT_EMBEDDING,
    "ScoreBody": input_fields.INERT_INPUTS,
    "RerankBody": input_fields.INERT_RERANK,
    "CreateBody": responses_fields.INERT_SETTINGS,
    "CountBody": responses_fields.INERT_SETTINGS,
    "CompactBody": responses_fields.INERT_SETTINGS,
    "ReasoningField": responses_fields.INERT_REASONING,
    "ResponseStreamOptions": responses_fields.INERT_STREAM_OPTIONS,
    "ResponseCacheOptions": responses_fields.INERT_CACHE_OPTIONS,
}

_COUNT: Final = {"minimum": 0, "maximum": 2**31 - 1}
_TOKEN: Final = {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}
_SAMPLING: Final[dict[str, Any]] = {
    "temperature": {"minimum": 0, "maximum": 100},
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "top_k": _COUNT,
    "min_p": {"minimum": 0, "maximum": 1},
    "typical_p": {"exclusiveMinimum": 0, "maximum": 1},
    "repetition_penalty": {"minimum": 0.01, "maximum": 100},
    "presence_penalty": {"minimum": -2, "maximum": 2},
    "frequency_penalty": {"minimum": -2, "maximum": 2},
    "logit_bias": {
        "propertyNames": {"pattern": "^[0-9]{1,6}$"},
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    },
    "seed": {"minimum": -(2**63), "maximum": 2**64 - 1},
    "n": {"minimum": 1, "maximum": MAX_CHOICES},
    "max_tokens": _COUNT,
    "stop": {"minLength": 1, "maxItems": MAX_STOP_STRINGS},
    "stop_token_ids": {"maxItems": MAX_STOP_TOKENS},
    "prompt_logprobs": {"minimum": 0, "maximum": MAX_TOP_LOGPROBS},
}

VALUES: Final[dict[str, dict[str, Any]]] = {
    "ChatBody": _SAMPLING
    | {
        "messages": {"minItems": 1},
        "max_completion_tokens": _COUNT,
        "top_logprobs": {"minimum": 0, "maximum": MAX_TOP_LOGPROBS},
        "reasoning_effort": {"enum": [None, *Effort, "max"]},
        "service_tier": {"enum": [None, *TIERS]},
    },
    "CompletionBody": _SAMPLING
    | {
        "prompt": {"minLength": 1, "minItems": 1},
        "best_of": {"minimum": 1, "maximum": MAX_CHOICES},
        "logprobs": {"minimum": 0, "maximum": MAX_TOP_LOGPROBS},
    },
    "Message": {"role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]}},
    "EmbeddingBody": {
        "input": {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_INPUTS},
                {"type": "array", "items": _TOKEN, "minItems": 1},
                {"type": "array", "items": {"type": "array", "items": _TOKEN, "minItems": 1}, "minItems": 1},
            ]
        },
        "encoding_format": {"enum": ["float", "base64", None]},
        "dimensions": {"minimum": 1, "maximum": 2**31 - 1},
        "truncate_prompt_tokens": {"enum": [-1, None]},
    },
    "ScoreBody": {"truncate_prompt_tokens": {"enum": [-1, None]}},
    "RerankBody": {
        "query": {"minLength": 1},
        "documents": {"minItems": 1, "maxItems": MAX_INPUTS},
        "top_n": {"minimum": 0},
        "truncate_prompt_tokens": {"enum": [-1, None]},
    },
}


def refine(name: str, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a struct with what is known of its fields."""
    properties: dict[str, Any] = schema.get("properties", {})
    known = VALUES.get(name, {})
    for field, values in INERT.get(name, {}).items():
        if field in properties and values is not None:
            properties[field] = {"enum": [None, *values]}
    return schema | {"properties": {field: known.get(field, {}) | one for field, one in properties.items()}}
