"""Chat completions that are kept (`store: true`): what is kept of one, and how they are listed and shown again.

    GET    /v1/chat/completions                 {"object": "list", "data", "first_id", "last_id", "has_more"}
    GET    /v1/chat/completions/{id}            the answer as it was, with its metadata of now
    POST   /v1/chat/completions/{id}            {"metadata": {...}}: changes it
    DELETE /v1/chat/completions/{id}            {"object": "chat.completion.deleted", "id", "deleted": true}
    GET    /v1/chat/completions/{id}/messages   what the answer was asked for

Knows no database.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from headrace.api.openai import Call
from headrace.api.openai_answers import AnswerHead, AnswerWriter
from headrace.api.openai_fields import Message
from headrace.api.openai_refusal import show
from headrace.api.openai_stream import StreamWriter
from headrace.core.errors import InvalidRequest, NotFound
from headrace.core.events import Event
from headrace.core.service import CompletionPage, CompletionQuery, StoredCompletion

MAX_PAGE: Final = 100
_ORDERS: Final = {"asc": False, "desc": True}
_LIST_FIELDS: Final = ("after", "limit", "order", "model")
_METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)

_encode_json = msgspec.json.Encoder().encode


class KeptStream:
    """A stream of chunks that is also gathered into the answer that is kept."""

    def __init__(self, head: AnswerHead) -> None:
        self._stream = StreamWriter(head)
        self._whole = AnswerWriter(head)

    @property
    def is_done(self) -> bool:
        """True after Finished: nothing may follow."""
        return self._stream.is_done

    def encode(self, events: Iterable[Event]) -> bytes:
        """Chunks for events that are at hand together. Raises EngineFault, and InvalidRequest for too many
        log-probabilities to be kept."""
        events = tuple(events)
        self._whole.add(events)
        return self._stream.encode(events)

    def answer(self) -> bytes:
        """The whole answer. Raises EngineFault when the events ended too early."""
        return self._whole.encode()


class _Identity(msgspec.Struct):
    """What an answer says of itself."""

    id: str
    created: int
    model: str


def stored(call: Call, answer: bytes) -> StoredCompletion:
    """What is kept of a call that stores."""
    told = msgspec.json.decode(answer, type=_Identity)
    return StoredCompletion(
        id=told.id,
        created=told.created,
        model=told.model,
        messages=_encode_json(call.messages),
        answer=answer,
        metadata=call.metadata or {},
    )


def decode_list(query: Mapping[str, Sequence[str]], *, is_filtered: bool = True) -> CompletionQuery:
    """What a query asks for; `is_filtered`: by model and metadata, too. Raises InvalidRequest naming the field."""
    known = _LIST_FIELDS if is_filtered else _LIST_FIELDS[:-1]
    given: dict[str, str] = {}
    pairs: dict[str, str] = {}
    for name, values in query.items():
        match = _METADATA.fullmatch(name) if is_filtered else None
        if match is not None:
            pairs[match[1]] = values[-1]
        elif name in known:
            given[name] = values[-1]
        else:
            raise InvalidRequest(
                f"{name[:80]}: is not a field of this query; known are {', '.join(known)}.", param=name[:80]
            )
    order = given.get("order", "asc")
    if order not in _ORDERS:
        raise InvalidRequest(f"order: {show(order)} is none of {', '.join(_ORDERS)}.", param="order")
    return CompletionQuery(
        after=given.get("after"),
        limit=_limit(given.get("limit")),
        is_newest_first=_ORDERS[order],
        model=given.get("model"),
        metadata=pairs,
    )


def _limit(given: str | None) -> int:
    if given is None:
        return CompletionQuery().limit
    if not (given.isascii() and given.isdecimal() and len(given) <= 9 and 1 <= int(given) <= MAX_PAGE):
        raise InvalidRequest(f"limit: {show(given)} is not in [1, {MAX_PAGE}]; give a number inside.", param="limit")
    return int(given)


def encode_stored(found: StoredCompletion) -> bytes:
    """One completion."""
    return _encode_json(_told(found))


def encode_page(page: CompletionPage) -> bytes:
    """A page of completions."""
    return _page([_told(one) for one in page.completions], has_more=page.has_more)


def encode_deleted(completion_id: str) -> bytes:
    """What is said of a completion that is no longer there."""
    return _encode_json({"object": "chat.completion.deleted", "id": completion_id, "deleted": True})


def encode_messages(found: StoredCompletion, query: CompletionQuery) -> bytes:
    """A page of the messages that a completion answered. Raises NotFound for an `after` that is none of them."""
    messages = msgspec.json.decode(found.messages, type=list[Message])
    told = [_message(message, f"{found.id}-{index}") for index, message in enumerate(messages)]
    if query.is_newest_first:
        told.reverse()
    start = 0
    if query.after is not None:
        ids = [one["id"] for one in told]
        if query.after not in ids:
            raise NotFound(f"after: {show(query.after)} is no message of this completion.", param="after")
        start = ids.index(query.after) + 1
    return _page(told[start : start + query.limit], has_more=start + query.limit < len(told))


def _told(found: StoredCompletion) -> dict[str, Any]:
    answer: dict[str, Any] = msgspec.json.decode(found.answer)
    return answer | {"metadata": dict(found.metadata)}


def _message(message: Message, message_id: str) -> dict[str, Any]:
    told: dict[str, Any] = {"content": None, "name": None} | _bare(msgspec.to_builtins(message))
    parts = told["content"] if isinstance(told["content"], list) else None
    return told | {"id": message_id, "content": None if parts else told["content"], "content_parts": parts}


def _bare(value: Any) -> Any:
    """A value without fields that are null, which are those that were not sent."""
    if isinstance(value, dict):
        return {name: _bare(one) for name, one in value.items() if one is not None}
    return [_bare(one) for one in value] if isinstance(value, list) else value


def _page(entries: list[dict[str, Any]], *, has_more: bool) -> bytes:
    ids = [entry["id"] for entry in entries]
    ends = {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
    return _encode_json({"object": "list", "data": entries} | ends | {"has_more": has_more})
