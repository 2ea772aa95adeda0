"""Quantisation of activations to groups of 8-bit codes: every variant gives exactly the same codes."""

import numpy as np
import pytest

from headrace.kernels import native
from headrace.kernels.grouped import rotate_groups
from headrace.kernels.reference import hadamard

VARIANTS = native.variants()


def expected(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes, scales and sums by the rule, in the float32 operations that the rule names."""
    rows, cols = x.shape
    padded = np.zeros((rows, -(-cols // 32) * 32), np.float32)
    padded[:, :cols] = x
    groups = padded.reshape(rows, -1, 32)
    amax = np.abs(groups).max(axis=2)
    inverse = np.divide(np.float32(127), amax, out=np.zeros_like(amax), where=amax > 0)
    codes = np.rint(groups * inverse[:, :, None]).astype(np.int8)
    scales = amax / np.float32(127)
    sums = scales * codes.sum(axis=2, dtype=np.int32).astype(np.float32)
    return codes.reshape(rows, -1), scales, sums


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cols", [1, 7, 31, 32, 33, 64, 576, 1000])
def test_codes_scales_and_sums_follow_the_rule(variant: str, cols: int) -> None:
    rng = np.random.default_rng(cols)
    x = (rng.standard_normal((9, cols)) * np.exp(rng.uniform(-20, 20, (9, 1)))).astype(np.float32)
    for got, wanted in zip(native.quantize(x, variant), expected(x), strict=True):
        assert np.array_equal(got, wanted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_halves_round_to_the_even_code(variant: str) -> None:
    x = np.zeros((1, 32), np.float32)
    x[0, :6] = [127, 0.5, 1.5, 2.5, -0.5, -1.5]
    codes, scales, sums = native.quantize(x, variant)
    assert codes[0, :6].tolist() == [127, 0, 2, 2, 0, -2]
    assert (scales[0, 0], sums[0, 0]) == (1, 129)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_largest_magnitude_is_code_127_of_either_sign(variant: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((1000, 32)).astype(np.float32)
    codes, _, _ = native.quantize(x, variant)
    assert np.array_equal(np.abs(codes.astype(np.int32)).max(axis=1), np.full(1000, 127))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, -3e-36])
def test_groups_too_small_to_scale_become_zeros(variant: str, value: float) -> None:
    for got in native.quantize(np.full((1, 32), value, np.float32), variant):
        assert not got.any()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_smallest_group_that_is_kept_keeps_its_values(variant: str) -> None:
    x = np.full((1, 32), 2.0**-118, np.float32)
    codes, scales, sums = native.quantize(x, variant)
    assert (codes == 127).all()
    assert np.allclose(codes[0] * scales[0, 0].astype(np.float64), 2.0**-118, rtol=1e-6, atol=0)
    assert np.isclose(float(sums[0, 0]), 32 * 2.0**-118, rtol=1e-6, atol=0)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("cols", [32, 64, 576])
def test_rotated_codes_are_those_of_the_rotated_values(variant: str, cols: int) -> None:
    rng = np.random.default_rng(cols)
    x = (rng.standard_normal((9, cols)) * np.exp(rng.uniform(-20, 20, (9, 1)))).astype(np.float32)
    for got, wanted in zip(native.quantize(x, variant, rotates=True), expected(rotate_groups(x)), strict=True):
        assert np.array_equal(got, wanted)


def test_a_rotation_is_the_orthonormal_walsh_hadamard_matrix_of_each_group() -> None:
    x = np.random.default_rng(3).standard_normal((5, 96)).astype(np.float32)
    wanted = (x.reshape(5, 3, 32) @ hadamard(32)).reshape(5, 96)
    assert np.allclose(rotate_groups(x), wanted, atol=1e-6)
    assert np.allclose(rotate_groups(rotate_groups(x)), x, atol=1e-6)


def test_one_large_value_costs_its_neighbours_less_when_it_is_rotated() -> None:
    x = np.random.default_rng(4).standard_normal((50, 32)).astype(np.float32)
    x[:, 7] = 60.0
    errors = []
    for rotates in (False, True):
        codes, scales, _ = native.quantize(x, rotates=rotates)
        values = (codes * scales).astype(np.float32)
        errors.append(np.square((rotate_groups(values) if rotates else values) - x)[:, :7].mean())
    assert errors[1] < errors[0] / 10
