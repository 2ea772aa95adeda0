"""Shapes of Anthropic's message batches for the OpenAPI document: what clients may rely on."""

from typing import Annotated, Any, Final, Literal

import msgspec

from headrace.api.anthropic_batches import MAX_LISTED, BatchRequests
from headrace.api.openapi_operation import Operation


class MessageCounts(msgspec.Struct):
    """Requests of a batch; all are processing until all have ended."""

    processing: int
    succeeded: int
    errored: int
    canceled: int
    expired: int


class MessageBatchAnswer(msgspec.Struct):
    """`message_batch`. Times are RFC 3339."""

    id: str
    type: Literal["message_batch"]
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: MessageCounts
    created_at: str
    expires_at: str
    ended_at: str | None
    cancel_initiated_at: str | None
    archived_at: None
    results_url: str | None


class MessageBatchList(msgspec.Struct):
    """A page of message batches, newest first."""

    data: list[MessageBatchAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class MessageBatchDeleted(msgspec.Struct):
    """What is no more."""

    id: str
    type: Literal["message_batch_deleted"]


_QUERY: dict[str, Any] = {
    "after_id": str,
    "before_id": str,
    "limit": Annotated[int, msgspec.Meta(ge=1, le=MAX_LISTED)],
}
_ROOT: Final = "/v1/messages/batches"

MESSAGE_BATCH_OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", _ROOT): Operation("Answer conversations when nobody waits.", BatchRequests, MessageBatchAnswer),
    ("GET", _ROOT): Operation("Your message batches.", answer=MessageBatchList, query=_QUERY),
    ("GET", f"{_ROOT}/{{id}}"): Operation("A message batch as it stands.", answer=MessageBatchAnswer),
    ("DELETE", f"{_ROOT}/{{id}}"): Operation("Erase a message batch that is over.", answer=MessageBatchDeleted),
    ("POST", f"{_ROOT}/{{id}}/cancel"): Operation("Stop a message batch.", answer=MessageBatchAnswer),
    ("GET", f"{_ROOT}/{{id}}/results"): Operation("Its results, a line each.", media=("application/x-jsonl",)),
}
