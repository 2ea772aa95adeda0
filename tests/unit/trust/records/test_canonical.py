"""Canonical JSON against the examples that RFC 8785 prints, and what strict reading refuses."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.trust.records import canonical
from headrace.trust.records.canonical import MAX_INT, NotCanonical

# RFC 8785, appendix B: IEEE 754 doubles and how they are written.
DOUBLES = """
0000000000000000 0
8000000000000000 0
0000000000000001 5e-324
8000000000000001 -5e-324
7fefffffffffffff 1.7976931348623157e+308
ffefffffffffffff -1.7976931348623157e+308
4340000000000000 9007199254740992
c340000000000000 -9007199254740992
4430000000000000 295147905179352830000
44b52d02c7e14af5 9.999999999999997e+22
44b52d02c7e14af6 1e+23
44b52d02c7e14af7 1.0000000000000001e+23
444b1ae4d6e2ef4e 999999999999999700000
444b1ae4d6e2ef4f 999999999999999900000
444b1ae4d6e2ef50 1e+21
3eb0c6f7a0b5ed8c 9.999999999999997e-7
3eb0c6f7a0b5ed8d 0.000001
41b3de4355555553 333333333.3333332
41b3de4355555554 333333333.33333325
41b3de4355555555 333333333.3333333
41b3de4355555556 333333333.3333334
41b3de4355555557 333333333.33333343
becbf647612f3696 -0.0000033333333333333333
43143ff3c1cb0959 1424953923781206.2
""".strip().splitlines()

SURROGATES = st.text(st.characters(codec="utf-8"), max_size=12)
# A double between 2^53 and 1e21 is written like an integer that I-JSON does not promise, and is refused as one.
FLOATS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda one: not MAX_INT < abs(one) < 1e21)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INT, MAX_INT) | FLOATS | SURROGATES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SURROGATES, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize("line", DOUBLES)
def test_a_double_is_written_as_the_rfc_prints_it(line: str) -> None:
    bits, text = line.split(" ")
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    assert canonical.number(value) == text


@pytest.mark.parametrize("bits", ["7fffffffffffffff", "7ff0000000000000", "fff0000000000000"])
def test_what_is_no_number_is_refused(bits: str) -> None:
    (value,) = struct.unpack(">d", bytes.fromhex(bits))
    with pytest.raises(NotCanonical, match="no JSON number"):
        canonical.encode([value])


def test_the_sample_of_section_3_2_4_comes_out_byte_for_byte() -> None:
    sample = rb"""{
       "numbers": [333333333.33333329, 1E30, 4.50, 2e-3, 0.000000000000000000000000001],
       "string": "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/",
       "literals": [null, true, false]
     }"""
    wanted = (
        "7b226c69746572616c73223a5b6e756c6c2c747275652c66616c73655d2c226e756d62657273223a5b3333333333333333332e33333333"
        "3333332c31652b33302c342e352c302e3030322c31652d32375d2c22737472696e67223a22e282ac245c75303030665c6e412742225c22"
        "5c5c5c5c5c222f227d"
    ).replace("412742225c22", "4127425c22")
    assert canonical.encode(canonical.read(sample)).hex() == wanted


def test_names_are_in_the_order_of_utf_16_code_units() -> None:
    value = json.loads(
        r"""{"\u20ac": "Euro Sign", "\r": "Carriage Return", "\ufb33": "Hebrew Letter Dalet With Dagesh", "1": "One",
        "\ud83d\ude00": "Emoji: Grinning Face", "\u0080": "Control", "\u00f6": "Latin Small Letter O With Diaeresis"}"""
    )
    told = json.loads(canonical.encode(value), object_pairs_hook=lambda pairs: [text for _, text in pairs])
    assert told == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


@given(VALUES)
def test_the_form_reads_back_as_the_value_and_is_its_own_form(value: object) -> None:
    data = canonical.encode(value)
    again = canonical.read(data)
    assert again == value
    assert canonical.encode(again) == data


@pytest.mark.parametrize("value", [2**53, -(2**53), {1: 2}, b"x", "\ud800", {"\udfff": 1}, object()])
def test_what_has_no_form_is_refused(value: object) -> None:
    with pytest.raises(NotCanonical):
        canonical.encode(value)


def test_nesting_has_a_bound_both_ways() -> None:
    deep: object = 0
    for _ in range(200):
        deep = [deep]
    with pytest.raises(NotCanonical, match="deeper"):
        canonical.encode(deep)
    with pytest.raises(NotCanonical, match="nested"):
        canonical.read(b"[" * 10**6 + b"]" * 10**6)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a":1,"a":1}', "given twice"),
        (b'{"a":{"b":1,"b":2}}', "given twice"),
        (b"[1] x", "Extra data"),
        (b"[1]\x00", "Extra data"),
        (b"[NaN]", "no JSON number"),
        (b"[-Infinity]", "no JSON number"),
        (b"\xff", "utf-8"),
        (b"\xed\xa0\x80", "utf-8"),
        (b"", "Expecting value"),
        (b"[01]", "delimiter|Expecting"),
        (b"9" * 5000, "digits"),
    ],
)
def test_reading_is_strict(data: bytes, says: str) -> None:
    with pytest.raises(NotCanonical, match=says):
        canonical.read(data)
