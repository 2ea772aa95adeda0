"""One constraint on the answer's form, whoever's words it comes in."""

import json
from typing import Any

import pytest

from headrace.api.openai import Caller, decode_chat, decode_completion
from headrace.core.errors import HeadraceError, InvalidRequest, UnsupportedField
from headrace.core.request import FormatKind, Principal, ResponseFormat

CALLER = Caller(request_id="id-1", principal=Principal())
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
AS_SCHEMA = ResponseFormat(FormatKind.JSON_SCHEMA, schema=SCHEMA)


def asked(**fields: Any) -> ResponseFormat:
    """What both routes understand, which must be the same."""
    of_chat = decode_chat(
        json.dumps({"model": "m", "messages": [{"role": "user", "content": "x"}]} | fields).encode(), CALLER
    )
    of_completion = decode_completion(json.dumps({"model": "m", "prompt": "x"} | fields).encode(), CALLER)
    assert of_chat.request.response_format == of_completion.request.response_format
    return of_chat.request.response_format


def openai(**fields: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA} | fields}}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, ResponseFormat()),
        ({"response_format": {"type": "text"}}, ResponseFormat()),
        ({"response_format": {"type": "json_object"}}, ResponseFormat(FormatKind.JSON_OBJECT)),
        (openai(), AS_SCHEMA),
        (openai(strict=True, description="d", name="a-B_9"), AS_SCHEMA),
        (openai(schema=True), ResponseFormat(FormatKind.JSON_SCHEMA, schema=True)),
        ({"guided_json": SCHEMA}, AS_SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, AS_SCHEMA),
        ({"guided_json": False}, ResponseFormat(FormatKind.JSON_SCHEMA, schema=False)),
        ({"guided_regex": "a+"}, ResponseFormat(FormatKind.REGEX, source="a+")),
        ({"guided_choice": ["a", "b"]}, ResponseFormat(FormatKind.CHOICE, choices=("a", "b"))),
        ({"guided_grammar": 'start: "a"'}, ResponseFormat(FormatKind.LARK, source='start: "a"')),
        ({"guided_grammar": 'root ::= "a"'}, ResponseFormat(FormatKind.GBNF, source='root ::= "a"')),
        ({"structured_outputs": {"json": SCHEMA}}, AS_SCHEMA),
        ({"structured_outputs": {"regex": "a"}}, ResponseFormat(FormatKind.REGEX, source="a")),
        ({"structured_outputs": {"choice": ["a"]}}, ResponseFormat(FormatKind.CHOICE, choices=("a",))),
        ({"structured_outputs": {"grammar": "a: b"}}, ResponseFormat(FormatKind.LARK, source="a: b")),
        ({"structured_outputs": {"json_object": True}}, ResponseFormat(FormatKind.JSON_OBJECT)),
        ({"structured_outputs": {"json_object": False}}, ResponseFormat()),
        ({"structured_outputs": {}}, ResponseFormat()),
        ({"guided_regex": "a", "response_format": {"type": "text"}}, ResponseFormat(FormatKind.REGEX, source="a")),
    ],
)
def test_every_spelling_means_one_format(fields: dict[str, Any], wanted: ResponseFormat) -> None:
    assert asked(**fields) == wanted


@pytest.mark.parametrize(
    ("kind", "fields", "param"),
    [
        (UnsupportedField, {"response_format": {"type": "structural_tag"}}, "response_format.type"),
        (InvalidRequest, {"response_format": {}}, "response_format.type"),
        (InvalidRequest, {"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            InvalidRequest,
            {"response_format": {"type": "text", "json_schema": {"name": "n"}}},
            "response_format.json_schema",
        ),
        (InvalidRequest, openai(schema=None), "response_format.json_schema.schema"),
        (InvalidRequest, openai(schema="x"), "response_format.json_schema.schema"),
        (InvalidRequest, openai(name=""), "response_format.json_schema.name"),
        (InvalidRequest, openai(name="a b"), "response_format.json_schema.name"),
        (InvalidRequest, openai(name="x" * 65), "response_format.json_schema.name"),
        (InvalidRequest, openai(strikt=True), "response_format.json_schema.strikt"),
        (InvalidRequest, {"guided_json": "{"}, "guided_json"),
        (InvalidRequest, {"guided_json": "[1]"}, "guided_json"),
        (InvalidRequest, {"guided_json": 5}, "guided_json"),
        (InvalidRequest, {"guided_regex": ""}, "guided_regex"),
        (InvalidRequest, {"guided_choice": []}, "guided_choice"),
        (InvalidRequest, {"guided_choice": ["a", ""]}, "guided_choice"),
        (InvalidRequest, {"guided_choice": ["a", 1]}, "guided_choice[1]"),
        (InvalidRequest, {"guided_grammar": " \n"}, "guided_grammar"),
        (InvalidRequest, {"structured_outputs": {"regex": ""}}, "structured_outputs.regex"),
        (InvalidRequest, {"structured_outputs": {"regexp": "a"}}, "structured_outputs.regexp"),
        (InvalidRequest, {"guided_regex": "a", "guided_json": {}}, "guided_regex"),
        (InvalidRequest, {"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        (InvalidRequest, {"guided_choice": ["a"]} | openai(), "guided_choice"),
    ],
)
def test_a_form_that_makes_no_sense_is_refused_with_its_path(
    kind: type[HeadraceError], fields: dict[str, Any], param: str
) -> None:
    with pytest.raises(kind) as caught:
        asked(**fields)
    assert caught.value.param == param


def test_the_second_constraint_names_the_first() -> None:
    with pytest.raises(InvalidRequest, match="guided_choice: response_format is given as well; send one constraint"):
        asked(guided_choice=["a"], **openai())
