"""Values against schemas: single keywords, and random schemas against the `jsonschema` package as the oracle."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.gateway.fits import fits

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([0.5, 2.0])
    | st.sampled_from(["", "a", "ab", "b1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    lengths = st.integers(0, 3)
    return st.fixed_dictionaries(
        {},
        optional={
            "type": st.sampled_from(["object", "array", "string", "number", "integer", "boolean", "null"])
            | st.lists(st.sampled_from(["object", "string", "integer"]), min_size=1, max_size=2, unique=True),
            "enum": st.lists(values, min_size=1, max_size=3),
            "const": values,
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            "additionalProperties": inner,
            "minProperties": lengths,
            "maxProperties": lengths,
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "minItems": lengths,
            "maxItems": lengths,
            "uniqueItems": st.booleans(),
            "minLength": lengths,
            "maxLength": lengths,
            "minimum": st.integers(-5, 5),
            "exclusiveMaximum": st.integers(-5, 5),
            "multipleOf": st.sampled_from([1, 2, 0.5]),
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "not": inner,
        },
    )


schemas = st.recursive(st.booleans(), keywords, max_leaves=4)


@settings(max_examples=1500, deadline=None)
@given(values, schemas)
def test_random_values_fit_random_schemas_where_the_oracle_says_so(value: Any, schema: Any) -> None:
    assert fits(value, schema) == jsonschema.Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize(("value", "is_fit"), [({"next": {"next": {}}}, True), ({"next": {"next": 1}}, False)])
def test_a_reference_into_the_document_is_followed(value: Any, is_fit: bool) -> None:
    schema = {
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    }
    assert fits(value, schema) == is_fit


def test_what_leads_in_a_circle_or_nowhere_fits_nothing() -> None:
    assert not fits(1, {"$ref": "#"})
    assert not fits(1, {"$ref": "#/nowhere"})
    assert not fits(1, {"$ref": "https://example.com/schema"})


@pytest.mark.parametrize(
    "schema", [{"required": 5}, {"type": 7}, {"multipleOf": 0}, {"anyOf": 3}, {"properties": []}, 5]
)
def test_a_malformed_schema_fits_nothing(schema: Any) -> None:
    assert not fits({"a": 1}, schema) or not fits(1, schema)


def test_numbers_that_no_float_holds_are_judged_all_the_same() -> None:
    assert not fits(float("inf"), {"type": "integer"})
    assert fits(10**400, {"type": "integer"})
    assert not fits(10**400, {"multipleOf": 0.5})  # too much for a float: nobody knows


def test_a_schema_that_doubles_the_work_at_every_step_is_given_up() -> None:
    assert not fits(1, {"anyOf": [{"allOf": [{"$ref": "#"}, False]}] * 4})
