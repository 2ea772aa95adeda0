"""Shapes of answers for the OpenAPI document: what clients may rely on.

Only the document is made from them. Encoders do not use them, so that tests can hold each against the other.
"""

from typing import Any, Literal

import msgspec


class PromptDetails(msgspec.Struct):
    """What is known of the prompt's tokens."""

    cached_tokens: int
    cache_write_tokens: int


class CompletionDetails(msgspec.Struct):
    """What is known of the answer's tokens."""

    reasoning_tokens: int


class AnswerUsage(msgspec.Struct, omit_defaults=True):
    """Token counts of an answer."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_cache_hit_tokens: int
    prompt_cache_miss_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails
    cost: float = 0.0


class InputUsage(msgspec.Struct):
    """Token counts of inputs that were embedded or scored."""

    prompt_tokens: int
    total_tokens: int


class CalledFunction(msgspec.Struct):
    """A function that the model calls; `arguments` is JSON text."""

    name: str
    arguments: str


class CalledTool(msgspec.Struct):
    """A tool call."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(msgspec.Struct, omit_defaults=True):
    """What the model says."""

    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    tool_calls: list[CalledTool] = []
    function_call: CalledFunction | None = None
    reasoning_content: str = ""
    reasoning: str = ""


class ChatChoice(msgspec.Struct):
    """One answer of several."""

    index: int
    message: AnswerMessage
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length", "tool_calls", "function_call", "content_filter"]


class ChatAnswer(msgspec.Struct):
    """`chat.completion`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[ChatChoice]
    usage: AnswerUsage


class ChatAnswerList(msgspec.Struct):
    """A page of stored answers."""

    object: Literal["list"]
    data: list[ChatAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedAnswer(msgspec.Struct):
    """A stored answer that is no longer there."""

    object: Literal["chat.completion.deleted"]
    id: str
    deleted: bool


class StoredMessage(msgspec.Struct):
    """A message that a stored answer was asked for."""

    id: str
    role: str
    content: str | None
    content_parts: list[dict[str, Any]] | None


class StoredMessageList(msgspec.Struct):
    """A page of messages."""

    object: Literal["list"]
    data: list[StoredMessage]
    first_id: str | None
    last_id: str | None
    has_more: bool


class CompletionChoice(msgspec.Struct):
    """One continuation of several."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class CompletionAnswer(msgspec.Struct):
    """`text_completion`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str | None
    choices: list[CompletionChoice]
    usage: AnswerUsage


class Vector(msgspec.Struct):
    """One vector: numbers, or base64 of float32 in little-endian order."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingAnswer(msgspec.Struct):
    """A list of vectors, in the order of the inputs."""

    object: Literal["list"]
    data: list[Vector]
    model: str
    usage: InputUsage


class ScoreEntry(msgspec.Struct):
    """The score of one pair."""

    index: int
    object: Literal["score"]
    score: float


class ScoreAnswer(msgspec.Struct):
    """A list of scores, in the order of the pairs."""

    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[ScoreEntry]
    usage: InputUsage


class RerankEntry(msgspec.Struct):
    """A document and how relevant it is."""

    index: int
    relevance_score: float


class RerankAnswer(msgspec.Struct):
    """Documents, the best first."""

    id: str
    model: str
    usage: InputUsage
    results: list[RerankEntry]


class Card(msgspec.Struct):
    """A model or an adapter."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    context_length: int
    digest: str | None
    parent: str | None
    loaded: bool
    aliases: list[str]
    tasks: list[str]


class CardList(msgspec.Struct):
    """Every model that is served."""

    object: Literal["list"]
    data: list[Card]


class CacheCreation(msgspec.Struct):
    """Tokens newly kept, by how long."""

    ephemeral_5m_input_tokens: int
    ephemeral_1h_input_tokens: int


class MessagesUsage(msgspec.Struct):
    """Token counts as Anthropic's clients know them: the three inputs add up to the prompt."""

    input_tokens: int
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    cache_creation: CacheCreation
    output_tokens: int


class TextBlock(msgspec.Struct, tag="text"):
    """Text that the model says."""

    text: str


class ThinkingBlock(msgspec.Struct, tag="thinking"):
    """What the model thought before."""

    thinking: str
    signature: str


class ToolUseBlock(msgspec.Struct, tag="tool_use"):
    """A tool that the model calls."""

    id: str
    name: str
    input: dict[str, Any]


class MessagesAnswer(msgspec.Struct):
    """Anthropic's `message`."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[TextBlock | ThinkingBlock | ToolUseBlock]
    stop_reason: Literal[
        "end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded", "refusal"
    ]
    stop_sequence: str | None
    usage: MessagesUsage


class CountTokensAnswer(msgspec.Struct):
    """How many tokens a conversation has."""

    input_tokens: int


class TokenPiece(msgspec.Struct):
    """A token and what it reads as: text, or bytes that are no whole characters."""

    id: int
    piece: str | list[int]


class TokenizeAnswer(msgspec.Struct, omit_defaults=True):
    """Token ids; of a `content` nothing else."""

    tokens: list[int | TokenPiece]
    count: int = 0
    max_model_len: int = 0
    token_strs: list[str] | None = None


class DetokenizeAnswer(msgspec.Struct):
    """One text, under two names."""

    prompt: str
    content: str
