"""How OpenAI's routes say no: one sentence that names the field, the value and the remedy.

Turns msgspec's complaints into ours and holds the tables of inert fields. Knows the paths of fields, not what they are
for: meaning is `openai.py`'s and its neighbours'.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any, Final, NoReturn

import msgspec

from headrace.api.openai_fields import FIELDS_AT
from headrace.core.errors import InvalidRequest, UnsupportedField

# Numbers beyond 64 bits name nothing here; refused before anything formats thousands of digits.
_MAX_INT: Final = 2**64
_MAX_SHOWN_CHARS: Final = 80
# A larger body is not read twice to show what is wrong with it: others wait meanwhile.
_MAX_READ_AGAIN: Final = 1024 * 1024

_SENTENCE = re.compile(r"(?P<what>.*?)(?: - at `(?P<path>(?:key in )?\$[^`]*)`)?", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`")
_RANGE = re.compile(r"Expected `int` (?P<bound>[<>]= -?\d+)")
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


Fields = Mapping[str, tuple[str, ...]]


def refuse_body(error: Exception, data: bytes, body: type[msgspec.Struct], fields_at: Fields = FIELDS_AT) -> NoReturn:
    """Raise the InvalidRequest that says what msgspec found wrong with the body of a route.

    `fields_at`: whose fields a path names, for suggestions, as in `FIELDS_AT`.
    """
    if isinstance(error, msgspec.ValidationError):
        raise _field_error(str(error), data, {**fields_at, "": body.__struct_fields__}) from None
    _refuse_json(error)


def refuse_field(error: Exception, data: bytes, field: str) -> NoReturn:
    """Raise the InvalidRequest that says what msgspec found wrong with one field, which was read by itself."""
    if isinstance(error, msgspec.ValidationError):
        sentence, at, path = str(error).partition(" - at `$")
        raise _field_error(f"{sentence} - at `$.{field}{path if at else '`'}", data, {"": ()}) from None
    _refuse_json(error)


def _refuse_json(error: Exception) -> NoReturn:
    if isinstance(error, UnicodeDecodeError):
        raise InvalidRequest("the body is not valid UTF-8; send JSON in UTF-8.", code="invalid_json") from None
    if isinstance(error, RecursionError):
        raise InvalidRequest("the body is nested too deeply; send plainer JSON.", code="invalid_json") from None
    raise InvalidRequest(f"the body is not valid JSON: {error}.", code="invalid_json") from None


def _field_error(sentence: str, data: bytes, fields_at: Fields) -> InvalidRequest:
    match = _SENTENCE.fullmatch(sentence)
    what, path = (match["what"], match["path"] or "") if match else (sentence, "")
    path = path.removeprefix("key in ").removeprefix("$").removeprefix(".")
    prefix = f"{path}." if path else ""
    if unknown := _UNKNOWN.fullmatch(what):
        return _unknown_field(unknown["name"], prefix, fields_at)
    if missing := _MISSING.fullmatch(what):
        name = prefix + missing["name"]
        return InvalidRequest(f"{name}: is missing; it is required.", param=name, code="missing_required_parameter")
    where = path or "the body"
    if expected := _EXPECTED.fullmatch(what):
        wanted = " or ".join(_KINDS.get(kind, kind) for kind in expected["wanted"].split(" | "))
        got = _value_at(data, path) or _KINDS.get(expected["got"], expected["got"])
        return InvalidRequest(f"{where}: {got} given, but {wanted} is needed.", param=path or None, code="invalid_type")
    if out := _RANGE.fullmatch(what):
        got = _value_at(data, path) or "a number"
        return InvalidRequest(f"{where}: {got} given, but an integer {out['bound']} is needed.", param=path or None)
    return InvalidRequest(f"{where}: {what[:1].lower()}{what[1:]}; correct it.", param=path or None)


def _unknown_field(name: str, prefix: str, fields_at: Fields) -> InvalidRequest:
    known = fields_at.get(re.sub(r"\d+", "", prefix.removesuffix(".")), fields_at[""])
    near = difflib.get_close_matches(name[:_MAX_SHOWN_CHARS], known, n=1)
    remedy = f"did you mean {near[0]}?" if near else "leave it out."
    shown = prefix + (name if len(name) <= _MAX_SHOWN_CHARS else name[:_MAX_SHOWN_CHARS] + "…")
    return InvalidRequest(f"{shown}: is not a field of this route; {remedy}", param=shown, code="unknown_parameter")


def _value_at(data: bytes, path: str) -> str | None:
    """The offending value as JSON, found by reading the body again without types; None where that fails too."""
    if len(data) > _MAX_READ_AGAIN:
        return None
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return None
    for name, index in _STEP.findall(f".{path}" if path and not path.startswith("[") else path):
        try:
            value = value[name] if name else value[int(index)]
        except (LookupError, TypeError):
            return None
    return show(value)


def show(value: object) -> str:
    """A value as JSON, cut to a length that fits into a sentence."""
    if isinstance(value, int) and not -_MAX_INT < value < _MAX_INT:
        return "a number of more than 64 bits"
    try:
        text = msgspec.json.encode(value).decode()
    except (ValueError, RecursionError):
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN_CHARS else text[:_MAX_SHOWN_CHARS] + "…"


def refuse_inert(struct: msgspec.Struct, accepted: dict[str, tuple[Any, ...] | None], prefix: str) -> None:
    """Raise UnsupportedField for a known field whose value asks for something that would be left undone."""
    for name, values in accepted.items():
        value = getattr(struct, name)
        if value is None or values is None or any(_same(value, one) for one in values):
            continue
        remedy = f"leave it out or send {' or '.join(show(one) for one in values)}" if values else "leave it out"
        raise UnsupportedField(
            f"{prefix}{name}: {show(value)} is not supported yet; {remedy}.", param=f"{prefix}{name}"
        )


def _same(value: object, accepted: object) -> bool:
    # Python says True == 1; JSON does not.
    return value == accepted and isinstance(value, bool) == isinstance(accepted, bool)


def bounded(name: str, value: int | None) -> int | None:
    """The number, unless it is too long to be shown. Raises InvalidRequest."""
    if value is not None and not -_MAX_INT < value < _MAX_INT:
        raise InvalidRequest(f"{name}: the number does not fit 64 bits; give a smaller one.", param=name)
    return value
