"""Float rows to 8-bit groups: rounding, padding, and what cannot be represented."""

import tracemalloc

import numpy as np
import pytest

from headrace.models.regroup import MAX_COLS, quantize_rows, regroup, rows_per_chunk


def test_codes_follow_the_rounded_scale_so_no_value_is_off_by_more_than_half_a_step() -> None:
    values = np.random.default_rng(1).normal(0, 0.03, (64, 256)).astype(np.float32)
    codes, scale = quantize_rows(values)
    step = np.repeat(scale.astype(np.float32), 32, axis=1)
    error = np.abs(codes * step - values)
    # A scale rounded down by up to 2^-11 leaves the largest value 127 * 2^-11 steps above the top code.
    assert (error <= step * (0.5 + 127 * 2.0**-11)).all()
    assert np.abs(codes.astype(int)).max() == 127


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-6, 3e-7, 1e-8, 1e-12, 0.0])
def test_tiny_values_lose_at_most_half_of_the_smallest_step(size: float) -> None:
    values = np.random.default_rng(2).uniform(-size, size, (8, 64)).astype(np.float32)
    codes, scale = quantize_rows(values)
    step = np.repeat(scale.astype(np.float32), 32, axis=1)
    assert (np.abs(codes * step - values) <= np.maximum(step * (0.5 + 127 * 2.0**-11), 2.0**-25)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e7, -3e38])
def test_values_that_no_group_can_hold_are_refused(bad: float) -> None:
    values = np.zeros((2, 32), dtype=np.float32)
    values[1, 5] = bad
    with pytest.raises(ValueError, match=r"NaN or infinity|too large"):
        quantize_rows(values)


@pytest.mark.parametrize("cols", [1, 31, 32, 33, 100])
def test_columns_beyond_the_last_hold_zero_codes(cols: int) -> None:
    values = np.random.default_rng(3).normal(5, 1, (20, cols)).astype(np.float32)
    matrix = regroup(lambda first, last: values[first:last], 20, cols)
    assert matrix.codes.shape == (20, -(-cols // 32) * 32)
    assert not matrix.codes[:, cols:].any()
    assert matrix.minimum is None
    assert np.abs(matrix.dequantize() - values).max() <= np.abs(values).max() / 127


def test_rows_that_would_need_too_much_memory_are_refused() -> None:
    assert rows_per_chunk(MAX_COLS) == 1
    with pytest.raises(ValueError, match=str(MAX_COLS + 1)):
        rows_per_chunk(MAX_COLS + 1)


def test_a_large_matrix_needs_little_more_memory_than_its_result() -> None:
    values = np.ones((2048, 4096), dtype=np.float32)
    tracemalloc.start()
    try:
        matrix = regroup(lambda first, last: values[first:last], *values.shape)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < matrix.codes.nbytes + matrix.scale.nbytes + (32 << 20)
