"""The second product of adapters and the activation alone: equal to NumPy's, and the same bits in every batch."""

import numpy as np
import pytest
from tests.unit.kernels.random_matrices import VARIANTS, packed, random_matrix
from tests.unit.kernels.test_gated import GATED

from headrace.kernels import native
from headrace.kernels.grouped import GroupedMatrix, interleave
from headrace.kernels.low_rank import LowRank, LowRankPart, pack, round_inner
from headrace.kernels.plan import Activation

# Float32 sums of up to 256 products, relative to the sum of their magnitudes; seen at 2e-7.
LIMIT = 1e-6


def random_part(rng: np.random.Generator, rows: int, rank: int, factor: float = 1.0, offset: int = 0) -> LowRankPart:
    codes = rng.integers(-127, 128, (rows, rank)).astype(np.int8)
    scale = rng.uniform(0.001, 0.01, (rows, -(-rank // 32))).astype(np.float16)
    return LowRankPart(codes, scale, factor, offset)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("rows", "rank"), [(1, 1), (31, 16), (32, 7), (33, 32), (100, 33), (192, 64), (65, 256)])
def test_products_equal_numpys_within_the_limit(variant: str, rows: int, rank: int) -> None:
    rng = np.random.default_rng(rank)
    part = random_part(rng, rows, rank)
    weights = part.dequantize().astype(np.float64)
    for num_tokens in (1, 2, 3, 5, 33):
        u = rng.standard_normal((num_tokens, rank)).astype(np.float32)
        y = native.low_rank(u, pack(part), rows, 0.75, variant)
        rounded = round_inner(u).astype(np.float64)
        assert np.abs(rounded - u).max() < 1e-4 * np.abs(u).max()
        bound = 0.75 * np.abs(rounded) @ np.abs(weights).T
        assert (np.abs(y - 0.75 * rounded @ weights.T) <= LIMIT * bound).all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_token_gives_the_same_bits_in_every_batch(variant: str) -> None:
    rng = np.random.default_rng(3)
    part = random_part(rng, 77, 48)
    u = rng.standard_normal((40, 48)).astype(np.float32)
    whole = native.low_rank(u, pack(part), 77, 1.5, variant)
    for num_tokens in range(1, 40):
        assert np.array_equal(native.low_rank(u[-num_tokens:], pack(part), 77, 1.5, variant), whole[-num_tokens:])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("activation", GATED)
def test_an_activation_alone_gives_the_bits_of_the_gated_product(variant: str, activation: Activation) -> None:
    rng = np.random.default_rng(4)
    for bits, has_minimum in ((4, True), (4, False), (8, False)):
        both = interleave(*(random_matrix(rng, 96, 160, bits, has_minimum=has_minimum, scale=0.2) for _ in range(2)))
        for num_tokens in (1, 2, 12, 40):
            x = rng.standard_normal((num_tokens, 160)).astype(np.float32)
            expected = native.gated(x, packed(both), int(activation), variant)
            product = native.linear(x, packed(both), variant)
            assert np.array_equal(native.activate(product, int(activation), variant), expected)


def test_a_value_tells_where_its_outputs_stand_and_what_they_get() -> None:
    rng = np.random.default_rng(5)
    a = GroupedMatrix(3, 32, 8, rng.integers(-9, 9, (3, 32)).astype(np.int8), np.ones((3, 1), np.float16), None)
    first = LowRankPart(np.ones((40, 2), np.int8), np.ones((40, 1), np.float16), 2.0, 0, 64)
    second = LowRankPart(np.ones((40, 1), np.int8), np.ones((40, 1), np.float16), 1.0, 32, 64)
    x = rng.standard_normal((4, 32)).astype(np.float32)
    added = LowRank(a, (first, second)).product(x, 128, exact=True)
    inner = x @ a.dequantize().T
    of_first = np.r_[0:32, 64:72]
    np.testing.assert_allclose(added[:, of_first], 2 * np.repeat(inner[:, :2].sum(axis=1)[:, None], 40, 1), rtol=1e-5)
    np.testing.assert_allclose(added[:, of_first + 32], np.repeat(inner[:, 2:], 40, 1), rtol=1e-5)
    assert not added[:, 72:96].any()
    assert not added[:, 104:].any()
