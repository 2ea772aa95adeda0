"""Plain activations and the layer norm: every variant, and the reference, against float64 over odd widths."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.kernels.random_matrices import VARIANTS

from headrace.kernels import native, reference
from headrace.kernels.plan import Activation

WIDTHS = (1, 7, 8, 31, 32, 33, 80, 384, 1000)
# Absolute, and relative to x: what the approximations promise (vector_math.h), and float32's own rounding.
POINTWISE_LIMITS = (5e-7, 4e-7)
NORM_LIMIT = 3e-6


def exact(activation: Activation, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """In float64, by definitions other than the reference's."""
    with np.errstate(over="ignore"):
        return {
            Activation.SILU: lambda: x * 0.5 * (1 + np.tanh(x / 2)),
            Activation.GELU_TANH: lambda: x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
            Activation.GELU: lambda: np.array([v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.flat]).reshape(
                x.shape
            ),
            Activation.TANH: lambda: np.tanh(x),
            Activation.RELU: lambda: np.where(x > 0, x, 0),
        }[activation]()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("activation", list(Activation))
def test_an_activation_is_what_it_is_called_at_every_width(variant: str, activation: Activation) -> None:
    rng = np.random.default_rng(5)
    for width in WIDTHS:
        x = (rng.standard_normal((3, width)) * rng.choice([0.01, 1.0, 6.0], (3, 1))).astype(np.float32)
        expected = exact(activation, x.astype(np.float64))
        absolute, relative = POINTWISE_LIMITS
        limit = absolute + relative * np.abs(x)
        assert (np.abs(native.pointwise(x, int(activation), variant) - expected) <= limit).all(), width
        assert (np.abs(reference.activate(activation, x) - expected) <= limit).all(), width


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("activation", list(Activation))
def test_far_values_saturate_without_overflow(variant: str, activation: Activation) -> None:
    x = np.array([[-1e30, -1e4, -100.0, -30.0, 0.0, 30.0, 100.0, 1e4, 1e30]], dtype=np.float32)
    y = native.pointwise(x, int(activation), variant)
    expected = np.sign(x) if activation is Activation.TANH else np.maximum(x, 0)
    assert np.isfinite(y).all()
    assert np.allclose(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_exact_gelu_is_told_from_its_approximation(variant: str) -> None:
    x = np.linspace(-4, 4, 81, dtype=np.float32)[None]
    difference = native.pointwise(x, int(Activation.GELU), variant) - native.pointwise(
        x, int(Activation.GELU_TANH), variant
    )
    assert 1e-4 < np.abs(difference).max() < 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_layer_norm_centres_scales_and_shifts(variant: str) -> None:
    rng = np.random.default_rng(6)
    for width in WIDTHS:
        x = (rng.standard_normal((4, width)) * 3 + rng.uniform(-5, 5, (4, 1))).astype(np.float32)
        weight, bias = rng.standard_normal((2, width)).astype(np.float32)
        wide = x.astype(np.float64)
        deviation = np.sqrt(wide.var(axis=1, keepdims=True) + 1e-5)
        expected = (wide - wide.mean(axis=1, keepdims=True)) / deviation * weight + bias
        limit = NORM_LIMIT * (1 + np.abs(wide).max(axis=1, keepdims=True) / deviation) * (1 + np.abs(weight))
        for y in (native.layer_norm(x, weight, bias, 1e-5, variant), reference.layer_norm(x, weight, bias, 1e-5)):
            assert (np.abs(y - expected) <= limit).all(), width


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_row_that_is_constant_becomes_the_bias(variant: str) -> None:
    x = np.full((1, 45), 7.0, dtype=np.float32)
    bias = np.arange(45, dtype=np.float32)
    assert np.array_equal(native.layer_norm(x, np.ones(45, np.float32), bias, 1e-12, variant), bias[None])


@pytest.mark.parametrize(
    ("weight", "bias"), [(np.ones(31, np.float32), np.ones(32, np.float32)), (np.ones(32, np.float32),) * 2]
)
def test_a_norm_of_another_width_and_an_unknown_activation_are_refused(
    weight: NDArray[np.float32], bias: NDArray[np.float32]
) -> None:
    x = np.ones((1, 33), np.float32)
    with pytest.raises(ValueError, match="weight, bias: must be as wide as x, 33"):
        native.layer_norm(x, weight, bias, 1e-5)
    with pytest.raises(ValueError, match="activation"):
        native.pointwise(x, 5)
