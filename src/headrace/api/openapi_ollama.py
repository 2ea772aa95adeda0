"""Shapes of Ollama's routes for the OpenAPI document: what clients may rely on in answers, and a row for each route.

Only the document is made from them. Encoders do not use them, so that tests can hold each against the other.
"""

from typing import Any, Final, Literal

import msgspec

from headrace.api.ollama_fields import OllamaChatBody, OllamaEmbedBody, OllamaEmbeddingsBody, OllamaGenerateBody
from headrace.api.ollama_models import OllamaPullBody, OllamaShowBody
from headrace.api.openapi_operation import Operation

LINES: Final = "application/x-ndjson"


class OllamaAnswerMessage(msgspec.Struct):
    """What the model says."""

    role: Literal["assistant"]
    content: str


class OllamaAnswer(msgspec.Struct, omit_defaults=True):
    """An answer, or a line of one; the counts and durations (nanoseconds) come with the last."""

    model: str
    created_at: str
    done: bool
    message: OllamaAnswerMessage | msgspec.UnsetType = msgspec.UNSET
    response: str | msgspec.UnsetType = msgspec.UNSET
    done_reason: str | msgspec.UnsetType = msgspec.UNSET
    total_duration: int | msgspec.UnsetType = msgspec.UNSET
    load_duration: int | msgspec.UnsetType = msgspec.UNSET
    prompt_eval_count: int | msgspec.UnsetType = msgspec.UNSET
    prompt_eval_duration: int | msgspec.UnsetType = msgspec.UNSET
    eval_count: int | msgspec.UnsetType = msgspec.UNSET
    eval_duration: int | msgspec.UnsetType = msgspec.UNSET


class OllamaVectors(msgspec.Struct):
    """Vectors in the order of the inputs."""

    model: str
    embeddings: list[list[float]]


class OllamaVector(msgspec.Struct):
    """One vector."""

    embedding: list[float]


class OllamaModel(msgspec.Struct):
    """A served model."""

    name: str
    model: str
    size: int
    digest: str
    details: dict[str, Any]


class OllamaModels(msgspec.Struct):
    """Served models."""

    models: list[OllamaModel]


class OllamaShown(msgspec.Struct):
    """What is known of a model."""

    details: dict[str, Any]
    model_info: dict[str, Any]
    capabilities: list[str]
    template: str
    modified_at: str


class OllamaStatus(msgspec.Struct):
    """What became of it."""

    status: str


class OllamaVersion(msgspec.Struct):
    """The version of Ollama whose interface this is, and Headrace's own."""

    version: str
    headrace: str


OLLAMA_OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", "/api/chat"): Operation("Answer a conversation (Ollama).", OllamaChatBody, OllamaAnswer, (LINES,)),
    ("POST", "/api/generate"): Operation("Answer a prompt (Ollama).", OllamaGenerateBody, OllamaAnswer, (LINES,)),
    ("POST", "/api/embed"): Operation("The vectors of texts (Ollama).", OllamaEmbedBody, OllamaVectors),
    ("POST", "/api/embeddings"): Operation("The vector of a text (Ollama).", OllamaEmbeddingsBody, OllamaVector),
    ("GET", "/api/tags"): Operation("The models that are served (Ollama).", answer=OllamaModels),
    ("GET", "/api/ps"): Operation("The models in memory (Ollama).", answer=OllamaModels),
    ("POST", "/api/show"): Operation("What is known of a model (Ollama).", OllamaShowBody, OllamaShown),
    ("POST", "/api/pull"): Operation("Fetch a model of the catalog.", OllamaPullBody, OllamaStatus, (LINES,)),
    ("GET", "/api/version"): Operation("The version (Ollama).", answer=OllamaVersion),
    ("GET", "/"): Operation("That somebody is there (Ollama).", media=("text/plain",)),
}
