"""Every field of the Responses and Conversations routes: its type where we support it, its harmless values where not.

Tables only, in the manner of `openai_fields.py`: a field is typed (supported), a row of an INERT table (known, accepted
only with values that ask for nothing we would leave undone), or nowhere (unknown). Items of an input are typed one by
one, because their type decides which fields they have. Nothing here raises.
"""

from typing import Any

import msgspec

from headrace.api.openai_fields import ANYTHING, RoutedBody

# Field -> values that mean "off" (null always does). Everything else is refused by name.
INERT_SETTINGS: dict[str, tuple[Any, ...] | None] = {
    "access_programs": (),
    "background_options": ({},),
    "client_metadata": ANYTHING,  # Codex's: tells about the client
    "context_management": ([],),
    "image": ANYTHING,  # how images are read, and a model that reads none has refused them by then
    "moderation": (),
    "personality": (),
    "prompt": (),
}

INERT_REASONING: dict[str, tuple[Any, ...] | None] = {"context": ("auto",), "mode": ("standard",)}

INERT_STREAM_OPTIONS: dict[str, tuple[Any, ...] | None] = {
    "include_obfuscation": (False, True),
    "include_usage": (True,),  # Chat's, which load tools send here too: the last event always tells it
}

INERT_CACHE_OPTIONS: dict[str, tuple[Any, ...] | None] = {"prewarm": (False,), "comparison_response_id": ()}

# Fields of a tool that ask nothing of a model.
INERT_CUSTOM: dict[str, tuple[Any, ...] | None] = {
    "allowed_callers": (["direct"],),
    "async_": (False,),
    "defer_loading": (False,),
}

INERT_FUNCTION: dict[str, tuple[Any, ...] | None] = INERT_CUSTOM | {
    "output_schema": ANYTHING,  # tells programs what comes back; the model reads what did
}

# What comes back when a client repeats an item that it got from us or from somebody else.
INERT_CALL: dict[str, tuple[Any, ...] | None] = {"async_": (False,), "caller": ({"type": "direct"},)}


class ItemMark(msgspec.Struct, forbid_unknown_fields=True):
    """Says that what stands up to the end of a part is worth keeping."""

    mode: str | None = None
    ttl: str | None = None


class ItemPart(msgspec.Struct, forbid_unknown_fields=True):
    """One element of a message's content. Fields of other kinds are named so that a refusal can speak of the kind."""

    type: str
    text: str | None = None
    refusal: str | None = None
    annotations: Any = None
    logprobs: Any = None
    prompt_cache_breakpoint: ItemMark | None = None
    image_url: Any = None
    file_id: Any = None
    file_data: Any = None
    file_url: Any = None
    filename: Any = None
    detail: Any = None
    input_audio: Any = None
    video_url: Any = None


class MessageItem(msgspec.Struct, forbid_unknown_fields=True):
    """What somebody said."""

    role: str
    content: str | list[ItemPart]
    type: str = "message"
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class FunctionCallItem(msgspec.Struct, forbid_unknown_fields=True):
    """A function that the model called."""

    type: str
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None
    namespace: str | None = None
    async_: Any = msgspec.field(default=None, name="async")
    caller: Any = None


class CustomCallItem(msgspec.Struct, forbid_unknown_fields=True):
    """A custom tool that the model called, with free text."""

    type: str
    call_id: str
    name: str
    input: str
    id: str | None = None
    status: str | None = None
    namespace: str | None = None
    async_: Any = msgspec.field(default=None, name="async")
    caller: Any = None


class CallOutputItem(msgspec.Struct, forbid_unknown_fields=True):
    """What a called tool said."""

    type: str
    call_id: str
    output: str | list[ItemPart]
    id: str | None = None
    status: str | None = None
    caller: Any = None


class ReasoningItem(msgspec.Struct, forbid_unknown_fields=True):
    """What the model thought."""

    type: str
    summary: list[ItemPart] = []
    id: str | None = None
    content: list[ItemPart] | None = None
    encrypted_content: str | None = None
    status: str | None = None


class CompactionItem(msgspec.Struct, forbid_unknown_fields=True):
    """What an earlier part of the conversation was compacted to."""

    type: str
    encrypted_content: str
    id: str | None = None
    created_by: Any = None


class ReferenceItem(msgspec.Struct, forbid_unknown_fields=True):
    """An item that is stored."""

    id: str
    type: str | None = None


# `type` -> how such an item is read.
ITEMS: dict[str, type[msgspec.Struct]] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": CallOutputItem,
    "custom_tool_call": CustomCallItem,
    "custom_tool_call_output": CallOutputItem,
    "reasoning": ReasoningItem,
    "compaction": CompactionItem,
    "item_reference": ReferenceItem,
}


class FunctionToolField(msgspec.Struct, forbid_unknown_fields=True):
    """A function that the caller runs."""

    type: str
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: Any = None
    async_: Any = msgspec.field(default=None, name="async")
    defer_loading: Any = None
    output_schema: Any = None


class CustomFormatField(msgspec.Struct, forbid_unknown_fields=True):
    """What the text for a custom tool looks like: anything, or a grammar's language."""

    type: str
    syntax: str | None = None
    definition: str | None = None


class CustomToolField(msgspec.Struct, forbid_unknown_fields=True):
    """A tool that takes free text."""

    type: str
    name: str
    description: str | None = None
    format: CustomFormatField | None = None
    allowed_callers: Any = None
    async_: Any = msgspec.field(default=None, name="async")
    defer_loading: Any = None


class NamespaceToolField(msgspec.Struct, forbid_unknown_fields=True):
    """Functions that belong together."""

    type: str
    name: str
    tools: list[dict[str, Any]]
    description: str | None = None


class TextFormatField(msgspec.Struct, forbid_unknown_fields=True):
    """The form of the answer."""

    type: str = "text"
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class TextField(msgspec.Struct, forbid_unknown_fields=True):
    """What the answer's text is like."""

    format: TextFormatField | None = None
    verbosity: str | None = None


class ReasoningField(msgspec.Struct, forbid_unknown_fields=True):
    """How much the model thinks, and whether that is told as a summary."""

    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None
    context: Any = None
    mode: Any = None


class ResponseStreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options that only a streamed response has."""

    include_obfuscation: Any = None
    include_usage: Any = None


class ResponseCacheOptions(msgspec.Struct, forbid_unknown_fields=True):
    """`prompt_cache_options`: whether the whole input is kept too (`implicit`), and for how long."""

    mode: str | None = None
    ttl: str | None = None
    prewarm: Any = None
    comparison_response_id: Any = None


class AskedBody(RoutedBody, forbid_unknown_fields=True, kw_only=True):
    """What says what is asked about: the same for an answer, a count and a compaction."""

    input: str | list[Any] | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    text: TextField | None = None
    reasoning: ReasoningField | None = None
    truncation: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: ResponseCacheOptions | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    access_programs: Any = None
    background_options: Any = None
    client_metadata: Any = None
    context_management: Any = None
    image: Any = None
    moderation: Any = None
    personality: Any = None
    prompt: Any = None


class CreateBody(AskedBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/responses`."""

    include: list[str] | None = None
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    store: bool | None = None
    background: bool | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    top_logprobs: int | None = None


class CountBody(AskedBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/responses/input_tokens`, where the model may be left out."""

    model: str = ""


class CompactBody(AskedBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/responses/compact`."""


class ConversationBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/conversations`."""

    items: list[Any] | None = None
    metadata: dict[str, str] | None = None


class ItemsBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/conversations/{id}/items`."""

    items: list[Any]


# Whose fields a path names, for suggestions.
FIELDS_AT: dict[str, tuple[str, ...]] = {
    "text.format": TextFormatField.__struct_fields__,
    "text": TextField.__struct_fields__,
    "reasoning": ReasoningField.__struct_fields__,
    "prompt_cache_options": ResponseCacheOptions.__struct_fields__,
    "stream_options": ResponseStreamOptions.__struct_fields__,
}
