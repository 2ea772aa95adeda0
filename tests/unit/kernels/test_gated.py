"""The gated feed-forward product: activation of one half of the rows times the other half."""

import itertools

import numpy as np
import pytest
from tests.unit.kernels.random_matrices import PRODUCT_LIMIT, VARIANTS, packed, product_and_bound, random_matrix

from headrace.kernels import native
from headrace.kernels.grouped import interleave
from headrace.kernels.plan import Activation, padded

GATED = (Activation.SILU, Activation.GELU_TANH)

# What the activation and the last multiplication add, relative to the output.
GATED_LIMIT = 1e-6
STEEPEST = 1.13  # largest slope of either activation: an error of the gate arrives at most this much larger


def activate(activation: Activation, x: np.ndarray) -> np.ndarray:
    if activation is Activation.SILU:
        return 0.5 * x * (1 + np.tanh(x / 2))
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("activation", GATED)
@pytest.mark.parametrize(("rows", "cols"), [(1, 32), (31, 33), (32, 64), (33, 576), (100, 96)])
def test_gated_products_equal_numpys_within_the_limit(
    variant: str, activation: Activation, rows: int, cols: int
) -> None:
    rng = np.random.default_rng(rows)
    for bits, has_minimum in itertools.product((4, 8), (False, True)):
        gate, up = (random_matrix(rng, rows, cols, bits, has_minimum=has_minimum) for _ in range(2))
        packed_pair = packed(interleave(gate, up))
        for num_tokens in (1, 3, 8, 33):
            x = rng.standard_normal((num_tokens, cols)).astype(np.float32)
            (gates, gate_bound), (ups, up_bound) = (product_and_bound(x, matrix) for matrix in (gate, up))
            activated = activate(activation, gates)
            limit = PRODUCT_LIMIT[bits] * (STEEPEST * gate_bound * np.abs(ups) + up_bound * np.abs(activated))
            limit += GATED_LIMIT * np.abs(activated * ups)
            y = native.gated(x, packed_pair, int(activation), variant)
            assert y.shape == (num_tokens, padded(rows))
            error = np.abs(y[:, :rows] - activated * ups)
            assert (error <= limit + 1e-7).all(), (bits, has_minimum, num_tokens)
            assert not y[:, rows:].any()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("activation", GATED)
def test_far_tails_of_the_activation_stay_finite(variant: str, activation: Activation) -> None:
    rng = np.random.default_rng(1)
    gate, up = (random_matrix(rng, 32, 32, 8, has_minimum=False, scale=100.0) for _ in range(2))
    x = (100 * rng.standard_normal((16, 32))).astype(np.float32)
    gates = product_and_bound(x, gate)[0]
    assert gates.min() < -1e5 < 1e5 < gates.max()
    y = native.gated(x, packed(interleave(gate, up)), int(activation), variant)
    expected = np.maximum(gates, 0) * product_and_bound(x, up)[0]
    assert np.isfinite(y).all()
    assert (np.abs(y - expected) <= 3 * GATED_LIMIT * np.abs(expected).max(axis=1, keepdims=True)).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_token_gives_the_same_bits_in_every_batch(variant: str) -> None:
    rng = np.random.default_rng(2)
    for bits, has_minimum in itertools.product((4, 8), (False, True)):
        gate, up = (random_matrix(rng, 64, 96, bits, has_minimum=has_minimum) for _ in range(2))
        matrix = packed(interleave(gate, up))
        x = rng.standard_normal((70, 96)).astype(np.float32)
        whole = native.gated(x, matrix, 0, variant)
        for num_tokens in range(1, 65):
            y = native.gated(x[-num_tokens:], matrix, 0, variant)
            assert np.array_equal(y, whole[-num_tokens:]), (bits, has_minimum, num_tokens)
