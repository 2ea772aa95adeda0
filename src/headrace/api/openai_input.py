"""What is asked about: messages or a prompt, and what of it is worth keeping in the cache.

OpenAI marks breakpoints on parts; the neutral request marks messages. A mark becomes that of its whole message: what is
kept begins with everything up to the part, so nothing that was asked to be kept is left out.
"""

from typing import Any, Final

from headrace.api.openai_fields import INERT_MESSAGE, ChatBody, Part, RoutedBody
from headrace.api.openai_fields import Message as WireMessage
from headrace.api.openai_refusal import refuse_inert, show
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import MAX_BREAKPOINTS, Breakpoint, CacheHints, Message, Role, TextPart

MAX_TOKEN_ID: Final = 2**31 - 1
MAX_SALT_CHARS: Final = 256

_ROLES = {role.value: role for role in (Role.SYSTEM, Role.DEVELOPER, Role.USER, Role.ASSISTANT)}
_ROLES_LATER = ("tool", "function")

# prompt_cache_options.ttl -> seconds; OpenAI's default first.
_TTLS_S = {"30m": 1800.0, "12h": 43_200.0}
_RETENTIONS_S = {"in_memory": None, "24h": 86_400.0}


def messages(body: ChatBody) -> tuple[Message, ...]:
    """The conversation. Raises InvalidRequest or UnsupportedField with the path of what is wrong."""
    return tuple(_message(message, f"messages[{index}]") for index, message in enumerate(body.messages))


def prompt(given: str | list[int | str | list[int]]) -> str | tuple[int, ...]:
    """The text or the token ids of a completion, which has four spellings for one of them."""
    if isinstance(given, str):
        return given
    if given and all(isinstance(token, int) for token in given):
        return tokens(given, "prompt")
    if len(given) == 1:
        only = given[0]
        return only if isinstance(only, str) else tokens(only if isinstance(only, list) else [only], "prompt[0]")
    if not given:
        raise InvalidRequest("prompt: must not be empty; give a string or a list of token ids.", param="prompt")
    raise UnsupportedField(
        f"prompt: {len(given)} prompts in one request are not supported; send one request for each.", param="prompt"
    )


def tokens(given: list[Any], path: str) -> tuple[int, ...]:
    """Token ids. Raises InvalidRequest naming the place of one that is none."""
    for index, token in enumerate(given):
        if not 0 <= token <= MAX_TOKEN_ID:
            raise InvalidRequest(
                f"{path}[{index}]: {show(token)} is not a token id; ids are in [0, {MAX_TOKEN_ID}].",
                param=path.partition("[")[0],
            )
    return tuple(given)


def cache_hints(body: RoutedBody, *, explain: bool) -> CacheHints:
    """What a body says about reuse."""
    salt = body.cache_salt
    if salt is not None and not 1 <= len(salt) <= MAX_SALT_CHARS:
        raise InvalidRequest(
            f"cache_salt: {len(salt)} characters given; it must have 1 to {MAX_SALT_CHARS}, or be left out.",
            param="cache_salt",
        )
    points = _breakpoints(body) if isinstance(body, ChatBody) else ()
    return CacheHints(salt=salt or "", breakpoints=points, explain=explain)


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
    role = _ROLES.get(message.role)
    if role is None:
        if message.role in _ROLES_LATER:
            raise UnsupportedField(
                f"{path}.role: {message.role!r} is not supported yet, as tools are not; use {', '.join(_ROLES)}.",
                param=f"{path}.role",
            )
        raise InvalidRequest(
            f"{path}.role: {show(message.role)} is no role; use {', '.join(_ROLES)}.", param=f"{path}.role"
        )
    refuse_inert(message, INERT_MESSAGE, f"{path}.")
    content = message.content
    if content is None or content == []:
        raise InvalidRequest(
            f"{path}.content: is missing or empty; give a string or a list of text parts.", param=f"{path}.content"
        )
    if isinstance(content, str):
        return Message(role=role, parts=(TextPart(content),), name=message.name)
    parts = tuple(_part(part, f"{path}.content[{index}]") for index, part in enumerate(content))
    return Message(role=role, parts=parts, name=message.name)


def _part(part: Part, path: str) -> TextPart:
    if part.type != "text":
        raise UnsupportedField(
            f"{path}.type: {show(part.type)} is not supported by the models served here; send parts of type 'text'.",
            param=f"{path}.type",
        )
    if part.text is None:
        raise InvalidRequest(f"{path}.text: is missing; a part of type 'text' needs it.", param=f"{path}.text")
    mark = part.prompt_cache_breakpoint
    if mark is not None and mark.mode not in (None, "explicit"):
        raise UnsupportedField(
            f"{path}.prompt_cache_breakpoint.mode: {show(mark.mode)} is not supported; send 'explicit'.",
            param=f"{path}.prompt_cache_breakpoint.mode",
        )
    return TextPart(part.text)
