"""What the OpenAPI document says of each route: one row, with the struct of its body and of its answer.

Tables and shapes only. A shape of an answer is what clients may rely on; answers may have more fields. A route without
a row is in the document too, as one that nothing is known of.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import msgspec

from headrace.api.anthropic_fields import MessagesBody, PromptBody
from headrace.api.input_fields import EmbeddingBody, RerankBody, ScoreBody
from headrace.api.openai_fields import ChatBody, CompletionBody
from headrace.api.openapi_answers import (
    Card,
    CardList,
    ChatAnswer,
    CompletionAnswer,
    CountAnswer,
    EmbeddingAnswer,
    MessagesAnswer,
    RerankAnswer,
    ScoreAnswer,
)

EVENTS: Final = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path. `media` are the kinds of its answer that are no JSON, `takes` the kind of its body."""

    summary: str
    body: Any = None
    answer: Any = None
    media: tuple[str, ...] = ()
    query: Mapping[str, Any] = field(default_factory=dict)
    takes: str = "application/json"

    def types(self) -> Iterator[Any]:
        """Every type that it names."""
        yield from (one for one in (self.body, self.answer, *self.query.values()) if one is not None)


class LoraBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which adapter is meant."""

    lora_name: str


class LoadBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which model is meant."""

    model: str


class UnloadBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which model is meant, and whether its requests may end first."""

    model: str
    wait: bool = True


class Unloaded(msgspec.Struct):
    """What is not in memory any more."""

    id: str
    object: Literal["model"]
    unloaded: Literal[True]


class Status(msgspec.Struct):
    """llama.cpp's word for where a model is."""

    value: Literal["unloaded", "loading", "loaded"]


class ResidentCard(msgspec.Struct):
    """A served model and what it holds."""

    id: str
    object: Literal["model"]
    status: Status
    state: Literal["absent", "waiting", "loading", "ready", "leaving"]
    bytes_held: int
    num_requests: int
    idle_s: float | None
    unloads_in_s: float | None


class ResidentList(msgspec.Struct):
    """Every served model."""

    object: Literal["list"]
    data: list[ResidentCard]
    bytes_held: int
    memory_bytes: int | None


class Changed(msgspec.Struct):
    """A model after it was loaded or unloaded."""

    success: Literal[True]
    model: ResidentCard


class Version(msgspec.Struct):
    """What runs here."""

    name: Literal["headrace"]
    version: str


class Health(msgspec.Struct):
    """That it runs."""

    status: Literal["alive", "ready"]


class ErrorFields(msgspec.Struct):
    """OpenAI's error object; all four are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    """A refusal as OpenAI's clients know it."""

    error: ErrorFields


class AnthropicErrorFields(msgspec.Struct):
    """Anthropic's error object."""

    type: str
    message: str


class AnthropicError(msgspec.Struct):
    """A refusal as Anthropic's clients know it."""

    type: Literal["error"]
    error: AnthropicErrorFields
    request_id: str


class OllamaError(msgspec.Struct):
    """A refusal as Ollama's clients know it."""

    error: str


# A dialect's name -> the shape of its refusals.
ERRORS: Final[dict[str, Any]] = {"openai": OpenAIError, "anthropic": AnthropicError, "ollama": OllamaError}

UNKNOWN: Final = Operation("A route of this server.", answer=Any)

_SCORE: Final = Operation("How well pairs of texts go together.", ScoreBody, ScoreAnswer)
_RERANK: Final = Operation("Documents, the best for a query first.", RerankBody, RerankAnswer)

OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", "/v1/chat/completions"): Operation("Answer a conversation.", ChatBody, ChatAnswer, (EVENTS,)),
    ("POST", "/v1/completions"): Operation("Continue a prompt.", CompletionBody, CompletionAnswer, (EVENTS,)),
    ("POST", "/v1/messages"): Operation("Answer a conversation.", MessagesBody, MessagesAnswer, (EVENTS,)),
    ("POST", "/v1/messages/count_tokens"): Operation("Count a conversation's tokens.", PromptBody, CountAnswer),
    ("POST", "/v1/embeddings"): Operation("The vectors of texts.", EmbeddingBody, EmbeddingAnswer),
    ("POST", "/v1/score"): _SCORE,
    ("POST", "/score"): _SCORE,
    ("POST", "/v1/rerank"): _RERANK,
    ("POST", "/v2/rerank"): _RERANK,
    ("POST", "/rerank"): _RERANK,
    ("GET", "/v1/models"): Operation("The models that are served.", answer=CardList),
    ("GET", "/v1/models/{id*}"): Operation("One model.", answer=Card),
    ("POST", "/v1/load_lora_adapter"): Operation("Load an adapter.", LoraBody, Card),
    ("POST", "/v1/unload_lora_adapter"): Operation("Unload an adapter.", LoraBody, Unloaded),
    ("GET", "/models"): Operation("Every served model and what it holds.", answer=ResidentList),
    ("POST", "/models/load"): Operation("Load a model.", LoadBody, Changed),
    ("POST", "/models/unload"): Operation("Unload a model.", UnloadBody, Changed),
    ("GET", "/health"): Operation("Whether the process lives.", answer=Health),
    ("GET", "/ready"): Operation("Whether requests are answered.", answer=Health),
    ("GET", "/version"): Operation("The version.", answer=Version),
    ("GET", "/metrics"): Operation("Prometheus text.", media=("text/plain",)),
    ("GET", "/openapi.json"): Operation("This document.", answer=dict[str, Any]),
}
