"""OpenAI's generation routes, inwards: body bytes become a neutral request, or a refusal that names the field.

The invariant (held by `fuzz/openai_codec.py`): whatever bytes come in, `decode_chat` and `decode_completion` return a
`Call` or raise a `HeadraceError`, never anything else. Types are checked by msgspec while it parses; this file adds
what types cannot say and turns msgspec's sentences into ours. The tables of fields are in `openai_fields.py`; answers
are written by `openai_answers.py`; which model names exist is the backend's knowledge, not ours.
"""

import difflib
import re
from dataclasses import dataclass, replace
from typing import Any, Final, NoReturn

import msgspec

from headrace.api.openai_fields import (
    FIELDS_AT,
    INERT_CHAT,
    INERT_COMPLETION,
    INERT_MESSAGE,
    INERT_STREAM_OPTIONS,
    ChatBody,
    CompletionBody,
    Part,
    SharedBody,
)
from headrace.api.openai_fields import Message as WireMessage
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import Limits, Message, Principal, Request, Role, Sampling, TextPart

# OpenAI's own default for /v1/completions; chat has none and answers until the context ends.
COMPLETION_MAX_TOKENS: Final = 16

# Numbers beyond 64 bits name nothing here; refused before anything formats thousands of digits.
_MAX_INT: Final = 2**64
_MAX_TOKEN_ID: Final = 2**31 - 1
_MAX_SHOWN_CHARS: Final = 80

_ROLES = {role.value: role for role in (Role.SYSTEM, Role.DEVELOPER, Role.USER, Role.ASSISTANT)}
_ROLES_LATER = ("tool", "function")


@dataclass(frozen=True, slots=True)
class Caller:
    """What the server knows of a call before it reads the body."""

    request_id: str
    principal: Principal
    deadline_s: float | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """A decoded body: the neutral request and how its answer is to be written."""

    request: Request
    stream: bool
    include_usage: bool


_decode_chat_body = msgspec.json.Decoder(ChatBody).decode
_decode_completion_body = msgspec.json.Decoder(CompletionBody).decode


def decode_chat(data: bytes, caller: Caller) -> Call:
    """Read the body of `POST /v1/chat/completions`. Raises InvalidRequest or UnsupportedField."""
    try:
        body = _decode_chat_body(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        _refuse_body(error, data, ChatBody)
    _refuse_inert(body, INERT_CHAT, "")
    messages = tuple(_message(message, f"messages[{index}]") for index, message in enumerate(body.messages))
    return _call(body, caller, _chat_max_tokens(body), messages=messages)


def decode_completion(data: bytes, caller: Caller) -> Call:
    """Read the body of `POST /v1/completions`. Raises InvalidRequest or UnsupportedField."""
    try:
        body = _decode_completion_body(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        _refuse_body(error, data, CompletionBody)
    # best_of equal to n draws and returns the same answers, whatever n is.
    accepted = INERT_COMPLETION | {"best_of": (body.n or 1,)}
    _refuse_inert(body, accepted, "")
    max_tokens = COMPLETION_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    prompt = _one_prompt(body.prompt)
    if isinstance(prompt, str):
        return _call(body, caller, max_tokens, prompt=prompt)
    return _call(body, caller, max_tokens, tokens=prompt)


def _call(
    body: SharedBody,
    caller: Caller,
    max_tokens: int | None,
    *,
    messages: tuple[Message, ...] | None = None,
    prompt: str | None = None,
    tokens: tuple[int, ...] | None = None,
) -> Call:
    if not body.model:
        raise InvalidRequest("model: must not be empty; GET /v1/models lists the names.", param="model")
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    principal = caller.principal if body.user is None else replace(caller.principal, user=body.user)
    request = Request(
        id=caller.request_id,
        model=body.model,
        messages=messages,
        prompt=prompt,
        tokens=tokens,
        sampling=_sampling(body),
        limits=Limits(
            max_tokens=_bounded("max_tokens", max_tokens),
            stop=stop,
            ignore_eos=bool(body.ignore_eos),
            deadline_s=caller.deadline_s,
        ),
        principal=principal,
    )
    request.check()
    stream = bool(body.stream)
    return Call(request=request, stream=stream, include_usage=_include_usage(body, stream))


def _sampling(body: SharedBody) -> Sampling:
    standard = Sampling()
    return Sampling(
        temperature=standard.temperature if body.temperature is None else body.temperature,
        top_p=standard.top_p if body.top_p is None else body.top_p,
        top_k=standard.top_k if body.top_k is None else _bounded("top_k", body.top_k) or 0,
        min_p=standard.min_p if body.min_p is None else body.min_p,
        seed=_bounded("seed", body.seed),
        num_choices=standard.num_choices if body.n is None else _bounded("n", body.n) or 0,
    )


def _chat_max_tokens(body: ChatBody) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequest(
            f"max_completion_tokens: {_show(new)} disagrees with max_tokens {_show(old)}; send one of them.",
            param="max_completion_tokens",
        )
    if new is not None and not 1 <= new <= _MAX_TOKEN_ID:
        raise InvalidRequest(
            f"max_completion_tokens: {_show(new)} is not in [1, {_MAX_TOKEN_ID}]; give a number inside.",
            param="max_completion_tokens",
        )
    return old if new is None else new


def _include_usage(body: SharedBody, stream: bool) -> bool:
    options = body.stream_options
    if options is None:
        return False
    if not stream:
        raise InvalidRequest(
            "stream_options: only allowed when stream is true; leave it out or stream the answer.",
            param="stream_options",
        )
    _refuse_inert(options, INERT_STREAM_OPTIONS, "stream_options.")
    return bool(options.include_usage)


def _message(message: WireMessage, path: str) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        if message.role in _ROLES_LATER:
            raise UnsupportedField(
                f"{path}.role: {message.role!r} is not supported yet, as tools are not; use {_listed(_ROLES)}.",
                param=f"{path}.role",
            )
        raise InvalidRequest(
            f"{path}.role: {_show(message.role)} is no role; use {_listed(_ROLES)}.", param=f"{path}.role"
        )
    _refuse_inert(message, INERT_MESSAGE, f"{path}.")
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
            f"{path}.type: {_show(part.type)} is not supported by the models served here; send parts of type 'text'.",
            param=f"{path}.type",
        )
    if part.text is None:
        raise InvalidRequest(f"{path}.text: is missing; a part of type 'text' needs it.", param=f"{path}.text")
    return TextPart(part.text)


def _one_prompt(prompt: str | list[int | str | list[int]]) -> str | tuple[int, ...]:
    if isinstance(prompt, str):
        return prompt
    if prompt and all(isinstance(token, int) for token in prompt):
        return _tokens(prompt, "prompt")
    if len(prompt) == 1:
        only = prompt[0]
        return only if isinstance(only, str) else _tokens(only if isinstance(only, list) else [only], "prompt[0]")
    if not prompt:
        raise InvalidRequest("prompt: must not be empty; give a string or a list of token ids.", param="prompt")
    raise UnsupportedField(
        f"prompt: {len(prompt)} prompts in one request are not supported; send one request for each.", param="prompt"
    )


def _tokens(tokens: list[Any], path: str) -> tuple[int, ...]:
    for index, token in enumerate(tokens):
        if not 0 <= token <= _MAX_TOKEN_ID:
            raise InvalidRequest(
                f"{path}[{index}]: {_show(token)} is not a token id; ids are in [0, {_MAX_TOKEN_ID}].", param="prompt"
            )
    return tuple(tokens)


def _refuse_inert(struct: msgspec.Struct, accepted: dict[str, tuple[Any, ...] | None], prefix: str) -> None:
    for name, values in accepted.items():
        value = getattr(struct, name)
        if value is None or values is None or any(_same(value, one) for one in values):
            continue
        remedy = f"leave it out or send {' or '.join(_show(one) for one in values)}" if values else "leave it out"
        raise UnsupportedField(
            f"{prefix}{name}: {_show(value)} is not supported yet; {remedy}.", param=f"{prefix}{name}"
        )


def _same(value: object, accepted: object) -> bool:
    # Python says True == 1; JSON does not.
    return value == accepted and isinstance(value, bool) == isinstance(accepted, bool)


def _bounded(name: str, value: int | None) -> int | None:
    if value is not None and not -_MAX_INT < value < _MAX_INT:
        raise InvalidRequest(f"{name}: the number does not fit 64 bits; give a smaller one.", param=name)
    return value


# --- msgspec's sentences into ours ---------------------------------------------------------------------------------

_SENTENCE = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>(?:key in )?\$[^`]*)`)?", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`", re.DOTALL)
_MISSING = re.compile(r"Object missing required field `(?P<name>.*)`")
_STEP = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_KINDS = {
    "int": "an integer",
    "float": "a number",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


def _refuse_body(error: Exception, data: bytes, body: type[SharedBody]) -> NoReturn:
    if isinstance(error, msgspec.ValidationError):
        raise _field_error(str(error), data, body) from None
    if isinstance(error, UnicodeDecodeError):
        raise InvalidRequest("the body is not valid UTF-8; send JSON in UTF-8.", code="invalid_json") from None
    if isinstance(error, RecursionError):
        raise InvalidRequest("the body is nested too deeply; send plainer JSON.", code="invalid_json") from None
    raise InvalidRequest(f"the body is not valid JSON: {error}.", code="invalid_json") from None


def _field_error(sentence: str, data: bytes, body: type[SharedBody]) -> InvalidRequest:
    match = _SENTENCE.fullmatch(sentence)
    what, path = (match["what"], match["path"] or "") if match else (sentence, "")
    path = path.removeprefix("key in ").removeprefix("$").removeprefix(".")
    prefix = f"{path}." if path else ""
    if unknown := _UNKNOWN.fullmatch(what):
        return _unknown_field(unknown["name"], prefix, body)
    if missing := _MISSING.fullmatch(what):
        name = prefix + missing["name"]
        return InvalidRequest(f"{name}: is missing; it is required.", param=name, code="missing_required_parameter")
    where = path or "the body"
    if expected := _EXPECTED.fullmatch(what):
        wanted = " or ".join(_KINDS.get(kind, kind) for kind in expected["wanted"].split(" | "))
        got = _value_at(data, path) or _KINDS.get(expected["got"], expected["got"])
        return InvalidRequest(f"{where}: {got} given, but {wanted} is needed.", param=path or None, code="invalid_type")
    return InvalidRequest(f"{where}: {what[:1].lower()}{what[1:]}; correct it.", param=path or None)


def _unknown_field(name: str, prefix: str, body: type[SharedBody]) -> InvalidRequest:
    known = FIELDS_AT.get(re.sub(r"\d+", "", prefix.removesuffix(".")), body.__struct_fields__)
    near = difflib.get_close_matches(name[:_MAX_SHOWN_CHARS], known, n=1)
    remedy = f"did you mean {near[0]}?" if near else "leave it out."
    shown = prefix + (name if len(name) <= _MAX_SHOWN_CHARS else name[:_MAX_SHOWN_CHARS] + "…")
    return InvalidRequest(f"{shown}: is not a field of this route; {remedy}", param=shown, code="unknown_parameter")


def _value_at(data: bytes, path: str) -> str | None:
    """The offending value as JSON, found by reading the body again without types; None where that fails too."""
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return None
    for name, index in _STEP.findall(f".{path}" if path and not path.startswith("[") else path):
        try:
            value = value[name] if name else value[int(index)]
        except (LookupError, TypeError):
            return None
    return _show(value)


def _show(value: object) -> str:
    if isinstance(value, int) and not -_MAX_INT < value < _MAX_INT:
        return "a number of more than 64 bits"
    try:
        text = msgspec.json.encode(value).decode()
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"


def _listed(names: dict[str, Role]) -> str:
    return ", ".join(names)
