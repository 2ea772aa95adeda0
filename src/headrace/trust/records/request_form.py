"""The canonical form of a request: what was asked, without who asked and under which id.

A field that has its default is left out, so that a field that comes to be later changes no earlier form.
`encode_slowly` says what the form is; `encode` makes the same bytes quickly, which a test compares.
"""

import base64
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Any, Final

import msgspec

from headrace.core.request import FormatKind, Limits, Message, Request, Role, Sampling, Tool
from headrace.trust.records import canonical
from headrace.trust.records.answer_form import text_form

# Whose it is, and what changes no word of the answer.
NOT_ASKED: Final = frozenset({"id", "principal", "cache", "session", "parent", "labels", "tags", "defaults"})
NOT_ASKED_OF_TERMS: Final = frozenset({"is_default", "deadline_s"})
_MAX_CACHED_BYTES: Final = 64 * 1024


def encode(request: Request) -> bytes:
    """The canonical form."""
    if not request.messages:
        return encode_slowly(request)
    rest = _rest(request)
    try:
        messages = msgspec.json.encode([_message(one) for one in request.messages])
    except UnicodeEncodeError:  # half a surrogate pair somewhere
        return encode_slowly(request)
    pieces = {**rest, "messages": messages}
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), pieces[name]) for name in sorted(pieces))


def encode_slowly(request: Request) -> bytes:
    """The same, value by value."""
    return canonical.encode(value_of(request))


def value_of(request: Request) -> dict[str, Any]:
    """The form as a JSON value."""
    value = dict(_values(request))
    if request.messages is not None:
        value["messages"] = [_plain(_message(one)) for one in request.messages]
    return value


def _rest(request: Request) -> dict[str, bytes]:
    rest = {}
    for name, given in _given(request):
        if name == "tools":
            rest[name] = _tools(given)
        elif name != "messages" and (value := _value(given)) != {}:
            rest[name] = canonical.encode(value)
    return rest


def _tools(tools: tuple[Tool, ...]) -> bytes:
    """The same declarations come with every turn of a conversation, and are long: their form is made once."""
    try:
        told = msgspec.json.encode(tools)
    except (UnicodeEncodeError, TypeError, ValueError, OverflowError):
        return canonical.encode(_value(tools))
    return _told_tools(told) if len(told) <= _MAX_CACHED_BYTES else canonical.encode(_value(tools))


@lru_cache(maxsize=64)
def _told_tools(told: bytes) -> bytes:
    return canonical.encode(_value(msgspec.json.decode(told, type=tuple[Tool, ...])))


def _values(request: Request) -> Iterator[tuple[str, Any]]:
    for name, given in _given(request):
        if name != "messages":
            value = _value(given)
            if value != {}:  # only what nobody asked for is not its default
                yield name, value


def _message(message: Message) -> dict[str, Any]:
    # Names in their canonical order.
    found: dict[str, Any] = {}
    if message.name is not None:
        found["name"] = message.name
    if message.reasoning:
        found["reasoning"] = message.reasoning
    found["role"] = message.role.value
    found["text"] = message.text
    if message.tool_call_id is not None:
        found["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        found["tool_calls"] = [
            {"arguments": call.arguments, "id": call.id, "name": call.name} for call in message.tool_calls
        ]
    return found


@lru_cache(maxsize=32)
def _fields(kind: Any) -> tuple[tuple[str, Any], ...]:
    return tuple(
        (one.name, one.default if one.default is not MISSING else _made(one.default_factory)) for one in fields(kind)
    )


def _made(factory: Any) -> Any:
    return MISSING if factory is MISSING else factory()


def _given(value: Any) -> Iterator[tuple[str, Any]]:
    for name, default in _fields(value.__class__):
        given = getattr(value, name)
        if (given is not default and given != default) and name not in NOT_ASKED and name not in NOT_ASKED_OF_TERMS:
            yield name, given


def _value(value: Any) -> Any:
    kind = type(value)
    if value is None or kind is float or kind is bool:
        return value
    if kind is int:  # a seed of 64 bits, or a number in a tool's schema, may be beyond what JSON tells exactly
        return value if -canonical.MAX_INT <= value <= canonical.MAX_INT else str(value)
    if kind is str:
        return _text(value)
    if kind is tuple or kind is list:
        return [_value(inner) for inner in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(_text(name)): _value(inner) for name, inner in value.items()}
    if isinstance(value, frozenset):
        return sorted(_value(inner) for inner in value)
    if is_dataclass(value):
        return {name: _value(given) for name, given in _given(value)}
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value]


def _text(text: str) -> Any:
    try:
        text.encode()
    except UnicodeEncodeError:
        return msgspec.json.decode(text_form(text))
    return text


def encode_body(dialect: str, named: Mapping[str, bytes]) -> bytes:
    """The form of a body that passed unread: the bytes of each top-level value under its name, in canonical order."""
    names = sorted(named, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
    return b'{"body":{%b},"dialect":%b}' % (
        b",".join(b"%b:%b" % (text_form(name), bytes(named[name])) for name in names),
        canonical.fast_text(dialect),
    )


def parameters(request: Request) -> dict[str, Any]:
    """What decides how the answer is drawn and where it ends, as a backend is asked: only what is not neutral.

    Texts of the caller's (stop strings, schemas, expressions) are not in it: `grammar` is a digest.
    """
    found: dict[str, Any] = {"sampling": _value(request.sampling), "limits": _value(request.limits)}
    stop = found["limits"].pop("stop", None)
    if stop is not None:
        found["limits"]["num_stop"] = len(stop)
    form = request.response_format
    if form.kind is not FormatKind.TEXT:
        found["form"] = {"kind": form.kind.value}
    if reasoning := _value(request.reasoning):
        found["reasoning"] = reasoning
    if request.tools:
        found["tool_choice"] = _value(request.tool_choice)
    for name in ("logprobs", "prompt_logprobs", "dimensions"):
        if (value := getattr(request, name)) is not None:
            found[name] = value
    if request.truncates:
        found["truncates"] = True
    return found


def grammar(request: Request) -> bytes | None:
    """The form that an answer is held to, as canonical bytes; None: it is free."""
    form = request.response_format
    return None if form.kind is FormatKind.TEXT else canonical.encode(_value(form))


def system_text(request: Request) -> str:
    """What the operator or developer of the caller says first; empty without it."""
    return "\n\n".join(one.text for one in request.messages or () if one.role in (Role.SYSTEM, Role.DEVELOPER))


def read(data: bytes) -> Request:
    """A request from its canonical form; ids and who asked are not in it. Raises NotCanonical."""
    value = canonical.read(data, "the request")
    try:
        value = _unplain(value)
        for message in value.get("messages", ()):
            message["parts"] = [{"text": message.pop("text")}]
        value["sampling"] = _with_seed(value.get("sampling", {}))
        return msgspec.convert(value | {"id": ""}, Request)
    except (msgspec.ValidationError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise canonical.NotCanonical(f"the request is not in its canonical form: {error}.") from error


def with_parameters(request: Request, told: Mapping[str, Any]) -> Request:
    """A request as it was asked, by what a statement says of its parameters: seed and bound of the answer among them.
    Raises NotCanonical."""
    try:
        sampling = msgspec.convert(_with_seed(told.get("sampling", {})), Sampling)
        told_limits = {name: value for name, value in told.get("limits", {}).items() if name != "num_stop"}
        limits = msgspec.convert(told_limits, Limits)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise canonical.NotCanonical(f"the record's parameters cannot be read: {error}.") from error
    return replace(request, sampling=sampling, limits=replace(limits, stop=request.limits.stop))


def _with_seed(sampling: Mapping[str, Any]) -> dict[str, Any]:
    seed = sampling.get("seed")
    return {**sampling, "seed": int(seed)} if isinstance(seed, str) else dict(sampling)


def _unplain(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"utf8_surrogatepass"}:
            return base64.b64decode(value["utf8_surrogatepass"]).decode("utf-8", "surrogatepass")
        return {name: _unplain(inner) for name, inner in value.items()}
    return [_unplain(inner) for inner in value] if isinstance(value, list) else value
