"""Responses and Conversations in the OpenAPI document: a row for each route, and the shapes of what they answer.

In the manner of `openapi_routes.py`: only the document is made from these shapes, encoders do not use them.
"""

from typing import Any, Final, Literal

import msgspec

from headrace.api.metadata import MetadataBody
from headrace.api.openapi_operation import EVENTS, Operation
from headrace.api.responses_fields import (
    CompactBody,
    ConversationBody,
    CountBody,
    CreateBody,
    ItemsBody,
)


class CachedInput(msgspec.Struct):
    """What is known of the input's tokens."""

    cached_tokens: int
    cache_write_tokens: int


class ReasonedOutput(msgspec.Struct):
    """What is known of the output's tokens."""

    reasoning_tokens: int


class ResponseUsage(msgspec.Struct):
    """Token counts of a response."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: CachedInput
    output_tokens_details: ReasonedOutput


class ResponseFailure(msgspec.Struct):
    """Why a response failed."""

    code: str
    message: str


class ResponseAnswer(msgspec.Struct):
    """A response object. Items are told apart by their type."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    model: str
    output: list[dict[str, Any]]
    error: ResponseFailure | None
    incomplete_details: dict[str, str] | None
    usage: ResponseUsage | None
    previous_response_id: str | None
    conversation: dict[str, str] | None
    instructions: str | None
    tools: list[dict[str, Any]]
    tool_choice: str | dict[str, Any]
    parallel_tool_calls: bool
    max_output_tokens: int | None
    max_tool_calls: int | None
    text: dict[str, Any]
    reasoning: dict[str, Any]
    truncation: Literal["auto", "disabled"]
    temperature: float
    top_p: float
    store: bool
    background: bool
    metadata: dict[str, str]


class CompactionAnswer(msgspec.Struct):
    """A shorter input that says the same."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[dict[str, Any]]
    usage: ResponseUsage


class CountAnswer(msgspec.Struct):
    """How long an input is."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class ItemPage(msgspec.Struct):
    """A part of a list of items."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool


class ConversationAnswer(msgspec.Struct):
    """A conversation, without its items."""

    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class DeletedAnswer(msgspec.Struct):
    """That something is gone."""

    id: str
    object: str
    deleted: Literal[True]


_PAGE: Final[dict[str, Any]] = {"limit": int, "order": Literal["asc", "desc"], "after": str, "before": str}
_FOLLOW: Final[dict[str, Any]] = {"stream": bool, "starting_after": int}
_RESPONSE: Final = "/v1/responses/{id}"
_CONVERSATION: Final = "/v1/conversations/{id}"

RESPONSES_OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", "/v1/responses"): Operation("Answer input.", CreateBody, ResponseAnswer, (EVENTS,)),
    ("POST", "/v1/responses/input_tokens"): Operation("Count the tokens of input.", CountBody, CountAnswer),
    ("POST", "/v1/responses/compact"): Operation("Make input shorter.", CompactBody, CompactionAnswer),
    ("GET", _RESPONSE): Operation("A stored response.", answer=ResponseAnswer, media=(EVENTS,), query=_FOLLOW),
    ("DELETE", _RESPONSE): Operation("Forget a response.", answer=DeletedAnswer),
    ("POST", f"{_RESPONSE}/cancel"): Operation("End a background response.", answer=ResponseAnswer),
    ("GET", f"{_RESPONSE}/input_items"): Operation("What a response was asked.", answer=ItemPage, query=_PAGE),
    ("POST", "/v1/conversations"): Operation(
        "Begin a conversation.", ConversationBody, ConversationAnswer, needs_body=False
    ),
    ("GET", _CONVERSATION): Operation("A conversation.", answer=ConversationAnswer),
    ("POST", _CONVERSATION): Operation("Change its metadata.", MetadataBody, ConversationAnswer),
    ("DELETE", _CONVERSATION): Operation("Forget a conversation.", answer=DeletedAnswer),
    ("POST", f"{_CONVERSATION}/items"): Operation("Add items.", ItemsBody, ItemPage),
    ("GET", f"{_CONVERSATION}/items"): Operation("Items of a conversation.", answer=ItemPage, query=_PAGE),
    ("GET", f"{_CONVERSATION}/items/{{item_id}}"): Operation("One item.", answer=dict[str, Any]),
    ("DELETE", f"{_CONVERSATION}/items/{{item_id}}"): Operation("Forget one item.", answer=ConversationAnswer),
}
