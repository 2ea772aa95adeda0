"""What is asked about: messages or a prompt, and what of it is worth keeping in the cache.

OpenAI marks breakpoints on parts; the neutral request marks messages. A mark becomes that of its whole message: what is
kept begins with everything up to the part, so nothing that was asked to be kept is left out.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from headrace.api.openai_fields import INERT_MESSAGE, ChatBody, Part, RoutedBody
from headrace.api.openai_fields import Message as WireMessage
from headrace.api.openai_refusal import refuse_inert, show
from headrace.api.openai_tools import answered_call, earlier_calls
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import MAX_BREAKPOINTS, Breakpoint, CacheHints, Effort, Message, Reasoning, Role, TextPart

MAX_TOKEN_ID: Final = 2**31 - 1
MAX_SALT_CHARS: Final = 256

_ROLES = {role.value: role for role in Role}
# The older word for a tool's result.
_READ_ROLES = _ROLES | {"function": Role.TOOL}
# `max` asks for more than we tell apart.
_EFFORTS = {effort.value: effort for effort in Effort} | {"max": Effort.XHIGH}
_THINKING = {"enabled": True, "disabled": False}
# What only an assistant's messages have.
_ASSISTANT_FIELDS = ("refusal", "tool_calls", "function_call", "reasoning_content", "reasoning")

# prompt_cache_options.ttl -> seconds; OpenAI's default first.
_TTLS_S = {"30m": 1800.0, "12h": 43_200.0}
_RETENTIONS_S = {"in_memory": None, "24h": 86_400.0}


def messages(given: Sequence[WireMessage]) -> tuple[Message, ...]:
    """The conversation. Raises InvalidRequest or UnsupportedField with the path of what is wrong."""
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(given))


def prompts(given: str | list[int | str | list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """The texts or the token ids of a completion: OpenAI has a spelling for one of either, and one for several."""
    if isinstance(given, str):
        return (given,)
    if not given:
        raise InvalidRequest("prompt: must not be empty; give a string or a list of token ids.", param="prompt")
    if all(isinstance(token, int) for token in given):
        return (tokens(given, "prompt"),)
    found: list[str | tuple[int, ...]] = []
    for index, one in enumerate(given):
        if isinstance(one, int):
            raise InvalidRequest(
                f"prompt[{index}]: {show(one)} is a token id among whole prompts; give ids of one prompt, or put each "
                "prompt's ids into a list of their own.",
                param="prompt",
            )
        found.append(one if isinstance(one, str) else tokens(one, f"prompt[{index}]"))
    return tuple(found)


def reasoning(effort: str | None, path: str) -> Reasoning:
    """How much the model is to think. Raises InvalidRequest naming the efforts."""
    if effort is None:
        return Reasoning()
    if effort not in _EFFORTS:
        raise InvalidRequest(f"{path}: {show(effort)} is none of {', '.join(_EFFORTS)}.", param=path)
    return Reasoning(_EFFORTS[effort])


def chat_reasoning(body: ChatBody) -> Reasoning:
    """How much a chat's model is to think: OpenAI says it by degrees, vLLM and DeepSeek by a switch. Raises
    InvalidRequest for two that contradict each other."""
    wanted = reasoning(body.reasoning_effort, "reasoning_effort")
    for path, thinks in _switches(body):
        if thinks is None:
            continue
        if wanted.effort is not None and thinks == (wanted.effort is Effort.NONE):
            raise InvalidRequest(f"{path}: contradicts reasoning_effort; send one of them.", param=path)
        if not thinks:
            wanted = Reasoning(Effort.NONE)
    return wanted


def _switches(body: ChatBody) -> Iterator[tuple[str, bool | None]]:
    if body.chat_template_kwargs is not None:
        yield "chat_template_kwargs.enable_thinking", body.chat_template_kwargs.enable_thinking
        yield "chat_template_kwargs.thinking", body.chat_template_kwargs.thinking
    if body.thinking is not None:
        if body.thinking.type not in _THINKING:
            raise InvalidRequest(
                f"thinking.type: {show(body.thinking.type)} is none of {', '.join(_THINKING)}.", param="thinking.type"
            )
        yield "thinking.type", _THINKING[body.thinking.type]


def tokens(given: list[Any], path: str) -> tuple[int, ...]:
    """Token ids. Raises InvalidRequest naming the place of one that is none."""
    for index, token in enumerate(given):
        if not 0 <= token <= MAX_TOKEN_ID:
            raise InvalidRequest(
                f"{path}[{index}]: {show(token)} is not a token id; ids are in [0, {MAX_TOKEN_ID}].",
                param=path.partition("[")[0],
            )
    return tuple(given)


def cache_hints(body: RoutedBody, *, explain: bool, fresh: bool) -> CacheHints:
    """What a body says about reuse."""
    salt = body.cache_salt
    if salt is not None and not 1 <= len(salt) <= MAX_SALT_CHARS:
        raise InvalidRequest(
            f"cache_salt: {len(salt)} characters given; it must have 1 to {MAX_SALT_CHARS}, or be left out.",
            param="cache_salt",
        )
    points = _breakpoints(body) if isinstance(body, ChatBody) else ()
    return CacheHints(salt=salt or "", breakpoints=points, explain=explain, fresh=fresh)


def _breakpoints(body: ChatBody) -> tuple[Breakpoint, ...]:
    """As OpenAI does it: the whole input counts as one unless the mode is explicit, and the latest marks win."""
    options = body.prompt_cache_options
    marked = [index for index, message in enumerate(body.messages) if _is_marked(message)]
    retention = "in_memory" if body.prompt_cache_retention is None else body.prompt_cache_retention
    kept_s = _look_up(retention, _RETENTIONS_S, "prompt_cache_retention")
    if options is None and not marked:
        return () if kept_s is None else (Breakpoint(ttl_s=kept_s),)
    mode = (options and options.mode) or "implicit"
    ttl_s = max(_look_up((options and options.ttl) or "30m", _TTLS_S, "prompt_cache_options.ttl"), kept_s or 0.0)
    _look_up(mode, {"implicit": 1, "explicit": 0}, "prompt_cache_options.mode")
    if mode == "explicit":
        if not marked:
            raise UnsupportedField(
                "prompt_cache_options.mode: 'explicit' without a prompt_cache_breakpoint would turn the cache off, "
                "which is not supported; mark a part, or send 'implicit'.",
                param="prompt_cache_options.mode",
            )
        return tuple(Breakpoint(index, ttl_s) for index in marked[-MAX_BREAKPOINTS:])
    return (*(Breakpoint(index, ttl_s) for index in marked[1 - MAX_BREAKPOINTS :]), Breakpoint(None, ttl_s))


def _is_marked(message: WireMessage) -> bool:
    return isinstance(message.content, list) and any(part.prompt_cache_breakpoint for part in message.content)


def _look_up(given: str, table: dict[str, Any], path: str) -> Any:
    if given not in table:
        raise UnsupportedField(f"{path}: {show(given)} is not supported; send {' or '.join(table)}.", param=path)
    return table[given]


def _message(message: WireMessage, path: str) -> Message:
    role = _READ_ROLES.get(message.role)
    if role is None:
        raise InvalidRequest(
            f"{path}.role: {show(message.role)} is no role; use {', '.join(_ROLES)}.", param=f"{path}.role"
        )
    refuse_inert(message, INERT_MESSAGE, f"{path}.")
    _check_fields(message, role, path)
    parts = _parts(message, role, path)
    if role is Role.TOOL:
        return Message(role, parts, message.name, tool_call_id=answered_call(message, path))
    if role is not Role.ASSISTANT:
        return Message(role, parts, message.name)
    calls = earlier_calls(message, path)
    if not parts and not calls and not message.refusal:
        raise _no_content(path, "give a string, a list of text parts, or tool_calls")
    if message.refusal:
        parts = (*parts, TextPart(message.refusal))
    return Message(role, parts, message.name, calls, reasoning=_reasoning(message, path))


def _check_fields(message: WireMessage, role: Role, path: str) -> None:
    names = () if role is Role.ASSISTANT else _ASSISTANT_FIELDS
    for name in names if role is Role.TOOL else (*names, "tool_call_id"):
        if getattr(message, name):
            raise InvalidRequest(
                f"{path}.{name}: does not belong to a message of role {role.value!r}; leave it out.",
                param=f"{path}.{name}",
            )


def _parts(message: WireMessage, role: Role, path: str) -> tuple[TextPart, ...]:
    content = message.content
    if content is None or content == []:
        if role is Role.ASSISTANT:
            return ()
        raise _no_content(path, "give a string or a list of text parts")
    if isinstance(content, str):
        return (TextPart(content),)
    return tuple(_part(part, role, f"{path}.content[{index}]") for index, part in enumerate(content))


def _no_content(path: str, remedy: str) -> InvalidRequest:
    return InvalidRequest(f"{path}.content: is missing or empty; {remedy}.", param=f"{path}.content")


def _reasoning(message: WireMessage, path: str) -> str:
    old, new = message.reasoning_content, message.reasoning
    if old and new and old != new:
        raise InvalidRequest(
            f"{path}.reasoning: disagrees with reasoning_content, its other name; send one of them.",
            param=f"{path}.reasoning",
        )
    return old or new or ""


def _part(part: Part, role: Role, path: str) -> TextPart:
    if part.type == "refusal" and role is Role.ASSISTANT:
        text, name = part.refusal, "refusal"
    elif part.type == "text":
        text, name = part.text, "text"
    else:
        raise UnsupportedField(
            f"{path}.type: {show(part.type)} is not supported by the models served here, which read text only; send "
            "parts of type 'text'.",
            param=f"{path}.type",
        )
    if text is None:
        raise InvalidRequest(
            f"{path}.{name}: is missing; a part of type {part.type!r} needs it.", param=f"{path}.{name}"
        )
    mark = part.prompt_cache_breakpoint
    if mark is not None and mark.mode not in (None, "explicit"):
        raise UnsupportedField(
            f"{path}.prompt_cache_breakpoint.mode: {show(mark.mode)} is not supported; send 'explicit'.",
            param=f"{path}.prompt_cache_breakpoint.mode",
        )
    return TextPart(text)
