"""The cap of logits: every variant against NumPy, and the same bits wherever a value stands."""

import numpy as np
import pytest

from headrace.kernels import native, reference

VARIANTS = native.variants()


def values(width: int) -> np.ndarray:
    """Rows of small, ordinary and very large logits of either sign."""
    rng = np.random.default_rng(width)
    return (rng.standard_normal((5, width)) * np.array([[0.0], [1e-3], [10.0], [1e3], [1e30]])).astype(np.float32)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("width", [1, 7, 16, 33, 1000])
@pytest.mark.parametrize("cap", [2.0, 30.0])
def test_every_variant_caps_as_numpy_does(variant: str, width: int, cap: float) -> None:
    x = values(width)
    capped = native.softcap(x, cap, variant)
    np.testing.assert_allclose(capped, reference.softcap(x, cap), rtol=0, atol=3e-7 * cap)
    assert np.abs(capped).max() <= cap


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_value_has_the_same_bits_wherever_it_stands(variant: str) -> None:
    x = values(100)
    whole = native.softcap(x, 30.0, variant)
    for first, last in ((0, 1), (3, 40), (97, 100)):
        assert np.array_equal(native.softcap(x[:, first:last].copy(), 30.0, variant), whole[:, first:last])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_none(variant: str, broken: float) -> None:
    x = np.zeros((1, 40), dtype=np.float32)
    x[0, [3, 39]] = broken
    assert np.isnan(native.softcap(x, 30.0, variant)[0]).nonzero()[0].tolist() == [3, 39]
    with np.errstate(invalid="ignore"):
        assert np.isnan(reference.softcap(x, 30.0)[0]).nonzero()[0].tolist() == [3, 39]


def test_a_cap_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="cap: must be above 0"):
        native.softcap(values(8), 0.0)
