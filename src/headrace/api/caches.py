"""Explicit caches over the wire, as Gemini has them: `/v1/caches`, with the names of its Python client.

Content is Gemini's `contents` or OpenAI's `messages`, with a `system_instruction` before them; tools are Gemini's
`function_declarations` or OpenAI's functions. Times are a `ttl` such as "300s", or an `expire_time` in RFC 3339.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from headrace.api.openai_fields import Function
from headrace.api.openai_fields import Message as WireMessage
from headrace.api.openai_input import messages as openai_messages
from headrace.api.openai_refusal import refuse_body, show
from headrace.core.cache import Cache, CacheContent, CacheOrder, Lifetime
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.file import ListQuery, Page
from headrace.core.request import Message, Role, TextPart, ToolChoice, ToolMode
from headrace.core.request import Tool as NeutralTool

PREFIX: Final = "caches/"
MAX_NAME_CHARS: Final = 128
MAX_PAGE: Final = 1000
DEFAULT_PAGE: Final = 100

_TTL = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")
_ROLES: Final = {None: Role.USER, "user": Role.USER, "model": Role.ASSISTANT}
_MODES: Final = {"AUTO": ToolMode.AUTO, "ANY": ToolMode.REQUIRED, "NONE": ToolMode.NONE}

_encode_json = msgspec.json.Encoder().encode


class CachePart(msgspec.Struct, forbid_unknown_fields=True):
    """A part of content; only text is known."""

    text: str


class CacheTurn(msgspec.Struct, forbid_unknown_fields=True):
    """A turn, in Gemini's words."""

    parts: list[CachePart]
    role: str | None = None


class Declaration(msgspec.Struct, forbid_unknown_fields=True):
    """A function, in Gemini's words."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    parameters_json_schema: dict[str, Any] | None = None


class CacheTool(msgspec.Struct, forbid_unknown_fields=True):
    """Functions in Gemini's words, or one in OpenAI's."""

    function_declarations: list[Declaration] | None = None
    type: str | None = None
    function: Function | None = None


class CallingConfig(msgspec.Struct, forbid_unknown_fields=True):
    """Whether an answer calls functions, and which."""

    mode: str | None = None
    allowed_function_names: list[str] | None = None


class ToolConfig(msgspec.Struct, forbid_unknown_fields=True):
    """What an answer may do with tools."""

    function_calling_config: CallingConfig | None = None


class CacheBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/caches`."""

    model: str
    contents: str | CacheTurn | list[CacheTurn] | None = None
    messages: list[WireMessage] | None = None
    system_instruction: str | CacheTurn | None = None
    tools: list[CacheTool] | None = None
    tool_config: ToolConfig | None = None
    ttl: str | None = None
    expire_time: str | None = None
    display_name: str | None = None
    kms_key_name: Any = None


class CacheChange(msgspec.Struct, forbid_unknown_fields=True):
    """`PATCH /v1/caches/{id}`: only times change."""

    ttl: str | None = None
    expire_time: str | None = None


_FIELDS_AT: Final[dict[str, tuple[str, ...]]] = {
    "contents": CacheTurn.__struct_fields__,
    "contents[]": CacheTurn.__struct_fields__,
    "contents[].parts[]": CachePart.__struct_fields__,
    "tools[]": CacheTool.__struct_fields__,
    "tools[].function_declarations[]": Declaration.__struct_fields__,
    "messages[]": WireMessage.__struct_fields__,
}
_decode_body = msgspec.json.Decoder(CacheBody).decode
_decode_change = msgspec.json.Decoder(CacheChange).decode


def decode_cache(data: bytes) -> CacheOrder:
    """Read the body of `POST /v1/caches`. Raises InvalidRequest or UnsupportedField by name."""
    try:
        body = _decode_body(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, CacheBody, _FIELDS_AT)
    if not body.model:
        raise InvalidRequest("model: must not be empty; GET /v1/models lists the names.", param="model")
    if body.kms_key_name is not None:
        raise UnsupportedField("kms_key_name: is not supported; leave it out.", param="kms_key_name")
    name = body.display_name or ""
    if len(name) > MAX_NAME_CHARS:
        raise InvalidRequest(
            f"display_name: {len(name)} characters given; at most {MAX_NAME_CHARS} are allowed.", param="display_name"
        )
    content = CacheContent(messages=_messages(body), tools=_tools(body.tools or []), tool_choice=_choice(body))
    return CacheOrder(model=body.model, content=content, lifetime=_lifetime(body), display_name=name)


def decode_change(data: bytes) -> Lifetime:
    """Read the body of a PATCH. Raises InvalidRequest by name."""
    try:
        body = _decode_change(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, CacheChange, {})
    if body.ttl is None and body.expire_time is None:
        raise InvalidRequest("ttl: is missing; send ttl or expire_time, which is all that can change.", param="ttl")
    return _lifetime(body)


def read_page(query: Mapping[str, list[str]]) -> ListQuery:
    """What a list's query asks for. Raises InvalidRequest and UnsupportedField by name."""
    for name in query:
        if name not in ("page_size", "page_token"):
            raise UnsupportedField(
                f"{name[:100]}: is not supported in this list; possible are page_size, page_token.", param=name[:100]
            )
    size = query.get("page_size", [str(DEFAULT_PAGE)])[-1]
    if not (size.isascii() and size.isdecimal() and len(size) < 10 and 1 <= int(size) <= MAX_PAGE):
        raise InvalidRequest(f"page_size: {show(size)} is not a whole number in [1, {MAX_PAGE}].", param="page_size")
    token = query.get("page_token", [""])[-1]
    return ListQuery(limit=int(size), after=token.removeprefix(PREFIX) or None)


def encode_cache(cache: Cache) -> bytes:
    """A cache."""
    return _encode_json(_cache(cache))


def encode_caches(page: Page[Cache]) -> bytes:
    """A page of caches."""
    body: dict[str, Any] = {"cached_contents": [_cache(cache) for cache in page.items]}
    if page.has_more:
        body["next_page_token"] = page.items[-1].id
    return _encode_json(body)


def _cache(cache: Cache) -> dict[str, Any]:
    return {
        "name": PREFIX + cache.id,
        "display_name": cache.display_name,
        "model": cache.model,
        "create_time": _shown(cache.created_s),
        "update_time": _shown(cache.updated_s),
        "expire_time": _shown(cache.expires_s),
        "usage_metadata": {"total_token_count": cache.num_tokens},
    }


def _shown(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _messages(body: CacheBody) -> tuple[Message, ...]:
    if body.contents is not None and body.messages is not None:
        raise InvalidRequest("messages: contents is given as well; send one of them.", param="messages")
    system = body.system_instruction
    made: list[Message] = []
    if system is not None:
        text = system if isinstance(system, str) else "".join(part.text for part in system.parts)
        made.append(Message(Role.SYSTEM, (TextPart(text),)))
    if body.messages is not None:
        made += openai_messages(body.messages)
    contents = body.contents
    if isinstance(contents, str):
        made.append(Message(Role.USER, (TextPart(contents),)))
    elif contents is not None:
        turns = contents if isinstance(contents, list) else [contents]
        made += [_turn(turn, f"contents[{index}]") for index, turn in enumerate(turns)]
    if not made:
        raise InvalidRequest(
            "contents: is missing; give contents, messages or a system_instruction to keep.",
            param="contents",
            code="missing_required_parameter",
        )
    return tuple(made)


def _turn(turn: CacheTurn, path: str) -> Message:
    if turn.role not in _ROLES:
        raise InvalidRequest(f"{path}.role: {show(turn.role)} is neither user nor model.", param=f"{path}.role")
    return Message(_ROLES[turn.role], tuple(TextPart(part.text) for part in turn.parts))


def _tools(given: list[CacheTool]) -> tuple[NeutralTool, ...]:
    made: list[NeutralTool] = []
    for index, tool in enumerate(given):
        function = tool.function
        if (function is None) == (tool.function_declarations is None) or tool.type not in (None, "function"):
            raise UnsupportedField(
                f"tools[{index}]: only functions are supported; send function_declarations, or a function.",
                param=f"tools[{index}]",
            )
        if function is not None:
            schema = function.parameters or {}
            made.append(NeutralTool(function.name, function.description or "", schema, bool(function.strict)))
        for one in tool.function_declarations or ():
            schema = one.parameters_json_schema or _plain_schema(one.parameters or {})
            made.append(NeutralTool(one.name, one.description or "", schema))
    return tuple(made)


def _plain_schema(schema: Any) -> Any:
    """A schema in JSON Schema's words: Gemini writes types in capitals, and nullable beside them."""
    if isinstance(schema, list):
        return [_plain_schema(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _plain_schema(value) for key, value in schema.items() if key != "nullable"}
    if isinstance(schema.get("type"), str):
        made["type"] = schema["type"].lower()
        if schema.get("nullable") is True:
            made["type"] = [made["type"], "null"]
    return made


def _choice(body: CacheBody) -> ToolChoice:
    config = None if body.tool_config is None else body.tool_config.function_calling_config
    if config is None:
        return ToolChoice()
    mode = config.mode or "AUTO"
    path = "tool_config.function_calling_config.mode"
    if mode not in _MODES:
        raise InvalidRequest(f"{path}: {show(mode)} is none of {', '.join(_MODES)}.", param=path)
    return ToolChoice(_MODES[mode], tuple(config.allowed_function_names or ()))


def _lifetime(body: CacheBody | CacheChange) -> Lifetime:
    if body.ttl is not None and body.expire_time is not None:
        raise InvalidRequest("expire_time: ttl is given as well; send one of them.", param="expire_time")
    if body.ttl is not None:
        match = _TTL.fullmatch(body.ttl)
        if match is None:
            raise InvalidRequest(f"ttl: {show(body.ttl)} is no time; write seconds such as '300s'.", param="ttl")
        return Lifetime(ttl_s=float(match[1]))
    if body.expire_time is not None:
        return Lifetime(expires_s=_unix_s(body.expire_time))
    return Lifetime()


def _unix_s(text: str) -> float:
    try:
        at = datetime.fromisoformat(text) if len(text) <= 40 else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise InvalidRequest(
            f"expire_time: {show(text)} is no time; write for example '2030-01-02T03:04:05Z'.", param="expire_time"
        )
    return at.timestamp()
