"""Tensor types against the `gguf` package bit for bit, and each type's error in our groups against a named limit."""

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.kernels.plan import GROUP
from headrace.models.ggml_types import TYPES, UNSUPPORTED, GgmlType, dequantize, to_grouped

COLS, ROWS = 512, 48
BY_NAME = {kind.name: (code, kind) for code, kind in TYPES.items()}

# Largest relative root-mean-square error of a matrix in our groups against ggml's own float32.
FP16_ROUNDING = 2.0**-11
EXACT = 0.0
EIGHT_BITS = 0.01  # normal weights: a group's largest of 32 is about 2.1 sigma, so steps of 2.1 / 127 / sqrt(12) sigma
ERROR_LIMITS = {
    "F32": EIGHT_BITS, "F16": EIGHT_BITS, "BF16": EIGHT_BITS,
    "Q4_0": EXACT, "Q4_1": EXACT, "Q5_0": EXACT, "Q5_1": EXACT, "Q8_0": EXACT, "IQ4_NL": EXACT,
    "Q4_K": FP16_ROUNDING, "Q5_K": FP16_ROUNDING, "IQ4_XS": FP16_ROUNDING,
    "Q2_K": EIGHT_BITS, "Q3_K": EIGHT_BITS, "Q6_K": EIGHT_BITS,
}  # fmt: skip
HALVES_AT = {
    # byte offsets of fp16 scales in a block, which must be sane for a valid block
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip


def random_blocks(kind: GgmlType, seed: int = 7, spread: float = 1e-2) -> NDArray[np.uint8]:
    """Valid rows of a type: every bit pattern of codes and sub-scales, finite fp16 scales of either sign."""
    rng = np.random.default_rng(seed)
    if kind.decode is None:
        values = rng.normal(0, spread, (ROWS, COLS)).astype(np.float32)
        if kind.name == "F16":
            return values.astype(np.float16).view(np.uint8)
        words = values.view(np.uint32)
        return values.view(np.uint8) if kind.name == "F32" else (words >> 16).astype(np.uint16).view(np.uint8)
    raw = rng.integers(0, 256, (ROWS * COLS // kind.block_values, kind.block_bytes), dtype=np.uint8)
    for at in HALVES_AT[kind.name]:
        scales = (spread * rng.normal(0, 1, (len(raw), 1))).astype(np.float16)
        raw[:, at : at + 2] = scales.view(np.uint8)
    return raw.reshape(ROWS, -1)


@pytest.mark.parametrize("name", BY_NAME)
def test_float32_values_equal_the_gguf_package_bit_for_bit(name: str) -> None:
    code, kind = BY_NAME[name]
    raw = random_blocks(kind)
    expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType(code))
    assert dequantize(raw, kind).tobytes() == np.ascontiguousarray(expected).tobytes()


@pytest.mark.parametrize("name", BY_NAME)
def test_sizes_and_numbers_are_those_of_the_gguf_package(name: str) -> None:
    code, kind = BY_NAME[name]
    known = gguf.GGMLQuantizationType(code)
    assert (known.name, gguf.GGML_QUANT_SIZES[known]) == (name, (kind.block_values, kind.block_bytes))


def test_every_type_of_the_gguf_package_is_read_or_refused_by_name() -> None:
    ours = UNSUPPORTED | {code: kind.name for code, kind in TYPES.items()}
    assert {known.value: known.name for known in gguf.GGMLQuantizationType}.items() <= ours.items()


@pytest.mark.parametrize("name", BY_NAME)
def test_the_error_of_grouping_stays_below_the_types_limit(name: str) -> None:
    _, kind = BY_NAME[name]
    raw = random_blocks(kind)
    wanted = dequantize(raw, kind).astype(np.float64)
    got = to_grouped(raw, kind, COLS).dequantize().astype(np.float64)
    error = np.sqrt(np.square(got - wanted).sum() / np.square(wanted).sum())
    # Exact types keep value for value; only a product and a sum in float32 may round differently (Q4_0's offset).
    assert error <= ERROR_LIMITS[name] + 1e-7
    if name != "Q4_0" and ERROR_LIMITS[name] == EXACT:
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize("name", BY_NAME)
def test_the_width_of_codes_is_as_narrow_as_the_type_allows(name: str) -> None:
    _, kind = BY_NAME[name]
    matrix = to_grouped(random_blocks(kind), kind, COLS)
    assert matrix.bits == (4 if name in {"Q4_0", "Q4_1", "Q4_K"} else 8)
    assert matrix.codes.dtype == (np.uint8 if matrix.bits == 4 else np.int8)
    assert matrix.codes.shape == (ROWS, COLS)
    assert matrix.scale.shape == (ROWS, COLS // GROUP)
    assert matrix.scale.dtype == np.float16


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q4_K", "Q5_K", "IQ4_XS"])
def test_subnormal_scales_survive_grouping_without_loss(name: str) -> None:
    """A subnormal scale times a 6-bit factor is again a multiple of 2^-24, so nothing needs to be rounded."""
    _, kind = BY_NAME[name]
    raw = random_blocks(kind, spread=2e-7)
    wanted = dequantize(raw, kind)
    assert np.array_equal(to_grouped(raw, kind, COLS).dequantize(), wanted)
    assert 0 < np.abs(wanted).max() < 0.01


@pytest.mark.parametrize("name", sorted(HALVES_AT))
def test_a_scale_that_is_infinite_or_too_large_is_refused(name: str) -> None:
    _, kind = BY_NAME[name]
    raw = random_blocks(kind).reshape(-1, kind.block_bytes)
    at = HALVES_AT[name][0]
    raw[3, at : at + 2] = np.array([np.inf], dtype=np.float16).view(np.uint8)
    with pytest.raises(ValueError, match=r"scale|infinity"):
        to_grouped(raw.reshape(ROWS, -1), kind, COLS)


def test_a_q4_0_scale_whose_offset_overflows_fp16_is_refused_and_not_turned_to_infinity() -> None:
    _, kind = BY_NAME["Q4_0"]
    raw = random_blocks(kind)
    raw[0, 0:2] = np.array([9000], dtype=np.float16).view(np.uint8)
    with pytest.raises(ValueError, match="too large for fp16"):
        to_grouped(raw, kind, COLS)


def test_many_rows_give_the_same_as_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    _, kind = BY_NAME["Q6_K"]
    raw = random_blocks(kind)
    whole = to_grouped(raw, kind, COLS)
    monkeypatch.setattr("headrace.models.regroup.CHUNK_VALUES", 5 * COLS)
    chunked = to_grouped(raw, kind, COLS)
    assert np.array_equal(whole.codes, chunked.codes)
    assert np.array_equal(whole.scale, chunked.scale)
