"""What the OpenAPI document says of single fields beyond their types: ranges, words, values that ask for nothing.

Tables only, one row for each struct of a body. The checks themselves are `core.request`'s and the codecs'; a range that
is missing here is no defect, for what is out of range is refused with 400 either way.
"""

from collections.abc import Mapping
from typing import Any, Final

from headrace.api import anthropic_fields, input_fields, ollama_fields, openai_fields, responses_fields
from headrace.api import tokens as token_fields
from headrace.api.service_tier import TIERS
from headrace.core.request import (
    MAX_CHOICES,
    MAX_INPUTS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
    Effort,
)

Inert = Mapping[str, tuple[Any, ...] | None]

# Struct -> its fields that are taken only with values that ask for nothing we would leave undone.
INERT: Final[dict[type, Inert]] = {
    openai_fields.ChatBody: openai_fields.INERT_CHAT,
    openai_fields.CompletionBody: openai_fields.INERT_COMPLETION,
    openai_fields.Message: openai_fields.INERT_MESSAGE,
    token_fields.TokenizeBody: token_fields.INERT_TOKENIZE,
    openai_fields.StreamOptions: openai_fields.INERT_STREAM_OPTIONS,
    ollama_fields.OllamaGenerateBody: ollama_fields.INERT_GENERATE,
    input_fields.EmbeddingBody: input_fields.INERT_EMBEDDING,
    input_fields.ScoreBody: input_fields.INERT_INPUTS,
    input_fields.RerankBody: input_fields.INERT_RERANK,
    anthropic_fields.MessagesBody: anthropic_fields.INERT_MESSAGES,
    anthropic_fields.PromptBody: anthropic_fields.INERT_PROMPT,
    anthropic_fields.Block: anthropic_fields.INERT_BLOCK,
    anthropic_fields.OfferedTool: anthropic_fields.INERT_TOOL,
    anthropic_fields.Turn: anthropic_fields.INERT_SYSTEM_MESSAGE,
    responses_fields.CreateBody: responses_fields.INERT_SETTINGS,
    responses_fields.CountBody: responses_fields.INERT_SETTINGS,
    responses_fields.CompactBody: responses_fields.INERT_SETTINGS,
    responses_fields.ReasoningField: responses_fields.INERT_REASONING,
    responses_fields.ResponseStreamOptions: responses_fields.INERT_STREAM_OPTIONS,
    responses_fields.ResponseCacheOptions: responses_fields.INERT_CACHE_OPTIONS,
}

_COUNT: Final = {"minimum": 0, "maximum": 2**31 - 1}
_TOKEN: Final = {"type": "integer", **_COUNT}
_NAME: Final = {"pattern": "^[A-Za-z0-9_.-]{1,128}$"}
_BLOCKS: Final = [
    *("text", "document", "search_result", "tool_result", "thinking", "redacted_thinking", "tool_use"),
    "tool_reference",
]
_CUTS: Final = {"enum": [-1, None]}
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
_ANTHROPIC: Final[dict[str, Any]] = {
    "messages": {"minItems": 1},
    "tools": {"maxItems": MAX_TOOLS},
    "max_tokens": _COUNT,
    "temperature": {"minimum": 0, "maximum": 1},
    "top_k": _COUNT,
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "thread": {"type": "null"},
    "stop_sequences": {"maxItems": MAX_STOP_STRINGS},
}

VALUES: Final[dict[type, dict[str, Any]]] = {
    openai_fields.ChatBody: _SAMPLING
    | {
        "messages": {"minItems": 1},
        "tools": {"maxItems": MAX_TOOLS},
        "max_completion_tokens": _COUNT,
        "top_logprobs": {"minimum": 0, "maximum": MAX_TOP_LOGPROBS},
        "reasoning_effort": {"enum": [None, *Effort, "max"]},
        "service_tier": {"enum": [None, *TIERS]},
    },
    openai_fields.CompletionBody: _SAMPLING
    | {
        "prompt": {"minLength": 1, "minItems": 1},
        "best_of": {"minimum": 1, "maximum": MAX_CHOICES},
        "logprobs": {"minimum": 0, "maximum": MAX_TOP_LOGPROBS},
    },
    openai_fields.Part: {"type": {"enum": ["text", "refusal"]}},
    openai_fields.Tool: {"type": {"enum": ["function", "custom"]}},
    openai_fields.NamedTool: {"type": {"enum": ["function", "custom"]}},
    openai_fields.Choice: {"type": {"enum": ["function", "allowed_tools", "custom"]}},
    openai_fields.AllowedTools: {"mode": {"enum": ["auto", "required"]}},
    openai_fields.Function: {"name": _NAME},
    openai_fields.Message: {"role": {"enum": ["system", "developer", "user", "assistant", "tool", "function"]}},
    input_fields.EmbeddingBody: {
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
        "truncate_prompt_tokens": _CUTS,
    },
    input_fields.ScoreBody: {"truncate_prompt_tokens": _CUTS},
    input_fields.RerankBody: {
        "query": {"minLength": 1},
        "documents": {"minItems": 1, "maxItems": MAX_INPUTS},
        "top_n": {"minimum": 0},
        "truncate_prompt_tokens": _CUTS,
    },
    anthropic_fields.MessagesBody: _ANTHROPIC,
    anthropic_fields.PromptBody: _ANTHROPIC,
    anthropic_fields.Turn: {
        "role": {"enum": ["user", "assistant", "system"]},
        "clear_at": {"enum": ["never", "next_user_message", None]},
    },
    anthropic_fields.Block: {"type": {"enum": _BLOCKS}},
    anthropic_fields.OfferedTool: {"name": _NAME},
    ollama_fields.OllamaMessage: {"role": {"enum": ["system", "user", "assistant", "tool"]}},
    anthropic_fields.CacheControl: {"type": {"enum": ["ephemeral"]}, "ttl": {"enum": ["5m", "1h", None]}},
    anthropic_fields.OfferedChoice: {"type": {"enum": ["auto", "any", "tool", "none"]}},
    anthropic_fields.OutputFormat: {"type": {"enum": ["json_schema"]}},
    anthropic_fields.Thinking: {
        "type": {"enum": ["enabled", "adaptive", "disabled"]},
        "budget_tokens": {"minimum": 1024, "maximum": 2**31 - 1},
        "display": {"enum": ["summarized", "omitted", None]},
    },
}


# Fields that mean the same in every body; in an answer a request may have named no model.
_EVERYWHERE: Final[dict[str, Any]] = {"model": {"minLength": 1}}


def refine(kind: type | None, schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a struct with what is known of its fields; None for a struct that no table knows."""
    if "properties" not in schema:
        return schema
    is_answer = schema.get("title", "").endswith("Answer")
    properties, known = dict(schema["properties"]), {} if is_answer else dict(_EVERYWHERE)
    if kind is not None:
        known |= VALUES.get(kind, {})
    for field, values in INERT.get(kind, {}).items() if kind is not None else ():
        if field in properties and values is not None:
            properties[field] = {"enum": [None, *values]}
    return schema | {"properties": {field: known.get(field, {}) | one for field, one in properties.items()}}


def struct_named(component: str) -> type | None:
    """The struct of the tables that a component of the document is made of: msgspec gives it the struct's name, and its
    module's before it where two have one name."""
    kinds = {*INERT, *VALUES}
    full = {f"{kind.__module__}.{kind.__qualname__}": kind for kind in kinds}
    named = [kind for kind in kinds if kind.__name__ == component]
    return full.get(component) or (named[0] if len(named) == 1 else None)


def shown_name(component: str) -> str:
    """A component's name as the document shows it: `AnthropicMessage` for a `Message` of two that are called so."""
    module, _, name = component.rpartition(".")
    dialect = module.rpartition(".")[2].partition("_")[0]
    return {"openai": "OpenAI"}.get(dialect, dialect.capitalize()) + name
