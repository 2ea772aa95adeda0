"""What answers the Responses and Conversations routes, as their transports see it: values and one protocol.

`gateway/conversation.py` implements it; HTTP routes, background work and WebSocket lanes are its users and share every
event: a `ResponseEvent` is the same JSON object whether it is framed as a server-sent event or sent as a message.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from headrace.api.responses_cache import CacheWish
from headrace.core.errors import HeadraceError
from headrace.core.ledger import NO_PRICES, PriceList
from headrace.core.request import Request
from headrace.core.trust import Label

# An item of a conversation, in the shape and with the field names of the wire, with its id.
Item = Mapping[str, Any]

LAST_TYPES: Final = frozenset({"response.completed", "response.incomplete", "response.failed"})


@dataclass(frozen=True, slots=True)
class ResponseEvent:
    """One event of a response. `data` is a JSON object that begins with its type and ends with its sequence number.

    Those numbers count from 0. Events that tell the state of the whole response carry it as `response`, too. `error`
    is why a response failed.
    """

    type: str
    sequence_number: int
    data: bytes
    response: Mapping[str, Any] | None = None
    error: HeadraceError | None = None

    @property
    def is_last(self) -> bool:
        """Whether no event follows."""
        return self.type in LAST_TYPES


@dataclass(frozen=True, slots=True)
class History:
    """What a response can be continued from: everything that was said up to its end, and where that is kept.

    `thread` names the chain of responses that it is part of (the id of the first one); `labels` are those under which
    any of it was said, `worth` what items are labelled with, by id.
    """

    response_id: str
    thread: str
    items: tuple[Item, ...]
    labels: frozenset[str] = frozenset()
    worth: Mapping[str, Label] = field(default_factory=dict)


class LocalState(Protocol):
    """Responses that one connection remembers, of whatever was not stored, too. It is asked before the store."""

    def find(self, response_id: str) -> History | None:
        """What is remembered of a response."""
        ...

    def keep(self, history: History) -> None:
        """Remember a response that has ended well."""
        ...

    def evict(self, response_id: str) -> None:
        """Forget a response whose continuation failed; an unknown id is no error."""
        ...


@dataclass(slots=True)
class Halt:
    """Asks a running response to end: as incomplete, for `reason`, before its next event (None: go on)."""

    reason: str | None = None


@dataclass(frozen=True, slots=True)
class ToolName:
    """What a tool that the model knows under one name is on the wire."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


def qualified(name: str, namespace: str | None) -> str:
    """What the model knows a tool as."""
    return name if namespace is None else f"{namespace}__{name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateCall:
    """A decoded `POST /v1/responses`, or a `response.create` of a WebSocket.

    `request` is complete but for its messages, which need the history; its id is the response's. `items` are the new
    ones, `echo` the settings as the response object repeats them. `generates` false: read and keep, answer nothing.
    """

    request: Request
    items: tuple[Item, ...]
    echo: Mapping[str, Any]
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation_id: str | None = None
    store: bool = True
    stream: bool = False
    background: bool = False
    truncates: bool = False
    generates: bool = True
    include: frozenset[str] = frozenset()
    summarizes: bool = False
    tool_names: Mapping[str, ToolName] = field(default_factory=dict)
    cache: CacheWish = field(default_factory=CacheWish)
    prices: PriceList = NO_PRICES

    def reword(self, error: HeadraceError) -> HeadraceError:
        """A backend's refusal in the caller's words."""
        return reword(error)


# What the neutral request calls a field -> what it is on this wire.
_PARAMS: Final = {
    "max_tokens": "max_output_tokens",
    "response_format": "text.format",
    "messages": "input",
    "logprobs": "top_logprobs",
}


def reword(error: HeadraceError) -> HeadraceError:
    """An error with the field's name of this dialect in the place of the neutral one."""
    name = _PARAMS.get(error.param or "")
    if name is None:
        return error
    message = error.message
    if message.startswith(f"{error.param}:"):
        message = name + message.removeprefix(error.param or "")
    return type(error)(message, param=name, code=error.code, retry_after_s=error.retry_after_s)


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list is wanted: at most `limit` items after (or before) the item with that id."""

    limit: int = 20
    is_ascending: bool = False
    after: str | None = None
    before: str | None = None


class ResponsesService(Protocol):
    """Answers with a model, and remembers. Objects are JSON-ready; what another tenant owns is NotFound."""

    def run(
        self, call: CreateCall, *, local: LocalState | None = None, halt: Halt | None = None
    ) -> AsyncGenerator[ResponseEvent, None]:
        """Answer in the foreground. Ends after an event whose `is_last` is true; closing it cancels the work.

        Raises HeadraceError instead of a first event for what is refused, and never afterwards.
        """
        ...

    async def begin(self, call: CreateCall) -> Mapping[str, Any]:
        """Answer in the background; the response object as it stands, queued. Raises HeadraceError."""
        ...

    def follow(self, tenant: str, response_id: str, after: int | None = None) -> AsyncGenerator[ResponseEvent, None]:
        """Events of a background response with larger sequence numbers than `after`, as they come. Raises NotFound, and
        InvalidRequest for one that was not begun as a stream."""
        ...

    async def retrieve(self, tenant: str, response_id: str) -> Mapping[str, Any]:
        """A stored response object. Raises NotFound."""
        ...

    async def delete(self, tenant: str, response_id: str) -> None:
        """Forget a response and its items. Raises NotFound."""
        ...

    async def cancel(self, tenant: str, response_id: str) -> Mapping[str, Any]:
        """End a background response; its object. One that has ended stays as it is. Raises NotFound, InvalidRequest."""
        ...

    async def input_items(self, tenant: str, response_id: str, page: Page) -> tuple[Sequence[Item], bool]:
        """Items that a response was asked with, and whether there are more. Raises NotFound."""
        ...

    async def count(self, call: CreateCall) -> int:
        """Tokens that a call's input has for the model. Raises HeadraceError."""
        ...

    async def compact(self, call: CreateCall) -> Mapping[str, Any]:
        """A shorter input that says the same. Raises HeadraceError."""
        ...


class ConversationsService(Protocol):
    """Conversations: lists of items that responses read and add to. What another tenant owns is NotFound."""

    async def create_conversation(
        self,
        tenant: str,
        conversation_id: str,
        items: Sequence[Item],
        metadata: Mapping[str, str],
        labels: frozenset[str] = frozenset(),
    ) -> Mapping[str, Any]:
        """A new conversation object. Responses in it are under the labels of its items."""
        ...

    async def conversation(self, tenant: str, conversation_id: str) -> Mapping[str, Any]:
        """The conversation object. Raises NotFound."""
        ...

    async def update_conversation(
        self, tenant: str, conversation_id: str, metadata: Mapping[str, str]
    ) -> Mapping[str, Any]:
        """Give a conversation other metadata; its object. Raises NotFound."""
        ...

    async def delete_conversation(self, tenant: str, conversation_id: str) -> None:
        """Forget a conversation and its items. Raises NotFound."""
        ...

    async def add_items(
        self, tenant: str, conversation_id: str, items: Sequence[Item], labels: frozenset[str] = frozenset()
    ) -> Sequence[Item]:
        """Append items; they, as they are kept. Raises NotFound, and InvalidRequest for an id that is there already."""
        ...

    async def items(self, tenant: str, conversation_id: str, page: Page) -> tuple[Sequence[Item], bool]:
        """A part of the list, and whether there is more. Raises NotFound."""
        ...

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Item:
        """One item. Raises NotFound."""
        ...

    async def delete_item(self, tenant: str, conversation_id: str, item_id: str) -> Mapping[str, Any]:
        """Forget one item; the conversation object. Raises NotFound."""
        ...
