"""Every field of Anthropic's Messages routes: its type where we support it, its harmless values where we do not.

Tables only. A field is in one of three places: typed in a struct below (supported), a row of an INERT table (known,
accepted only with values that ask for nothing we would leave undone), or nowhere (unknown). Unknown fields are refused,
unless the request names betas: whoever sends new fields (Claude Code does with every release) also sends
`anthropic-beta`, and for them `anthropic_body.py` leaves out what it does not know and says so in the answer. Nothing
here raises.
"""

from typing import Any, Final

import msgspec

# Any value is accepted: the field changes no answer, so leaving it unread is honest.
ANYTHING: tuple[Any, ...] | None = None

# Field -> values that mean "off" (null always does). Everything else is refused by name.
INERT_PROMPT: dict[str, tuple[Any, ...] | None] = {
    "betas": ANYTHING,  # some transports put the header's values here
    "billing_policy": ANYTHING,  # nobody is billed
    "compaction": (),
    "container": (),
    "mcp_servers": ([],),
    "speed": ("standard",),
    "user_profile_id": ANYTHING,
    "workspace_id": ANYTHING,
}

INERT_MESSAGES: dict[str, tuple[Any, ...] | None] = INERT_PROMPT | {
    "fallback_credit_token": ANYTHING,
    "fallbacks": ANYTHING,  # other models, should this one refuse to answer: none here does
    "inference_geo": (),  # a promise about places that we cannot make
    "service_tier": ("auto", "standard_only"),
}

# What any block may carry beside what its kind needs.
INERT_BLOCK: dict[str, tuple[Any, ...] | None] = {
    "caller": ({"type": "direct"},),
    "citations": ([], {"enabled": False}),
    "toolset_name": (),
}

INERT_SYSTEM_MESSAGE: dict[str, tuple[Any, ...] | None] = {"output_config": ({},)}

INERT_TOOL: dict[str, tuple[Any, ...] | None] = {
    "allowed_callers": (["direct"],),
    "eager_input_streaming": ANYTHING,  # arguments are always streamed as they are written
}


class CacheControl(msgspec.Struct, forbid_unknown_fields=True):
    """Says that what stands up to here is worth keeping."""

    type: str
    ttl: str | None = None


class Block(msgspec.Struct, forbid_unknown_fields=True):
    """One block of a message, of the system prompt or of a tool's result. Fields of all kinds are named here, so that a
    refusal can speak of the kind."""

    type: str
    text: str | None = None
    cache_control: CacheControl | None = None
    # tool_use
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None
    # tool_result, search_result, document
    tool_use_id: str | None = None
    content: "str | list[Block] | None" = None
    is_error: bool | None = None
    source: Any = None
    title: str | None = None
    context: str | None = None
    # tool_reference
    tool_name: str | None = None
    # thinking, redacted_thinking
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    # kinds that are refused
    file_id: Any = None
    tool: Any = None
    caller: Any = None
    citations: Any = None
    toolset_name: Any = None


class Turn(msgspec.Struct, forbid_unknown_fields=True):
    """One turn as it comes over the wire."""

    role: str
    content: str | list[Block] | None = None
    clear_at: str | None = None
    output_config: Any = None


class OfferedTool(msgspec.Struct, forbid_unknown_fields=True):
    """A tool: the caller's own (`custom`), or one of Anthropic's that the caller runs."""

    name: str | None = None
    type: str | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None
    defer_loading: bool | None = None
    input_examples: list[dict[str, Any]] | None = None
    max_characters: int | None = None
    allowed_callers: Any = None
    eager_input_streaming: Any = None
    # of kinds that are refused
    allowed_domains: Any = None
    blocked_domains: Any = None
    citations: Any = None
    configs: Any = None
    default_config: Any = None
    display_height_px: Any = None
    display_number: Any = None
    display_width_px: Any = None
    enable_zoom: Any = None
    max_content_tokens: Any = None
    max_uses: Any = None
    mcp_server_name: Any = None
    model: Any = None
    user_location: Any = None


class OfferedChoice(msgspec.Struct, forbid_unknown_fields=True):
    """What the answer may do with the tools."""

    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct, forbid_unknown_fields=True):
    """Whether and how long the model thinks before it answers, and whether its thoughts are shown."""

    type: str
    budget_tokens: int | None = None
    display: str | None = None


class OutputFormat(msgspec.Struct, forbid_unknown_fields=True):
    """The form of the answer."""

    type: str
    schema: dict[str, Any] | bool | None = None


class OutputConfig(msgspec.Struct, forbid_unknown_fields=True):
    """How much effort the answer is worth, and its form."""

    effort: str | None = None
    format: OutputFormat | None = None
    task_budget: Any = None


class MessagesMetadata(msgspec.Struct, forbid_unknown_fields=True):
    """Who asks, as the caller knows them."""

    user_id: str | None = None


class Diagnostics(msgspec.Struct, forbid_unknown_fields=True):
    """Asks why the cache did not have what the named message's request had put there."""

    previous_message_id: str | None = None


class Edit(msgspec.Struct, forbid_unknown_fields=True):
    """One change of the conversation before it is read."""

    type: str
    keep: Any = None
    trigger: Any = None
    clear_at_least: Any = None
    clear_tool_inputs: Any = None
    exclude_tools: Any = None
    instructions: Any = None
    pause_after_compaction: Any = None


class ContextManagement(msgspec.Struct, forbid_unknown_fields=True):
    """Changes of the conversation before it is read."""

    edits: list[Edit] | None = None


class PromptBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What is asked about: `POST /v1/messages/count_tokens`, and all that both routes take."""

    model: str
    messages: list[Turn]
    system: str | list[Block] | None = None
    tools: list[OfferedTool] | None = None
    tool_choice: OfferedChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: OutputFormat | None = None
    cache_control: CacheControl | None = None
    context_management: ContextManagement | None = None
    betas: Any = None
    billing_policy: Any = None
    compaction: Any = None
    container: Any = None
    mcp_servers: Any = None
    speed: Any = None
    thread: Any = None
    user_profile_id: Any = None
    workspace_id: Any = None


class MessagesBody(PromptBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/messages`."""

    max_tokens: int
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    metadata: MessagesMetadata | None = None
    diagnostics: Diagnostics | None = None
    fallback_credit_token: Any = None
    fallbacks: Any = None
    inference_geo: Any = None
    service_tier: Any = None


# The struct of each object in a body, by a path such as `messages[].content[]`; the body itself is not among them.
STRUCTS_AT: Final[dict[str, type[msgspec.Struct]]] = {
    "cache_control": CacheControl,
    "context_management": ContextManagement,
    "context_management.edits[]": Edit,
    "diagnostics": Diagnostics,
    "messages[]": Turn,
    "messages[].content[]": Block,
    "messages[].content[].cache_control": CacheControl,
    "messages[].content[].content[]": Block,
    "messages[].content[].content[].cache_control": CacheControl,
    "metadata": MessagesMetadata,
    "output_config": OutputConfig,
    "output_config.format": OutputFormat,
    "output_format": OutputFormat,
    "system[]": Block,
    "system[].cache_control": CacheControl,
    "thinking": Thinking,
    "tool_choice": OfferedChoice,
    "tools[]": OfferedTool,
    "tools[].cache_control": CacheControl,
}

FIELDS_AT: Final[dict[str, tuple[str, ...]]] = {path: one.__struct_fields__ for path, one in STRUCTS_AT.items()}
