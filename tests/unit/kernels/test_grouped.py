"""The weight format: packing is reversible, and a tile's bytes lie where its documentation says."""

import itertools

import numpy as np
import pytest
from tests.unit.kernels.random_matrices import random_matrix

from headrace.kernels.grouped import GroupedMatrix, interleave, pack, stack, tile_bytes, unpack


def same(a: GroupedMatrix, b: GroupedMatrix) -> bool:
    """Equal in every field, bit for bit."""
    shapes = (a.rows, a.cols, a.bits) == (b.rows, b.cols, b.bits)
    minima = (a.minimum is None) == (b.minimum is None) and (a.minimum is None or np.array_equal(a.minimum, b.minimum))
    return shapes and minima and np.array_equal(a.codes, b.codes) and np.array_equal(a.scale, b.scale)


@pytest.mark.parametrize(("bits", "has_minimum"), list(itertools.product((4, 8), (False, True))))
@pytest.mark.parametrize(("rows", "cols"), list(itertools.product((1, 15, 16, 17, 100), (1, 31, 32, 33, 576))))
def test_unpacking_gives_back_what_was_packed(bits: int, has_minimum: bool, rows: int, cols: int) -> None:
    matrix = random_matrix(np.random.default_rng(rows), rows, cols, bits, has_minimum=has_minimum)
    tiles = pack(matrix)
    assert tiles.size == -(-rows // 16) * -(-cols // 32) * tile_bytes(bits, has_minimum)
    assert same(unpack(tiles, rows, cols, bits, has_minimum=has_minimum), matrix)


def test_a_four_bit_tile_lies_as_documented() -> None:
    matrix = random_matrix(np.random.default_rng(1), 40, 70, 4, has_minimum=True)
    tiles = pack(matrix).reshape(3, 3, tile_bytes(4, True))  # [row block, group, byte]
    for row, col in ((0, 0), (5, 9), (17, 33), (31, 63), (39, 69), (20, 16)):
        tile = tiles[row // 16, col // 32]
        quad, byte = col % 32 // 4, col % 4
        code = tile[64 * (quad % 4) + 4 * (row % 16) + byte]
        assert (code >> 4 if quad >= 4 else code & 15) == matrix.codes[row, col]
        halves = tile[256:].view(np.float16).reshape(2, 16)
        assert halves[0, row % 16] == matrix.scale[row, col // 32]
        assert matrix.minimum is not None
        assert halves[1, row % 16] == matrix.minimum[row, col // 32]


def test_an_eight_bit_tile_lies_as_documented() -> None:
    matrix = random_matrix(np.random.default_rng(2), 20, 40, 8, has_minimum=False)
    tiles = pack(matrix).reshape(2, 2, tile_bytes(8, False))
    for row, col in ((0, 0), (5, 9), (17, 33), (19, 39), (3, 31)):
        tile = tiles[row // 16, col // 32]
        assert tile[64 * (col % 32 // 4) + 4 * (row % 16) + col % 4].view(np.int8) == matrix.codes[row, col]
        assert tile[512:].view(np.float16)[row % 16] == matrix.scale[row, col // 32]


def test_rows_that_pad_the_last_tile_are_zero() -> None:
    matrix = random_matrix(np.random.default_rng(3), 17, 32, 8, has_minimum=True)
    padding = unpack(pack(matrix), 32, 32, 8, has_minimum=True)
    assert not padding.dequantize()[17:].any()


def test_dequantised_values_are_code_times_scale_plus_minimum() -> None:
    codes = np.zeros((1, 32), np.uint8)
    codes[0, :3] = [0, 7, 15]
    matrix = GroupedMatrix(1, 3, 4, codes, np.array([[0.5]], np.float16), np.array([[-2]], np.float16))
    assert matrix.dequantize().tolist() == [[-2.0, 1.5, 5.5]]


def test_widening_keeps_the_values() -> None:
    matrix = random_matrix(np.random.default_rng(4), 5, 40, 4, has_minimum=True)
    assert matrix.widened().bits == 8
    assert np.array_equal(matrix.widened().dequantize(), matrix.dequantize())


def test_stacking_widens_codes_and_fills_in_minima() -> None:
    rng = np.random.default_rng(5)
    narrow, wide = random_matrix(rng, 3, 40, 4, has_minimum=True), random_matrix(rng, 2, 40, 8, has_minimum=False)
    both = stack([narrow, wide])
    assert (both.rows, both.bits) == (5, 8)
    assert np.array_equal(both.dequantize(), np.concatenate([narrow.dequantize(), wide.dequantize()]))


def test_matrices_of_different_widths_do_not_stack() -> None:
    rng = np.random.default_rng(6)
    with pytest.raises(ValueError, match=r"different widths: \[32, 64\]"):
        stack([random_matrix(rng, 2, cols, 4, has_minimum=False) for cols in (32, 64)])


def test_interleaving_alternates_32_rows_of_each_and_pads_with_zeros() -> None:
    rng = np.random.default_rng(7)
    gate, up = (random_matrix(rng, 40, 64, 4, has_minimum=True) for _ in range(2))
    rows = interleave(gate, up).dequantize().reshape(2, 2, 32, 64)  # [pair, gate or up, row, column]
    for half, matrix in enumerate((gate, up)):
        assert np.array_equal(rows[:, half].reshape(64, 64)[:40], matrix.dequantize())
        assert not rows[1, half, 8:].any()


def test_gate_and_up_must_have_equal_rows() -> None:
    rng = np.random.default_rng(8)
    with pytest.raises(ValueError, match="gate has 3 rows and up 4"):
        interleave(random_matrix(rng, 3, 32, 4, has_minimum=False), random_matrix(rng, 4, 32, 4, has_minimum=False))
