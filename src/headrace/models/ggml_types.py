"""The tensor types that llama.cpp writes: how their blocks are laid out, as float32 and as our groups.

Owns one decoder per type and the table `TYPES`. Every decoder turns blocks into integer codes with a scale and, for
some, a minimum per group of 16 or 32; `dequantize` and `to_grouped` are the only two uses of that. Knows nothing of
files; values that cannot be represented raise ValueError with a phrase that completes "tensor X ...".

    codes kept exactly in 4 bits   Q4_0 Q4_1 Q4_K                       (K: group scales are rounded to fp16)
    codes kept exactly in 8 bits   Q5_0 Q5_1 Q5_K Q8_0 IQ4_NL IQ4_XS    (K, XS: group scales are rounded to fp16)
    requantised to 8 bits          Q2_K Q3_K Q6_K (groups of 16), F32 F16 BF16
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.grouped import GroupedMatrix
from headrace.kernels.plan import GROUP
from headrace.models.regroup import regroup, rows_per_chunk

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SUPER = 256  # values in a block of the K and XS types
_IQ4_CODEBOOK = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.int8)


@dataclass(frozen=True, slots=True)
class Groups:
    """Blocks taken apart: value = codes * scale + minimum.

    codes [blocks, groups, size]; scale and minimum [blocks, groups].
    """

    codes: NDArray[np.int8]
    scale: Floats
    minimum: Floats | None = None


@dataclass(frozen=True, slots=True)
class GgmlType:
    """One row of the table.

    `decode` takes blocks apart (None: plain floats). `exact_bits` is the width in which codes are kept, 0 if the
    type is requantised.
    """

    name: str
    block_values: int
    block_bytes: int
    exact_bits: int
    decode: Callable[[Bytes], Groups] | None = None

    def row_bytes(self, cols: int) -> int:
        """Bytes of a row; `cols` is a whole number of blocks."""
        return cols // self.block_values * self.block_bytes


def _half(blocks: Bytes, at: int) -> Floats:
    """The fp16 number at byte `at` of every block, as float32 [blocks, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def _fields(packed: Bytes, bits: int) -> Bytes:
    """Split the last axis [..., w] into bit fields [..., 8 / bits, w], lowest first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    fields: Bytes = (packed[..., None, :] >> shifts) & np.uint8((1 << bits) - 1)
    return fields


def _above(high: Bytes, bits: int) -> Bytes:
    """Move values above a field of `bits` bits, staying in a byte."""
    return np.left_shift(high, np.uint8(bits))


def _low_nibbles_first(packed: Bytes) -> Bytes:
    """16 bytes to 32 values: all low nibbles, then all high ones."""
    return _fields(packed, 4).reshape(len(packed), 1, 32)


def _fifth_bits(packed: Bytes) -> Bytes:
    """4 bytes to 32 values: bit i, moved to the place above a nibble, belongs to value i."""
    return _above(np.unpackbits(packed, axis=1, bitorder="little"), 4).reshape(len(packed), 1, 32)


def _signed(codes: Bytes, offset: int) -> NDArray[np.int8]:
    return codes.view(np.int8) - np.int8(offset)


def _q4_0(blocks: Bytes) -> Groups:
    return Groups(_signed(_low_nibbles_first(blocks[:, 2:18]), 8), _half(blocks, 0))


def _q4_1(blocks: Bytes) -> Groups:
    return Groups(_low_nibbles_first(blocks[:, 4:20]).view(np.int8), _half(blocks, 0), _half(blocks, 2))


def _q5_0(blocks: Bytes) -> Groups:
    codes = _low_nibbles_first(blocks[:, 6:22]) | _fifth_bits(blocks[:, 2:6])
    return Groups(_signed(codes, 16), _half(blocks, 0))


def _q5_1(blocks: Bytes) -> Groups:
    codes = _low_nibbles_first(blocks[:, 8:24]) | _fifth_bits(blocks[:, 4:8])
    return Groups(codes.view(np.int8), _half(blocks, 0), _half(blocks, 2))


def _q8_0(blocks: Bytes) -> Groups:
    return Groups(blocks[:, 2:34].view(np.int8)[:, None, :], _half(blocks, 0))


def _q2_k(blocks: Bytes) -> Groups:
    codes = _fields(blocks[:, 16:80].reshape(-1, 2, 32), 2).reshape(-1, 16, 16)
    packed = blocks[:, :16]
    scale = _half(blocks, 80) * (packed & 15).astype(np.float32)
    minimum = -(_half(blocks, 82) * (packed >> 4).astype(np.float32))
    return Groups(codes.view(np.int8), scale, minimum)


def _q3_k(blocks: Bytes) -> Groups:
    low = _fields(blocks[:, 32:96].reshape(-1, 2, 32), 2).reshape(-1, 8, 32)
    # The mask's bit j covers the j-th run of 32 values; a clear bit takes 4 off.
    high = _fields(blocks[:, :32], 1)
    codes = low.view(np.int8) - _above(high ^ np.uint8(1), 2).view(np.int8)
    # Sixteen 6-bit scales: low nibbles of 8 bytes, their high nibbles, then 2 bits each from 4 bytes.
    scales = _fields(blocks[:, 96:104], 4).reshape(-1, 16) | _above(_fields(blocks[:, 104:108], 2).reshape(-1, 16), 4)
    scale = _half(blocks, 108) * _signed(scales, 32).astype(np.float32)
    return Groups(codes.reshape(-1, 16, 16), scale)


def _k_scales(packed: Bytes) -> tuple[Floats, Floats]:
    """Eight 6-bit scales and eight 6-bit minima out of 12 bytes.

    Bytes 0-3 and 4-7 hold the first four of each in their low 6 bits; the last four have their low nibbles in bytes
    8-11 (scale low, minimum high) and their upper 2 bits on top of bytes 0-3 and 4-7.
    """
    first, second, third = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (third & 15) | _above(first >> np.uint8(6), 4)], axis=1)
    minima = np.concatenate([second & 63, (third >> 4) | _above(second >> np.uint8(6), 4)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _q4_k(blocks: Bytes) -> Groups:
    scales, minima = _k_scales(blocks[:, 4:16])
    codes = _fields(blocks[:, 16:144].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    return Groups(codes.view(np.int8), _half(blocks, 0) * scales, -(_half(blocks, 2) * minima))


def _q5_k(blocks: Bytes) -> Groups:
    scales, minima = _k_scales(blocks[:, 4:16])
    low = _fields(blocks[:, 48:176].reshape(-1, 4, 32), 4).reshape(-1, 8, 32)
    codes = low | _above(_fields(blocks[:, 16:48], 1), 4)
    return Groups(codes.view(np.int8), _half(blocks, 0) * scales, -(_half(blocks, 2) * minima))


def _q6_k(blocks: Bytes) -> Groups:
    low = _fields(blocks[:, :128].reshape(-1, 2, 64), 4).reshape(-1, _SUPER)
    high = _fields(blocks[:, 128:192].reshape(-1, 2, 32), 2).reshape(-1, _SUPER)
    scale = _half(blocks, 208) * blocks[:, 192:208].view(np.int8).astype(np.float32)
    return Groups(_signed(low | _above(high, 4), 32).reshape(-1, 16, 16), scale)


def _iq4_nl(blocks: Bytes) -> Groups:
    return Groups(_IQ4_CODEBOOK[_low_nibbles_first(blocks[:, 2:18])], _half(blocks, 0))


def _iq4_xs(blocks: Bytes) -> Groups:
    codes = _fields(blocks[:, 8:136].reshape(-1, 8, 16), 4).reshape(-1, 8, 32)
    # 6-bit scales: nibbles of 4 bytes in order, upper 2 bits from a 16-bit word.
    low = _fields(blocks[:, 4:8, None], 4).reshape(-1, 8)
    high = _fields(blocks[:, 2:4, None], 2).reshape(-1, 8)
    scale = _half(blocks, 0) * _signed(low | _above(high, 4), 32).astype(np.float32)
    return Groups(_IQ4_CODEBOOK[codes], scale)


TYPES: dict[int, GgmlType] = {
    0: GgmlType("F32", 1, 4, 0),
    1: GgmlType("F16", 1, 2, 0),
    2: GgmlType("Q4_0", 32, 18, 4, _q4_0),
    3: GgmlType("Q4_1", 32, 20, 4, _q4_1),
    6: GgmlType("Q5_0", 32, 22, 8, _q5_0),
    7: GgmlType("Q5_1", 32, 24, 8, _q5_1),
    8: GgmlType("Q8_0", 32, 34, 8, _q8_0),
    10: GgmlType("Q2_K", _SUPER, 84, 0, _q2_k),
    11: GgmlType("Q3_K", _SUPER, 110, 0, _q3_k),
    12: GgmlType("Q4_K", _SUPER, 144, 4, _q4_k),
    13: GgmlType("Q5_K", _SUPER, 176, 8, _q5_k),
    14: GgmlType("Q6_K", _SUPER, 210, 0, _q6_k),
    20: GgmlType("IQ4_NL", 32, 18, 8, _iq4_nl),
    23: GgmlType("IQ4_XS", _SUPER, 136, 8, _iq4_xs),
    30: GgmlType("BF16", 1, 2, 0),
}

UNSUPPORTED: dict[int, str] = {
    4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 15: "Q8_K",
    16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 29: "IQ1_M",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8",
    34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}  # fmt: skip
"""Types that GGUF files may hold and that are refused by name."""


def as_float32(raw: Bytes, name: str) -> Floats:
    """Plain floats (`F32`, `F16`, `BF16`) as a new float32 array; the last axis of bytes becomes values."""
    raw = np.ascontiguousarray(raw)
    if name == "F32":
        return raw.view(np.float32).copy()
    if name == "F16":
        return raw.view(np.float16).astype(np.float32)
    return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def dequantize(raw: Bytes, kind: GgmlType) -> Floats:
    """Rows of bytes [rows, row bytes] as float32 [rows, cols], bit for bit what ggml's own conversion gives."""
    if kind.decode is None:
        return as_float32(raw, kind.name)
    # Corrupt scales may be infinite or NaN; what comes out is checked where it is used.
    with np.errstate(invalid="ignore", over="ignore"):
        groups = kind.decode(np.ascontiguousarray(raw).reshape(-1, kind.block_bytes))
        values = groups.codes.astype(np.float32)
        values *= groups.scale[:, :, None]
        if groups.minimum is not None:
            values += groups.minimum[:, :, None]
    return values.reshape(len(raw), -1)


def to_grouped(raw: Bytes, kind: GgmlType, cols: int) -> GroupedMatrix:
    """Rows of bytes [rows, row bytes] in groups: exact codes where the type has groups of 32, else 8 bits anew."""
    rows = len(raw)
    if kind.exact_bits == 0:
        return regroup(lambda first, last: dequantize(raw[first:last], kind), rows, cols)
    narrow = kind.exact_bits == 4
    codes = np.empty((rows, cols), dtype=np.int8)
    scale = np.empty((rows, cols // GROUP), dtype=np.float16)
    minimum: NDArray[np.float16] | None = None
    step = rows_per_chunk(cols)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        groups = _exact_groups(raw[first:last], kind, narrow)
        codes[first:last] = groups.codes.reshape(last - first, cols)
        scale[first:last] = _in_fp16(groups.scale).reshape(last - first, -1)
        if groups.minimum is not None:
            minimum = np.empty_like(scale) if minimum is None else minimum
            minimum[first:last] = _in_fp16(groups.minimum).reshape(last - first, -1)
    return GroupedMatrix(rows, cols, kind.exact_bits, codes.view(np.uint8) if narrow else codes, scale, minimum)


def _exact_groups(raw: Bytes, kind: GgmlType, narrow: bool) -> Groups:
    assert kind.decode is not None  # only types with codes have exact_bits
    with np.errstate(invalid="ignore", over="ignore"):
        groups = kind.decode(np.ascontiguousarray(raw).reshape(-1, kind.block_bytes))
        if narrow and groups.minimum is None:
            # 4-bit codes are unsigned here: q * d with q = -8..7 is (q + 8) * d - 8 * d, exactly.
            return Groups(groups.codes + np.int8(8), groups.scale, np.float32(-8) * groups.scale)
    return groups


def _in_fp16(values: Floats) -> NDArray[np.float16]:
    with np.errstate(invalid="ignore", over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        raise ValueError("holds a group scale that is NaN, infinite or too large for fp16")
    return halves
