"""From bytes to one of the bodies of `anthropic_fields.py`, or a refusal that names the field.

A field that nobody knows is refused, with a guess at what was meant. With betas (`anthropic-beta`) the caller speaks of
things that we may not know, and it has to go on working: unknown fields are then left out and named in the answer,
unless they are so like a known one that they can only be a slip. Knows where fields stand, not what they mean.
"""

import difflib
import re
from typing import Any, Final, TypeVar

import msgspec

from headrace.api.anthropic_fields import FIELDS_AT, STRUCTS_AT, MessagesBody, PromptBody
from headrace.api.openai_refusal import refuse_body
from headrace.core.errors import InvalidRequest

# How alike two names are when one is taken for a slip: `max_token` is, `thread_id` beside `thread` is not.
_SLIP: Final = 0.87
_MAX_LEFT_OUT: Final = 100
_MAX_SHOWN_CHARS: Final = 80

_Body = TypeVar("_Body", bound=PromptBody)

_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)
_UNKNOWN: Final = "Object contains unknown field"
_DECODERS: dict[type[PromptBody], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (MessagesBody, PromptBody)
}


def read_body(data: bytes, kind: type[_Body], *, has_betas: bool) -> tuple[_Body, tuple[str, ...]]:
    """The body, and the paths of fields that were left out. Raises InvalidRequest."""
    try:
        return _DECODERS[kind].decode(data), ()
    except _ERRORS as error:
        if not has_betas or not isinstance(error, msgspec.ValidationError) or _UNKNOWN not in str(error):
            refuse_body(error, data, kind, FIELDS_AT)
    left_out: list[str] = []
    try:
        plain = msgspec.json.decode(data)
        return msgspec.convert(_known(plain, kind.__struct_fields__, "", "", left_out), kind), tuple(left_out)
    except _ERRORS as error:
        refuse_body(error, data, kind, FIELDS_AT)


def _known(value: dict[str, Any], names: tuple[str, ...], path: str, place: str, left_out: list[str]) -> dict[str, Any]:
    """An object without the fields that nobody knows. `path` has indices, `place` has none."""
    known: dict[str, Any] = {}
    for name, inner in value.items():
        where = f"{path}.{name}" if path else name
        if name not in names:
            _leave_out(name, names, where, left_out)
            continue
        known[name] = _known_inside(inner, where, f"{place}.{name}" if place else name, left_out)
    return known


def _known_inside(value: Any, path: str, place: str, left_out: list[str]) -> Any:
    if isinstance(value, dict) and place in STRUCTS_AT:
        return _known(value, FIELDS_AT[place], path, place, left_out)
    if isinstance(value, list) and f"{place}[]" in STRUCTS_AT:
        return [_known_inside(one, f"{path}[{index}]", f"{place}[]", left_out) for index, one in enumerate(value)]
    return value


def _leave_out(name: str, names: tuple[str, ...], path: str, left_out: list[str]) -> None:
    near = difflib.get_close_matches(name[:_MAX_SHOWN_CHARS], names, n=1, cutoff=_SLIP)
    if near:
        shown = path if len(path) <= _MAX_SHOWN_CHARS else path[:_MAX_SHOWN_CHARS] + "…"
        raise InvalidRequest(
            f"{shown}: is not a field of this route; did you mean {near[0]}?", param=shown, code="unknown_parameter"
        )
    # Of a list, one entry stands for all: the same new field is on every message.
    shown = re.sub(r"\[\d+\]", "[]", path)[:_MAX_SHOWN_CHARS]
    if shown not in left_out and len(left_out) < _MAX_LEFT_OUT:
        left_out.append(shown)
