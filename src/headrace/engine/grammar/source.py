"""What a request says about its answer's form, as one text for llguidance: a list of Lark and JSON-schema grammars.

Sizes are bounded here, and what would be ignored in silence is refused here: options in a schema, Lark options that the
engine does not follow. What a grammar means, and whether it can be met, is llguidance's to say (`compiler.py`).
Knows no tokenizer but the names of its control tokens.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import FormatKind, ResponseFormat
from headrace.engine.grammar.gbnf import translate

MAX_SOURCE_BYTES = 131_072  # as many as a large schema has; compiling it takes a second at worst
MAX_GBNF_CHARS = 16_384  # the translation to Lark is Python
MAX_CHOICES = 4096
MAX_MARKER_BYTES = 256
_MAX_DEPTH = 64  # of a schema; llguidance reads 128 levels of JSON, and a subschema takes two of them

# Between two parts of JSON: nothing, one space, or a line break with an indentation. A model may set its answer as it
# has learnt to, and cannot fill it with blanks for ever.
_WHITESPACE = r"(?: |\n {0,32})"
OPTION_KEY = "x-guidance"
_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_MAPS_OF_SCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_VALUES = frozenset({"const", "enum", "default", "examples"})
_NOTES = frozenset({"description", "title", "examples", "default", "$comment"})
_HEAD_OPTIONS = re.compile(r"^\s*[!?]?[A-Za-z_][\w-]*\s*\[([^\]\n]*)\]\s*:", re.MULTILINE)
_IGNORED_OPTIONS = re.compile(r"\b(max_tokens|temperature|stop)\s*=")


def write_source(form: ResponseFormat, control_tokens: Mapping[str, int]) -> str:
    """The grammar that `form` asks for.

    Raises InvalidRequest and UnsupportedField, which name what is wrong with it and where.
    """
    answer = answer_grammar(form)
    size = len(json.dumps(answer))
    if size > MAX_SOURCE_BYTES:
        raise _invalid(f"the grammar has {size} bytes; at most {MAX_SOURCE_BYTES} are compiled, make it smaller")
    if not form.after:
        return json.dumps({"grammars": [answer]})
    is_json = form.kind in {FormatKind.JSON_OBJECT, FormatKind.JSON_SCHEMA}
    beginning = _beginning(form.after, control_tokens, blanks=is_json)
    return json.dumps({"grammars": [{"name": "beginning", "lark_grammar": beginning}, {"name": "answer", **answer}]})


def find_keyword(schema: Any, keyword: str) -> str | None:
    """Where in a schema a keyword stands first, as a JSON pointer; None if nowhere."""
    for where, subschema in _subschemas(schema):
        if keyword in subschema:
            return where
    return None


def answer_grammar(form: ResponseFormat) -> dict[str, Any]:
    """The grammar of what an answer says, without its beginning. Raises InvalidRequest and UnsupportedField."""
    kind = form.kind
    if kind is FormatKind.JSON_OBJECT:
        return {"json_schema": {"type": "object", OPTION_KEY: {"whitespace_pattern": _WHITESPACE}}}
    if kind is FormatKind.JSON_SCHEMA:
        return {"json_schema": _schema(form.schema)}
    if kind is FormatKind.CHOICE:
        return {"lark_grammar": _choices(form.choices)}
    if not form.source:
        raise _invalid(f"the {kind} is empty; give it, or leave the format out")
    _check_text(form.source, kind)
    if kind is FormatKind.REGEX:
        # Through Lark's own syntax, in which a slash would end the expression.
        return {"lark_grammar": "start: /" + _escape_slashes(form.source) + "/"}
    if kind is FormatKind.GBNF:
        return {"lark_grammar": _from_gbnf(form.source)}
    assert kind is FormatKind.LARK
    _check_lark(form.source)
    return {"lark_grammar": form.source}


def _schema(schema: Mapping[str, Any] | bool | None) -> dict[str, Any]:
    if schema is None:
        raise _invalid("json_schema: no schema is given; give one, or ask for json_object")
    copy = json_schema(schema)
    options = copy.pop(OPTION_KEY, {})
    if options not in ({}, {"whitespace_flexible": False}, {"whitespace_flexible": True}):
        raise UnsupportedField(
            f'response_format: json_schema: {OPTION_KEY} may hold "whitespace_flexible" only; remove the rest.',
            param="response_format",
        )
    compact = options.get("whitespace_flexible") is False
    copy[OPTION_KEY] = {"whitespace_flexible": False} if compact else {"whitespace_pattern": _WHITESPACE}
    return copy


def json_schema(
    schema: Mapping[str, Any] | bool, name: str = "response_format: json_schema", param: str = "response_format"
) -> dict[str, Any]:
    """A copy that llguidance reads as it is meant; `name` and `param` are for errors.

    Raises InvalidRequest and UnsupportedField.
    """
    if isinstance(schema, bool):
        schema = {} if schema else {"not": {}}
    try:
        copy: dict[str, Any] = json.loads(json.dumps(schema, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"{name}: {error}; give a schema that is JSON.", param=param) from error
    for where, subschema in _subschemas(copy, name, param):
        _amend(where, subschema, name, param)
    return copy


def without_notes(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema without what only people read; changes it in place."""
    for _, subschema in _subschemas(schema):
        for note in _NOTES & subschema.keys():
            del subschema[note]
    return schema


def moved(schema: dict[str, Any], where: str) -> dict[str, Any]:
    """The same schema as a part of another, at the JSON pointer `where` (RFC 6901); changes it in place."""
    for _, subschema in _subschemas(schema):
        reference = subschema.get("$ref")
        if isinstance(reference, str) and (reference == "#" or reference.startswith("#/")):
            subschema["$ref"] = f"#{where}{reference[1:]}"
    return schema


def _amend(where: str, subschema: dict[str, Any], name: str, param: str) -> None:
    """Write counts as whole numbers, and refuse the one count that a grammar could seem to keep."""
    for count in _COUNTS & subschema.keys():
        if isinstance(subschema[count], float) and subschema[count].is_integer():
            subschema[count] = int(subschema[count])
    least, required = subschema.get("minProperties"), subschema.get("required", [])
    # A grammar does not know whether a free name was used before, and the same name twice counts once.
    if isinstance(least, int) and isinstance(required, list) and least > len(set(map(str, required))) + 1:
        raise UnsupportedField(
            f"{name}: minProperties {least} at {where} asks for several properties that are not"
            " required by name, which is not supported; name them.",
            param=param,
        )


def _subschemas(
    schema: Any, called: str = "response_format: json_schema", param: str = "response_format"
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every subschema that is an object, with its JSON pointer; a parent before its parts."""
    # Reversed on the stack, so that they come as they are written.
    stack: list[tuple[str, Any, int]] = [("#", schema, 0)]
    while stack:
        where, value, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise InvalidRequest(
                f"{called}: {where[:80]}... is nested deeper than {_MAX_DEPTH} levels; use $ref.", param=param
            )
        if isinstance(value, list):
            stack.extend((f"{where}/{i}", part, depth + 1) for i, part in reversed(list(enumerate(value))))
        if not isinstance(value, dict):
            continue
        yield where, value
        for name, part in reversed(value.items()):
            if name in _MAPS_OF_SCHEMAS and isinstance(part, dict):
                stack.extend(
                    (f"{where}/{name}/{_pointer(key)}", inner, depth + 1) for key, inner in reversed(part.items())
                )
            elif name not in _VALUES:
                stack.append((f"{where}/{_pointer(name)}", part, depth + 1))


def _pointer(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")  # RFC 6901, section 3


def _choices(choices: tuple[str, ...]) -> str:
    if not 0 < len(choices) <= MAX_CHOICES:
        raise _invalid(f"choice: {len(choices)} texts are given; 1 to {MAX_CHOICES} can be chosen from")
    for text in choices:
        _check_text(text, "choice")
    return "start: " + " | ".join(_quote(text) for text in choices)


def _from_gbnf(source: str) -> str:
    if len(source) > MAX_GBNF_CHARS:
        raise _invalid(f"gbnf: {len(source)} characters; at most {MAX_GBNF_CHARS} are translated, make it shorter")
    try:
        return translate(source)
    except ValueError as error:
        raise _invalid(f"gbnf: {str(error)[:300]}; correct it there") from error


def _check_lark(source: str) -> None:
    for head in _HEAD_OPTIONS.finditer(source):
        if option := _IGNORED_OPTIONS.search(head[1]):
            line = source.count("\n", 0, head.start(1)) + 1
            raise UnsupportedField(
                f"response_format: lark: the option {option[1]} of line {line} is not supported; remove it "
                "(lazy and suffix are).",
                param="response_format",
            )


def _beginning(marker: str, control_tokens: Mapping[str, int], *, blanks: bool) -> str:
    """A grammar of any text up to and with `marker`, followed by the grammar called `answer`."""
    if len(marker.encode("utf-8", "surrogatepass")) > MAX_MARKER_BYTES:
        raise _invalid(f"after: {len(marker)} characters; at most {MAX_MARKER_BYTES} bytes are possible, shorten it")
    _check_text(marker, "after")
    answer = ("BLANKS " if blanks else "") + "@answer\n"
    texts = "TEXT: /(?s:.*)/\n" + ("BLANKS: /[ \\n]{0,8}/\n" if blanks else "")
    if (token := control_tokens.get(marker)) is not None:
        return f"start: TEXT <[{token}]> {answer}{texts}"
    if any(name in marker for name in control_tokens):
        raise UnsupportedField(
            f"response_format: after: {marker!r} mixes a control token and text; give one of the two.",
            param="response_format",
        )
    return f"start: reasoning {answer}reasoning[lazy]: TEXT {_quote(marker)}\n{texts}"


def _quote(text: str) -> str:
    """A string of Lark, whose escapes are JSON's; it wants the character 7F escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _escape_slashes(regex: str) -> str:
    return re.sub(r"\\.|/", lambda found: r"\/" if found[0] == "/" else found[0], regex, flags=re.DOTALL)


def _check_text(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise _invalid(f"{name}: half of a surrogate pair at character {error.start}; remove it") from error


def _invalid(sentence: str) -> InvalidRequest:
    return InvalidRequest(f"response_format: {sentence}.", param="response_format")
