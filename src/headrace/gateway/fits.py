"""Whether a JSON value fits a JSON schema, for the verifier of that name: values in, values out.

Held to: type, enum, const, properties, required, additionalProperties, minProperties, maxProperties, items,
prefixItems, minItems, maxItems, uniqueItems, minLength, maxLength, pattern, minimum and maximum (also exclusive),
multipleOf, allOf, anyOf, oneOf, not, and `$ref` into the same document. Other keywords allow everything.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

MAX_DEPTH: Final = 64


def fits(value: Any, schema: Any) -> bool:
    """Whether the value fits; a schema that leads around in a circle fits nothing."""
    return _fits(value, schema, schema, 0)


def _fits(value: Any, schema: Any, root: Any, depth: int) -> bool:
    if isinstance(schema, bool):
        return schema
    if depth > MAX_DEPTH or not isinstance(schema, Mapping):
        return False
    if "$ref" in schema and not _fits(value, _target(str(schema["$ref"]), root), root, depth + 1):
        return False
    kind = _kind(value)
    return all(
        check(value, schema, lambda one, by: _fits(one, by, root, depth + 1))
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


def _same(one: Any, other: Any) -> bool:
    if _kind(one) != _kind(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
    return bool(one == other)


def _check_type(value: Any, schema: Mapping[str, Any], _: _Fits) -> bool:
    wanted = schema.get("type")
    if wanted is None:
        return True
    names = [wanted] if isinstance(wanted, str) else wanted
    kind = _kind(value)
    return any(name == kind or (name == "integer" and kind == "number" and value == int(value)) for name in names)


def _check_choice(value: Any, schema: Mapping[str, Any], _: _Fits) -> bool:
    if "const" in schema and not _same(value, schema["const"]):
        return False
    return "enum" not in schema or any(_same(value, one) for one in schema["enum"])


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
        and not (schema.get("uniqueItems") and any(_same(a, b) for i, a in enumerate(value) for b in value[:i]))
    )


def _check_string(value: Any, schema: Mapping[str, Any], _: _Fits) -> bool:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        return False
    try:
        return "pattern" not in schema or re.search(schema["pattern"], value) is not None
    except re.error:
        return True  # written for another dialect of patterns


def _check_number(value: Any, schema: Mapping[str, Any], _: _Fits) -> bool:
    step = schema.get("multipleOf")
    return (
        value >= schema.get("minimum", value)
        and value <= schema.get("maximum", value)
        and ("exclusiveMinimum" not in schema or value > schema["exclusiveMinimum"])
        and ("exclusiveMaximum" not in schema or value < schema["exclusiveMaximum"])
        and (step is None or (value / step) == int(value / step))
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
