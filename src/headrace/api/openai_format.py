"""The form that an answer must have: `response_format` of OpenAI, `guided_*` and `structured_outputs` of vLLM.

All of them say one thing, so at most one may be given. Whether a schema or a grammar can be compiled is the engine's
knowledge; here only its spelling on the wire is checked.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from headrace.api.openai_fields import Format, JsonSchema, SharedBody, StructuredOutputs
from headrace.api.openai_refusal import show
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import FormatKind, ResponseFormat

_SCHEMA_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

FIELD: Final = "response_format"
"""What backends call it."""

Json = Mapping[str, Any] | str | bool


def response_format(body: SharedBody) -> tuple[str, ResponseFormat]:
    """The one constraint of a body, and the field that it came in. Raises InvalidRequest for a second one, and
    UnsupportedField."""
    given = list(_constraints(body))
    if len(given) > 1:
        raise InvalidRequest(f"{given[1][0]}: {given[0][0]} is given as well; send one constraint.", param=given[1][0])
    return given[0] if given else (FIELD, ResponseFormat())


def _constraints(body: SharedBody) -> Iterator[tuple[str, ResponseFormat]]:
    if body.response_format is not None:
        found = _openai(body.response_format)
        if found.kind is not FormatKind.TEXT:
            yield "response_format", found
    if body.guided_json is not None:
        yield "guided_json", _schema(body.guided_json, "guided_json")
    if body.guided_regex is not None:
        yield "guided_regex", _regex(body.guided_regex, "guided_regex")
    if body.guided_choice is not None:
        yield "guided_choice", _choice(body.guided_choice, "guided_choice")
    if body.guided_grammar is not None:
        yield "guided_grammar", _grammar(body.guided_grammar, "guided_grammar")
    if body.structured_outputs is not None:
        yield from _structured(body.structured_outputs)


def _structured(outputs: StructuredOutputs) -> Iterator[tuple[str, ResponseFormat]]:
    path = "structured_outputs"
    if outputs.json is not None:
        yield f"{path}.json", _schema(outputs.json, f"{path}.json")
    if outputs.regex is not None:
        yield f"{path}.regex", _regex(outputs.regex, f"{path}.regex")
    if outputs.choice is not None:
        yield f"{path}.choice", _choice(outputs.choice, f"{path}.choice")
    if outputs.grammar is not None:
        yield f"{path}.grammar", _grammar(outputs.grammar, f"{path}.grammar")
    if outputs.json_object:
        yield f"{path}.json_object", ResponseFormat(FormatKind.JSON_OBJECT)


def _openai(wanted: Format) -> ResponseFormat:
    path = "response_format"
    if wanted.type not in ("text", "json_object", "json_schema"):
        raise UnsupportedField(
            f"{path}.type: {show(wanted.type)} is not supported; use text, json_object or json_schema.",
            param=f"{path}.type",
        )
    if wanted.type == "json_schema":
        if wanted.json_schema is None:
            raise _missing(f"{path}.json_schema", "type 'json_schema' needs it")
        return _named_schema(wanted.json_schema, f"{path}.json_schema")
    if wanted.json_schema is not None:
        raise InvalidRequest(
            f"{path}.json_schema: only goes with type 'json_schema'; the type is {show(wanted.type)}.",
            param=f"{path}.json_schema",
        )
    return ResponseFormat(FormatKind(wanted.type))


def _named_schema(wanted: JsonSchema, path: str) -> ResponseFormat:
    if not _SCHEMA_NAME.fullmatch(wanted.name):
        raise InvalidRequest(
            f"{path}.name: {show(wanted.name)} must be 1 to 64 letters, digits, underscores or dashes.",
            param=f"{path}.name",
        )
    if wanted.schema is None:
        raise _missing(f"{path}.schema", "it is what the answer is held to")
    return ResponseFormat(FormatKind.JSON_SCHEMA, schema=wanted.schema)


def _schema(given: Json, path: str) -> ResponseFormat:
    """vLLM takes a schema as JSON or as text that holds JSON."""
    if not isinstance(given, str):
        return ResponseFormat(FormatKind.JSON_SCHEMA, schema=given)
    try:
        schema = msgspec.json.decode(given)
    except (msgspec.DecodeError, UnicodeError, RecursionError, ValueError):
        schema = None
    if not isinstance(schema, dict | bool):
        raise InvalidRequest(f"{path}: {show(given)} is no JSON schema; send an object.", param=path)
    return ResponseFormat(FormatKind.JSON_SCHEMA, schema=schema)


def _regex(given: str, path: str) -> ResponseFormat:
    if not given:
        raise _empty(path)
    return ResponseFormat(FormatKind.REGEX, source=given)


def _choice(given: list[str], path: str) -> ResponseFormat:
    if not given or not all(given):
        raise InvalidRequest(f"{path}: needs at least one string, and none of them empty.", param=path)
    return ResponseFormat(FormatKind.CHOICE, choices=tuple(given))


def _grammar(given: str, path: str) -> ResponseFormat:
    """vLLM names both languages alike; `::=` defines a rule in GBNF and stands in no rule of Lark's."""
    if not given.strip():
        raise _empty(path)
    return ResponseFormat(FormatKind.GBNF if "::=" in given else FormatKind.LARK, source=given)


def _missing(path: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: is missing; {why}.", param=path, code="missing_required_parameter")


def _empty(path: str) -> InvalidRequest:
    return InvalidRequest(f"{path}: must not be empty; leave it out for an answer of any form.", param=path)
