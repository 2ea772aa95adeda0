"""Products of packed weights and quantised activations, in every variant and shape."""

import itertools

import numpy as np
import pytest
from tests.unit.kernels.random_matrices import PRODUCT_LIMIT, VARIANTS, packed, product_and_bound, random_matrix

from headrace.kernels import native
from headrace.kernels.grouped import GroupedMatrix

ROWS = (1, 15, 16, 17, 33, 100)
COLS = (1, 31, 32, 33, 576, 1024)
TOKENS = range(1, 65)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("bits", "has_minimum"), list(itertools.product((4, 8), (False, True))))
def test_products_equal_numpys_within_the_limit(variant: str, bits: int, has_minimum: bool) -> None:
    rng = np.random.default_rng(bits)
    for (rows, cols), num_tokens in itertools.product(itertools.product(ROWS, COLS), (1, 2, 7, 43)):
        matrix = random_matrix(rng, rows, cols, bits, has_minimum=has_minimum)
        x = rng.standard_normal((num_tokens, cols)).astype(np.float32)
        exact, bound = product_and_bound(x, matrix)
        error = np.abs(native.linear(x, packed(matrix), variant) - exact)
        assert (error <= PRODUCT_LIMIT[bits] * bound).all(), (rows, cols, num_tokens)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("bits", "has_minimum"), list(itertools.product((4, 8), (False, True))))
def test_a_token_gives_the_same_bits_in_every_batch(variant: str, bits: int, has_minimum: bool) -> None:
    rng = np.random.default_rng(2)
    matrix = packed(random_matrix(rng, 49, 608, bits, has_minimum=has_minimum))
    x = rng.standard_normal((512, 608)).astype(np.float32)
    whole = native.linear(x, matrix, variant)
    for num_tokens in TOKENS:
        assert np.array_equal(native.linear(x[:num_tokens], matrix, variant), whole[:num_tokens]), num_tokens
        assert np.array_equal(native.linear(x[-num_tokens:], matrix, variant), whole[-num_tokens:]), num_tokens


def alternating(cols: int) -> np.ndarray:
    """Two tokens whose codes are all 127, and 127 and -127 by turns."""
    x = np.ones((2, cols), np.float32)
    x[1, 1::2] = -1
    return x


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("bits", "code"), [(4, 15), (8, -128), (8, 127)])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_codes_never_saturate(variant: str, bits: int, code: int, sign: int) -> None:
    # 33 rows and more: row blocks are taken two at a time, and one is left over.
    cols, rows = 96, 33
    codes = np.full((rows, cols), code, np.uint8 if bits == 4 else np.int8)
    matrix = packed(GroupedMatrix(rows, cols, bits, codes, np.ones((rows, 3), np.float16), None))
    x = sign * np.tile(alternating(cols), (32, 1)) * np.float32(127)
    expected = (x.astype(np.int64) @ codes.astype(np.int64).T).astype(np.float32)
    for num_tokens in TOKENS:
        assert np.array_equal(native.linear(x[:num_tokens], matrix, variant), expected[:num_tokens]), num_tokens


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bits", [4, 8])
def test_integer_sums_are_exact_for_random_codes(variant: str, bits: int) -> None:
    # With unit scales and codes as activations every product is an integer below 2^24, which float32 holds exactly.
    rng = np.random.default_rng(3)
    matrix = random_matrix(rng, 64, 64, bits, has_minimum=False)
    matrix = GroupedMatrix(64, 64, bits, matrix.codes, np.ones((64, 2), np.float16), None)
    x = rng.integers(-127, 128, (40, 64)).astype(np.float32)
    x[:, ::32] = 127  # pins each group's scale to 1
    expected = x.astype(np.int64) @ matrix.codes.astype(np.int64).T
    assert np.array_equal(native.linear(x, packed(matrix), variant), expected.astype(np.float32))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bits", [4, 8])
def test_offsets_of_codes_are_exact_whatever_the_activations_scale(variant: str, bits: int) -> None:
    # Equal codes times activations that sum to zero: any slip in an integer sum would leave a rest.
    rng = np.random.default_rng(4)
    codes = np.full((16, 640), 7, np.uint8 if bits == 4 else np.int8)
    matrix = packed(GroupedMatrix(16, 640, bits, codes, np.ones((16, 20), np.float16), None))
    half = rng.standard_normal((9, 20, 16)) * np.exp(rng.uniform(-60, 60, (9, 20, 1)))
    x = np.concatenate([half, -half], axis=2).reshape(9, 640).astype(np.float32)
    assert not native.linear(x, matrix, variant).any()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bits", [4, 8])
def test_zero_rows_and_zero_tokens_give_exact_zeros(variant: str, bits: int) -> None:
    rng = np.random.default_rng(5)
    matrix = random_matrix(rng, 40, 96, bits, has_minimum=True).take(np.array([0, -1, 2, -1] * 10))
    x = rng.standard_normal((6, 96)).astype(np.float32)
    x[3] = 0
    y = native.linear(x, packed(matrix), variant)
    assert not y[:, 1::2].any()
    assert not y[3].any()
    assert y[[0, 1, 2, 4, 5]][:, ::2].all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("bits", [4, 8])
def test_denormal_scales_are_read_exactly(variant: str, bits: int) -> None:
    rng = np.random.default_rng(6)
    matrix = random_matrix(rng, 33, 64, bits, has_minimum=True, scale=1e-6)
    assert (matrix.scale < 2.0**-14).all()
    for num_tokens in (1, 2, 5, 8, 11, 40):
        x = rng.standard_normal((num_tokens, 64)).astype(np.float32)
        exact, bound = product_and_bound(x, matrix)
        error = np.abs(native.linear(x, packed(matrix), variant) - exact)
        assert (error <= PRODUCT_LIMIT[bits] * bound).all(), num_tokens


@pytest.mark.parametrize("bits", [4, 8])
def test_variants_agree_within_the_limit(bits: int) -> None:
    rng = np.random.default_rng(7)
    matrix = random_matrix(rng, 48, 1536, bits, has_minimum=True)
    x = rng.standard_normal((33, 1536)).astype(np.float32)
    _, bound = product_and_bound(x, matrix)
    first, *others = [native.linear(x, packed(matrix), variant) for variant in VARIANTS]
    for other in others:
        assert (np.abs(first - other) <= PRODUCT_LIMIT[bits] * bound).all()


@pytest.mark.skipif("amx" not in VARIANTS, reason="this CPU or system has no AMX")
@pytest.mark.parametrize("num_tokens", [1, 15, 16, 17, 31, 32, 33, 48, 70])
def test_tables_of_bytes_give_the_bits_of_vectors(num_tokens: int) -> None:
    rng = np.random.default_rng(num_tokens)
    x = rng.standard_normal((num_tokens, 96)).astype(np.float32)
    for bits, has_minimum in itertools.product((4, 8), (False, True)):
        matrix = packed(random_matrix(rng, 50, 96, bits, has_minimum=has_minimum))
        assert np.array_equal(native.linear(x, matrix, "amx"), native.linear(x, matrix, "avx512"))
