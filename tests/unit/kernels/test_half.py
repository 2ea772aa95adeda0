"""fp16 numbers of the cache: every variant narrows to exactly the bits that the rule gives."""

import numpy as np
import pytest

from headrace.kernels import native

VARIANTS = native.variants()


def expected(x: np.ndarray) -> np.ndarray:
    """NumPy's rounding, with what fp16 cannot hold clamped, NaN by its sign too."""
    limit = np.where(np.signbit(x), np.float32(-65504), np.float32(65504))
    return np.where(np.abs(x) < 65504, x, limit).astype(np.float16).view(np.uint16)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 15, 16, 40, 64, 100_003])
def test_any_float_narrows_as_numpy_rounds_it(variant: str, count: int) -> None:
    # Random bits: subnormals, infinities and NaN are among them.
    x = np.random.default_rng(count).integers(0, 2**32, count, dtype=np.uint32).view(np.float32)
    assert np.array_equal(native.narrow(x, variant), expected(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_half_and_every_point_between_two_narrows_to_the_right_one(variant: str) -> None:
    halves = np.arange(0x7C00, dtype=np.uint16)
    exact = halves.view(np.float16).astype(np.float32)
    assert np.array_equal(native.narrow(exact, variant), halves)
    between = (exact[:-1] + exact[1:]) / 2
    for x in (between, -between, np.nextafter(between, np.float32(0)), np.nextafter(between, np.float32(1e9))):
        assert np.array_equal(native.narrow(x, variant), expected(x))


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_fp16_cannot_hold_becomes_its_largest_number(variant: str) -> None:
    x = np.array([65503.9, 65504, 65519, 65520, 1e38, np.inf, -np.inf, np.nan, -0.0] * 2, np.float32)
    got = native.narrow(x, variant)
    assert got.tolist() == [0x7BFF] * 6 + [0xFBFF, 0x7BFF, 0x8000] + [0x7BFF] * 6 + [0xFBFF, 0x7BFF, 0x8000]
