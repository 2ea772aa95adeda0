"""Every float32 comes back as it was, from decimals and from base64, and no decimal is longer than it must be."""

import base64
import json
import struct

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.api.vectors import encode_base64, encode_floats, is_finite

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
BITS = st.integers(0, 2**32 - 1).map(lambda bits: struct.unpack("<f", struct.pack("<I", bits))[0])


@given(
    st.lists(FLOATS | BITS.filter(np.isfinite) | st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.1, 2.0**-149]), max_size=40)
)
@settings(max_examples=500)
def test_decimals_and_base64_read_back_to_the_same_bits(values: list[float]) -> None:
    vector = np.array(values, "<f4").tobytes()
    assert is_finite(vector)
    assert np.array(json.loads(encode_floats(vector)), "<f4").tobytes() == vector
    assert base64.b64decode(json.loads(encode_base64(vector)), validate=True) == vector


@given(st.lists(FLOATS | BITS.filter(np.isfinite), min_size=1, max_size=40))
@settings(max_examples=500)
def test_no_decimal_is_longer_than_numpys_shortest(values: list[float]) -> None:
    vector = np.array(values, "<f4")
    for told, value in zip(json.loads(encode_floats(vector.tobytes())), vector, strict=True):
        mantissa, _ = np.frexp(value)
        # The shortest decimal of a power of two may lie on its wider side only, where nobody looks.
        assert told == float(str(value)) or abs(mantissa) == 0.5


def test_a_unit_vector_is_printed_in_a_dozen_characters_a_number() -> None:
    random = np.random.default_rng(5)
    vector = random.standard_normal(4096).astype("<f4")
    text = encode_floats((vector / np.linalg.norm(vector)).astype("<f4").tobytes())
    assert len(text) / 4096 < 14


def test_what_json_cannot_say_is_seen() -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):
        assert not is_finite(struct.pack("<3f", 1.0, bad, 2.0))
    largest = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
    assert is_finite(struct.pack("<4f", *[largest] * 4))
    assert is_finite(b"")
