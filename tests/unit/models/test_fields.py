"""Metadata fields are read with their type and range, and errors name field and value."""

import pytest

from headrace.core.errors import ModelFileError
from headrace.models.fields import Fields

FIELDS = Fields({"p.size": 7, "p.share": 0.5, "p.on": True, "p.text": "x", "p.list": [1, 2], "p.null": None}, "p.")


def test_values_are_read_below_the_prefix():
    assert (FIELDS.integer("size"), FIELDS.number("share"), FIELDS.flag("on", default=False)) == (7, 0.5, True)
    assert FIELDS.number("size") == 7.0


def test_missing_and_null_fields_take_the_default():
    assert (FIELDS.integer("other", 3), FIELDS.number("null", 2.5), FIELDS.flag("null", default=True)) == (3, 2.5, True)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda: FIELDS.integer("other"), "p.other is missing"),
        (lambda: FIELDS.integer("list"), r"p\.list = \[1, 2\]: a whole number"),
        (lambda: FIELDS.integer("on"), "p.on = True"),
        (lambda: FIELDS.integer("size", high=6), r"p\.size = 7: must be within \[1, 6\]"),
        (lambda: FIELDS.number("text"), "p.text = 'x'"),
        (lambda: FIELDS.number("share", low=0.5), "p.share = 0.5"),
        (lambda: FIELDS.flag("size", default=True), "p.size = 7"),
        (lambda: FIELDS.refuse("size", 0, 8), "p.size = 7: not supported.*None or 0 or 8"),
    ],
)
def test_errors_name_the_field_and_its_value(read, message):
    with pytest.raises(ModelFileError, match=message):
        read()


def test_harmless_values_are_not_refused():
    FIELDS.refuse("size", 7)
    FIELDS.refuse("null")
    FIELDS.refuse("other")
