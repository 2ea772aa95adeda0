"""Whether a JSON value fits a JSON schema, for the verifier of that name: values in, values out.

Held to: type, enum, const, properties, required, additionalProperties, minProperties, maxProperties, items,
prefixItems, minItems, maxItems, uniqueItems, minLength, maxLength, minimum and maximum (also exclusive), multipleOf,
allOf, anyOf, oneOf, not, and `$ref` into the same document. Other keywords allow everything, `pattern` too: schemas
come from callers, and a pattern can take for ever. For the same reason there is a bound on the work.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

MAX_DEPTH: Final = 64
MAX_CHECKS: Final = 20_000
"""Values held to a schema, or to a part of one, in all."""


def fits(value: Any, schema: Any) -> bool:
    """Whether the value fits. A schema that leads around in a circle, is malformed or takes too much work fits
    nothing."""
    try:
        return _Check(schema).fits(value, schema, 0)
    except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
        return False


class _Check:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._num_left = MAX_CHECKS

    def fits(self, value: Any, schema: Any, depth: int) -> bool:
        if isinstance(schema, bool):
            return schema
        self._num_left -= 1
        if self._num_left < 0:
            raise ValueError("too much work")
        if depth > MAX_DEPTH or not isinstance(schema, Mapping):
            return False
        if "$ref" in schema and not self.fits(value, _target(str(schema["$ref"]), self._root), depth + 1):
            return False
        kind = _kind(value)
        return all(
            check(value, schema, lambda one, by: self.fits(one, by, depth + 1))
            for kinds, check in _CHECKS
            if kinds is None or kind in kinds
        )


def _target(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        return False
    found = root
    for part in reference[1:].strip("/").split("/") if reference != "#" else ():
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping) and name in found:
            found = found[name]
        elif isinstance(found, Sequence) and name.isdigit() and int(name) < len(found):
            found = found[int(name)]
        else:
            return False
    return found


def _kind(value: Any) -> str:
    # True is an int to Python, and no number to JSON.
    return next((name for name, types in _KINDS if isinstance(value, types)), "null")


_Fits = Callable[[Any, Any], bool]


def _key(value: Any) -> Any:
    """Equal for what JSON calls equal: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, list):
        return ("array", tuple(map(_key, value)))
    if isinstance(value, dict):
        return ("object", frozenset((name, _key(one)) for name, one in value.items()))
    return (_kind(value), value)


def _is_whole(value: float) -> bool:
    return isinstance(value, int) or value.is_integer()


def _check_type(value: Any, schema: Mapping[str, Any], _: _Fits) -> bool:
    wanted = schema.get("type")
    if wanted is None:
        return True
    names = [wanted] if isinstance(wanted, str) else wanted
    kind = _kind(value)
    return any(name == kind or (name == "integer" and kind == "number" and _is_whole(value)) for name in names)


def _check_choice(value: Any, schema: Mapping[str, Any], _: _Fits) -> bool:
    if "const" in schema and _key(value) != _key(schema["const"]):
        return False
    return "enum" not in schema or _key(value) in set(map(_key, schema["enum"]))


def _check_together(value: Any, schema: Mapping[str, Any], fit: _Fits) -> bool:
    return (
        all(fit(value, one) for one in schema.get("allOf", ()))
        and ("anyOf" not in schema or any(fit(value, one) for one in schema["anyOf"]))
        and ("oneOf" not in schema or sum(fit(value, one) for one in schema["oneOf"]) == 1)
        and ("not" not in schema or not fit(value, schema["not"]))
    )


def _check_object(value: Any, schema: Mapping[str, Any], fit: _Fits) -> bool:
    known, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
    return (
        all(name in value for name in schema.get("required", ()))
        and schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", len(value))
        and all(fit(one, known.get(name, rest)) for name, one in value.items())
    )


def _check_array(value: Any, schema: Mapping[str, Any], fit: _Fits) -> bool:
    first, rest = schema.get("prefixItems", ()), schema.get("items", True)
    return (
        schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value))
        and all(fit(one, first[index] if index < len(first) else rest) for index, one in enumerate(value))
        and not (schema.get("uniqueItems") and len(set(map(_key, value))) < len(value))
    )


def _check_string(value: Any, schema: Mapping[str, Any], _: _Fits) -> bool:
    return bool(schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)))


def _check_number(value: Any, schema: Mapping[str, Any], _: _Fits) -> bool:
    step = schema.get("multipleOf")
    return (
        value >= schema.get("minimum", value)
        and value <= schema.get("maximum", value)
        and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
        and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        and (step is None or (math.isfinite(value / step) and _is_whole(value / step)))
    )


_KINDS: Final[tuple[tuple[str, tuple[type, ...]], ...]] = (
    ("boolean", (bool,)),
    ("number", (int, float)),
    ("string", (str,)),
    ("array", (list,)),
    ("object", (dict,)),
)

_CHECKS: Final = (
    (None, _check_type),
    (None, _check_choice),
    (None, _check_together),
    (("object",), _check_object),
    (("array",), _check_array),
    (("string",), _check_string),
    (("number",), _check_number),
)
