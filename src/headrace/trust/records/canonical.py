"""Canonical JSON (RFC 8785): one sequence of bytes for one value, so that two programs hash the same thing alike.

Reads strictly, too: I-JSON (RFC 7493), nothing twice and nothing behind the end. Knows no records. `encode` is plain
and follows the RFC clause by clause; what has to be quick composes the same bytes (`fast_text`) and is tested by it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring
from typing import Any, Final

from headrace.core.errors import InvalidRequest

MAX_INT: Final = 2**53 - 1
"""RFC 7493 2.2: beyond it readers that know doubles only do not agree."""
MAX_DEPTH: Final = 100


class NotCanonical(InvalidRequest):
    """A value or a text that has no canonical form, or was not in it."""

    code = "not_canonical"


def encode(value: Any) -> bytes:
    """The canonical form of a JSON value. Raises NotCanonical for what has none."""
    pieces: list[str] = []
    _write(value, pieces, 0)
    try:
        return "".join(pieces).encode()
    except UnicodeEncodeError as error:
        raise NotCanonical(
            "a text has half of a surrogate pair, which is no Unicode text (RFC 8785 3.2.2.2)."
        ) from error


def _write(value: Any, pieces: list[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise NotCanonical(f"the value is nested deeper than {MAX_DEPTH}.")
    if isinstance(value, str):
        pieces.append(encode_basestring(value))  # 3.2.2.2: the escapes of ECMAScript, and no others
    elif value is None or value is True or value is False:
        pieces.append({None: "null", True: "true", False: "false"}[value])  # 3.2.2.1
    elif isinstance(value, int):
        pieces.append(_integer(value))
    elif isinstance(value, float):
        pieces.append(number(value))
    elif isinstance(value, Mapping):
        _write_object(value, pieces, depth)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        pieces.append("[")
        for index, inner in enumerate(value):  # 3.2.3: the order of arrays is theirs
            if index:
                pieces.append(",")
            _write(inner, pieces, depth + 1)
        pieces.append("]")
    else:
        raise NotCanonical(f"{type(value).__name__} is no kind of JSON value.")


def _write_object(value: Mapping[str, Any], pieces: list[str], depth: int) -> None:
    if not all(isinstance(name, str) for name in value):
        raise NotCanonical("the names of an object are texts.")
    # 3.2.3: sorted as arrays of UTF-16 code units, which is not the order of code points.
    names = sorted(value, key=lambda name: name.encode("utf-16-be", "surrogatepass"))
    pieces.append("{")
    for index, name in enumerate(names):
        if index:
            pieces.append(",")
        pieces.append(encode_basestring(name))
        pieces.append(":")
        _write(value[name], pieces, depth + 1)
    pieces.append("}")


def _integer(value: int) -> str:
    if not -MAX_INT <= value <= MAX_INT:
        raise NotCanonical(f"{value} is beyond 2^53, where JSON numbers are not exact (RFC 7493 2.2).")
    return str(value)


def number(value: float) -> str:
    """3.2.2.3: a double as ECMAScript writes it (ECMA-262, Number::toString)."""
    if not math.isfinite(value):
        raise NotCanonical(f"{value} is no JSON number (RFC 8785 3.2.2.3).")
    if value == 0:
        return "0"  # of -0, too
    sign, digits, exponent = _shortest(value)
    num = len(digits)
    point = exponent  # the value is 0.DIGITS x 10^point
    if num <= point <= 21:
        text = digits + "0" * (point - num)
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        power = point - 1
        fraction = f".{digits[1:]}" if num > 1 else ""
        text = f"{digits[0]}{fraction}e{'+' if power > 0 else '-'}{abs(power)}"
    return sign + text


def _shortest(value: float) -> tuple[str, str, int]:
    # repr gives the fewest digits that read back as the same double, and of those the nearest, as ECMAScript asks.
    mantissa, _, power = repr(abs(value)).partition("e")
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    point = len(whole) + int(power or 0) - (len(whole + fraction) - len(digits))
    return "-" if value < 0 else "", digits.rstrip("0") or "0", point


def fast_text(text: str) -> bytes:
    """The canonical form of one text. Raises UnicodeEncodeError for half of a surrogate pair."""
    return encode_basestring(text).encode()


def read(data: bytes, what: str = "the text") -> Any:
    """A JSON value, read strictly: UTF-8, no name twice, nothing behind it, no number that is none (RFC 7493).

    Raises NotCanonical, saying what of `what` is wrong.
    """
    try:
        text = data.decode()  # strict: no half surrogates, no byte order mark's successor
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except NotCanonical as error:
        raise NotCanonical(f"{what}: {error.message}") from error
    except RecursionError as error:
        raise NotCanonical(f"{what} is nested too deeply.") from error
    except ValueError as error:
        raise NotCanonical(f"{what} is no JSON text: {error}.") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise NotCanonical(f"the name {twice[:80]!r} is given twice.")
    return found


def _no_constant(name: str) -> Any:
    raise NotCanonical(f"{name} is no JSON number.")
