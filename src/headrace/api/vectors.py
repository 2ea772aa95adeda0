"""Vectors of float32 as text: decimal numbers that are as short as can be read back, or base64.

A vector is bytes, little-endian, as `core.events.Embedding` brings it. Knows nothing of who asked.

A JSON library prints a float32 as the double that it is, with up to 17 digits of which most say nothing. The shortest
decimal that reads back to a float32 lies on one of two grids: the finest one that is no finer than the gap between the
number and its neighbours, where at most one point reads back to it, and the next finer one, where one always does. The
nearest points of both are found by arithmetic alone, for a whole vector at once. (Some powers of two have a shorter
decimal on their wider side, which this does not look for.)
"""

import base64
import math
import sys
from array import array
from itertools import starmap
from typing import Final

import msgspec

FLOAT_BYTES: Final = 4

_encode_json = msgspec.json.Encoder().encode

# Adding and taking away 1.5 * 2**52 rounds a double below 2**51 to an integer, halves to even.
_ROUND: Final = 6755399441055744.0
# The largest power of ten that a double holds exactly: quotients of integers by it are rounded once.
_MAX_DECIMALS: Final = 21


def _grid(exponent: int) -> float:
    """Points a unit on the coarser grid of numbers with this (biased) exponent; NaN where arithmetic does not reach."""
    decimals = math.floor((150 - exponent) * math.log10(2))
    return 10.0**decimals if 0 <= decimals <= _MAX_DECIMALS else math.nan


# By the upper nine bits of a float32: its sign and its exponent.
_GRIDS: Final = [_grid(bits & 255) for bits in range(512)]


def is_finite(vector: bytes) -> bool:
    """Whether every number of the vector is one that JSON can say."""
    return math.isfinite(sum(_floats(vector)))  # float32 cannot overflow a double


def encode_base64(vector: bytes) -> bytes:
    """The vector as OpenAI's `encoding_format: base64`, a JSON string: its bytes, little-endian."""
    return b'"' + base64.b64encode(vector) + b'"'


def encode_floats(vector: bytes) -> bytes:
    """The vector as a JSON list: of each finite number the shortest decimal that reads back to the same float32."""
    floats = _floats(vector)
    values = floats.tolist()
    grids = [_GRIDS[bits >> 23] for bits in memoryview(floats).cast("B").cast("I")]
    coarse = [(value * grid + _ROUND - _ROUND) / grid for value, grid in zip(values, grids, strict=True)]
    read = array("f", coarse)
    found = [
        near if back == value else (value * (grid * 10) + _ROUND - _ROUND) / (grid * 10)
        for value, grid, near, back in zip(values, grids, coarse, read, strict=True)
    ]
    if array("f", found).tolist() != values:
        found = list(starmap(_settle, zip(values, found, array("f", found), strict=True)))
    return _encode_json(found)


def _settle(value: float, found: float, back: float) -> float:
    """What was found if it reads back, else the shortest decimal by trial: zeros, the very small, the very large."""
    if back == value:
        return found
    for num_digits in range(1, 9):
        shown = float(f"{value:.{num_digits}g}")
        if array("f", [shown])[0] == value:
            return shown
    return float(f"{value:.9g}")


def _floats(vector: bytes) -> "array[float]":
    floats = array("f")
    floats.frombytes(vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return floats
