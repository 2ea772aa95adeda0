"""A neutral request as the body of Anthropic's Messages, and a caller's own body for a backend that speaks it too.

    system, developer at the beginning   -> system blocks         later ones            -> a turn of role system
    user, tool results                   -> one user turn         assistant             -> text and tool_use blocks
    cache breakpoints                    -> cache_control on the last block of the message that they end
    answer_start                         -> the last turn, of the assistant (prefill)

What an assistant thought is left out: Anthropic takes thinking back only with its own signature, and no other protocol
carries that. A caller that speaks Messages itself is passed through, signatures and all. Knows no sockets.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from headrace.api.anthropic_answers import tool_id, tool_input
from headrace.api.outbound.body import encode_body, offered, refuse_names, refuse_unsaid, unsaid
from headrace.api.outbound.call_ids import plain_id
from headrace.api.outbound.codec import OutboundCall, Quirks
from headrace.api.outbound.messages_models import row_of, thinking
from headrace.api.outbound.reframing import bound_field, rewrite, wants_stream, write_fields
from headrace.core.errors import InvalidRequest
from headrace.core.gateway import RawBody
from headrace.core.ledger import LONG_TTL_S
from headrace.core.request import (
    FormatKind,
    Message,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    Task,
    Tool,
    ToolChoice,
    ToolMode,
)

PROTOCOL: Final = "Anthropic's Messages"
PATH: Final = "/v1/messages"
COUNT_PATH: Final = "/v1/messages/count_tokens"
VERSION: Final = (b"anthropic-version", b"2023-06-01")

_SAID: Final = frozenset({"answer_start", "top_k", "response_format"})
_INSTRUCTIONS: Final = (Role.SYSTEM, Role.DEVELOPER)

Block = dict[str, Any]


def encode(request: Request, model: str, quirks: Quirks) -> OutboundCall:
    """The call that asks a Messages backend. Raises UnsupportedField and InvalidRequest."""
    refuse_unsaid(request, _SAID, PROTOCOL)
    refuse_names(request, PROTOCOL)
    if request.task not in (Task.GENERATE, Task.COUNT):
        raise unsaid("inputs", PROTOCOL)
    is_count = request.task is Task.COUNT
    body = _prompt(request, model)
    if not is_count:
        body |= _answer(request, body["max_tokens"])
    else:
        del body["max_tokens"]
    path = COUNT_PATH if is_count else PATH
    return OutboundCall(path=path, body=encode_body(body, quirks), is_stream=not is_count, headers=(VERSION,))


def reframe(raw: RawBody, model: str, max_tokens: int | None, quirks: Quirks) -> OutboundCall:
    """The caller's body with the backend's name of the model and the bound of the answer. Raises InvalidRequest for a
    bound that is no number and would have to be lowered."""
    fields = rewrite(raw.fields, model, quirks)
    is_count = raw.path.endswith("/count_tokens")
    if not is_count:
        bound_field(fields, "max_tokens", max_tokens)
    return OutboundCall(
        path=COUNT_PATH if is_count else PATH,
        body=write_fields(fields),
        is_stream=wants_stream(fields),
        headers=(VERSION,),
    )


def _prompt(request: Request, model: str) -> dict[str, Any]:
    """What is read, and what bounds it: `max_tokens` is in it, for thinking has to fit under it."""
    max_tokens = request.limits.max_tokens
    if max_tokens is None:
        max_tokens = row_of(model).max_tokens
    thinks, effort = thinking(request.reasoning, model, max_tokens)
    if thinks is not None and thinks["type"] != "disabled" and not _can_think(request, thinks["type"]):
        thinks = None
    talk = _Talk()
    for index, message in enumerate(request.messages or ()):
        talk.add(index, message)
    if request.answer_start:
        talk.extend("assistant", [_text(request.answer_start)])
    if not talk.turns:
        raise InvalidRequest("messages: has no text to be answered; give a user message.", param="messages")
    allowed, name = offered(request)
    tools = [_tool(tool) for tool in allowed]
    _mark(request, talk, tools)
    output = {"effort": effort, "format": _format(request.response_format)}
    return {
        "model": model,
        "max_tokens": max_tokens,
        "system": talk.system or None,
        "messages": talk.turns,
        "tools": tools or None,
        "tool_choice": _choice(request.tool_choice, name) if tools else None,
        "thinking": thinks,
        "output_config": {name: value for name, value in output.items() if value is not None} or None,
    }


def _can_think(request: Request, kind: str) -> bool:
    """Whether a wish to think goes with the rest; a model that does not think answers as ever.

    A call cannot be forced, nor may tokens be drawn otherwise than usual. With a budget, what goes on after calls must
    begin with the signed thinking that came before them, which nobody has.
    """
    said = [message for message in request.messages or () if message.role is Role.ASSISTANT]
    if kind == "enabled" and said and said[-1].tool_calls:
        return False
    if request.tool_choice.mode is ToolMode.REQUIRED:
        return False
    sampling, is_wish = request.sampling, request.reasoning.max_tokens is None
    return not is_wish or (sampling.temperature == 1 and sampling.top_p == 1 and not sampling.top_k)


def _answer(request: Request, max_tokens: int) -> dict[str, Any]:
    """What an answer is made by, which a count does not take."""
    user = request.principal.user
    return _sampling(request.sampling) | {
        "max_tokens": max_tokens,
        "stop_sequences": list(request.limits.stop) or None,
        "metadata": None if user is None else {"user_id": user},
        "stream": True,
    }


def _sampling(sampling: Sampling) -> dict[str, Any]:
    """Only what was asked for: newer models refuse all three."""
    if sampling.temperature > 1:
        raise unsaid("temperature", PROTOCOL, f"{sampling.temperature} is above 1, its largest; give 0 to 1")
    return {
        "temperature": sampling.temperature if sampling.temperature != 1 else None,
        "top_p": sampling.top_p if sampling.top_p < 1 else None,
        "top_k": sampling.top_k or None,
    }


@dataclass(slots=True)
class _Talk:
    """System blocks and turns as they grow, and the last block of each message."""

    system: list[Block] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    last: dict[int, Block] = field(default_factory=dict)

    def add(self, index: int, message: Message) -> None:
        """Take the next message."""
        blocks = list(_blocks(message))
        if not blocks:
            return  # a turn without a word; Anthropic takes no empty text
        self.last[index] = blocks[-1]
        if message.role in _INSTRUCTIONS and not self.turns:
            self.system += blocks
        else:
            self.extend(_ROLES[message.role], blocks)

    def extend(self, role: str, blocks: list[Block]) -> None:
        """Let somebody say more."""
        if not self.turns or self.turns[-1]["role"] != role:
            self.turns.append({"role": role, "content": []})
        self.turns[-1]["content"] += blocks


_ROLES: Final = {
    Role.SYSTEM: "system",
    Role.DEVELOPER: "system",
    Role.USER: "user",
    Role.TOOL: "user",
    Role.ASSISTANT: "assistant",
}


def _blocks(message: Message) -> Iterator[Block]:
    text = message.text
    if message.role is Role.TOOL:
        result: Block = {"type": "tool_result", "tool_use_id": tool_id(plain_id(message.tool_call_id or ""))}
        yield result | ({"content": [_text(text)]} if text else {})
        return
    if text:
        yield _text(text)
    for call in message.tool_calls:
        yield {
            "type": "tool_use",
            "id": tool_id(plain_id(call.id)),
            "name": call.name,
            "input": tool_input(call.arguments),
        }


def _text(text: str) -> Block:
    return {"type": "text", "text": text}


def _tool(tool: Tool) -> dict[str, Any]:
    schema: Mapping[str, Any] = tool.parameters if "type" in tool.parameters else {"type": "object", **tool.parameters}
    offered: dict[str, Any] = {"name": tool.name, "input_schema": schema}
    if tool.description:
        offered["description"] = tool.description
    if tool.strict:
        offered["strict"] = True
    return offered


def _choice(choice: ToolChoice, name: str | None) -> dict[str, Any] | None:
    if choice == ToolChoice():
        return None
    if choice.mode is ToolMode.NONE:
        return {"type": "none"}
    kind: dict[str, Any] = {"type": "auto" if choice.mode is ToolMode.AUTO else "any"}
    if name is not None:
        kind = {"type": "tool", "name": name}
    return kind | ({"disable_parallel_tool_use": True} if choice.max_calls == 1 else {})


def _format(wanted: ResponseFormat) -> dict[str, Any] | None:
    if wanted.kind is FormatKind.TEXT:
        return None
    if wanted.kind is not FormatKind.JSON_SCHEMA or not isinstance(wanted.schema, Mapping):
        raise unsaid("response_format", PROTOCOL, f"{wanted.kind.value} is no form of its answers; use a JSON schema")
    return {"type": "json_schema", "schema": wanted.schema}


def _mark(request: Request, talk: _Talk, tools: list[dict[str, Any]]) -> None:
    """Put cache marks where breakpoints end. A request with a salt of its own is kept nowhere: there all of this
    gateway's tenants are one."""
    if request.cache.salt:
        return
    num_messages = len(request.messages or ())
    points = sorted(
        (num_messages - 1 if point.message is None else point.message, point.ttl_s)
        for point in request.cache.breakpoints
    )
    is_long = True
    for message, ttl_s in points:
        block = (tools[-1] if tools else None) if message < 0 else _last_before(talk.last, message)
        is_long = is_long and ttl_s >= LONG_TTL_S  # a longer time cannot follow a shorter one
        if block is not None:
            block["cache_control"] = {"type": "ephemeral", "ttl": "1h" if is_long else "5m"}


def _last_before(last: Mapping[int, Block], message: int) -> Block | None:
    return next((last[index] for index in range(message, -1, -1) if index in last), None)
