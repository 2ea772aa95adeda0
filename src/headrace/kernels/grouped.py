"""Weights in groups: the one form that every file type is mapped to, and its tiled layout for kernels.

`w[r, c] = codes[r, c] * scale[r, c // 32] + minimum[r, c // 32]`, scale and minimum in fp16. 4-bit codes are 0..15;
8-bit codes are signed, -128..127. This file knows nothing of GGUF or safetensors (`models`) and runs no product.

Tile (16 rows x 32 columns), row block after row block, groups in order inside a row block:

    4 bits  256 B codes: vector j of 4 (64 B) holds, for row r, bytes 4r..4r+3; byte i of row r carries column 4j+i in
            its low nibble and column 4(j+4)+i in its high nibble
    8 bits  512 B codes: vector j of 8 (64 B) holds, for row r, columns 4j..4j+3
    then    32 B fp16 scales [16]; and 32 B fp16 minima [16] if the matrix has any

so that one 64-byte load is 16 rows times 4 consecutive columns (and each half of it is 8 rows).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.plan import GROUP, TILE_ROWS, padded

_QUADS = GROUP // 4


@dataclass(frozen=True, slots=True)
class GroupedMatrix:
    """A quantised matrix of `rows` x `cols`; arrays have cols padded to a multiple of 32 with codes that mean zero.

    codes: uint8 (4 bits) or int8 (8 bits) [rows, padded cols]; scale, minimum: float16 [rows, padded cols / 32].
    """

    rows: int
    cols: int
    bits: int
    codes: NDArray[np.uint8] | NDArray[np.int8]
    scale: NDArray[np.float16]
    minimum: NDArray[np.float16] | None

    def dequantize(self) -> NDArray[np.float32]:
        """Float32 [rows, cols]."""
        values = self.codes.astype(np.float32).reshape(self.rows, -1, GROUP) * self.scale.astype(np.float32)[:, :, None]
        if self.minimum is not None:
            values += self.minimum.astype(np.float32)[:, :, None]
        return values.reshape(self.rows, -1)[:, : self.cols]

    def widened(self) -> "GroupedMatrix":
        """The same values with 8-bit codes."""
        if self.bits == 8:
            return self
        return GroupedMatrix(self.rows, self.cols, 8, self.codes.astype(np.int8), self.scale, self.minimum)

    def take(self, rows: NDArray[np.int64]) -> "GroupedMatrix":
        """The named rows in the given order; -1 gives a row of zeros."""
        missing = rows < 0
        codes, scale = self.codes[rows], self.scale[rows]
        codes[missing], scale[missing] = 0, 0
        minimum = None
        if self.minimum is not None:
            minimum = self.minimum[rows]
            minimum[missing] = 0
        return GroupedMatrix(len(rows), self.cols, self.bits, codes, scale, minimum)


def rotate_groups(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every group of 32 columns of [rows, whole groups] times the orthonormal Walsh-Hadamard matrix.

    In Sylvester's order, added up neighbours first, as kernels do: the same bits on every machine.
    """
    half, rotated = 1, values
    while half < GROUP:
        low, high = np.moveaxis(rotated.reshape(len(values), -1, 2, half), 2, 0)
        rotated = np.stack([low + high, low - high], axis=2)
        half *= 2
    return (rotated * np.float32(GROUP**-0.5)).reshape(values.shape)


def tile_bytes(bits: int, has_minimum: bool) -> int:
    """Bytes of one packed tile."""
    return TILE_ROWS * GROUP * bits // 8 + TILE_ROWS * 2 * (2 if has_minimum else 1)


def stack(parts: list[GroupedMatrix]) -> GroupedMatrix:
    """Rows of all parts below each other, with the widest codes and minima if any part has them."""
    if len({part.cols for part in parts}) != 1:
        raise ValueError(f"cannot stack matrices of different widths: {[part.cols for part in parts]}")
    if len({part.bits for part in parts}) != 1:
        parts = [part.widened() for part in parts]
    minimum = None
    if any(part.minimum is not None for part in parts):
        minimum = np.concatenate([np.zeros_like(p.scale) if p.minimum is None else p.minimum for p in parts])
    return GroupedMatrix(
        rows=sum(part.rows for part in parts),
        cols=parts[0].cols,
        bits=parts[0].bits,
        codes=np.concatenate([part.codes for part in parts]),
        scale=np.concatenate([part.scale for part in parts]),
        minimum=minimum,
    )


def interleave(gate: GroupedMatrix, up: GroupedMatrix) -> GroupedMatrix:
    """Alternate 32 rows of each, both padded with zero rows to a multiple of 32."""
    if gate.rows != up.rows:
        raise ValueError(f"gate has {gate.rows} rows and up {up.rows}; they must agree")
    both = stack([gate, up])
    index = np.full((2, padded(gate.rows)), -1, dtype=np.int64)
    index[0, : gate.rows] = np.arange(gate.rows)
    index[1, : gate.rows] = np.arange(gate.rows, 2 * gate.rows)
    order = index.reshape(2, -1, GROUP).transpose(1, 0, 2).reshape(-1)
    return both.take(order)


def interleave_halves(both: GroupedMatrix) -> GroupedMatrix:
    """The same of a matrix whose upper half are gates and whose lower half are ups."""
    if both.rows % 2:
        raise ValueError(f"{both.rows} rows have no halves")
    rows = np.arange(both.rows)
    return interleave(both.take(rows[: both.rows // 2]), both.take(rows[both.rows // 2 :]))


def pack(matrix: GroupedMatrix) -> NDArray[np.uint8]:
    """The tiled bytes of a matrix, 1-D; rows padded with zeros to whole tiles."""
    num_rows, groups = padded(matrix.rows, TILE_ROWS), matrix.scale.shape[1]
    codes = np.zeros((num_rows, groups * GROUP), dtype=np.uint8)
    codes[: matrix.rows] = matrix.codes.view(np.uint8)
    # [block, row, group, quad, byte] -> [block, group, quad, row, byte]
    quads = codes.reshape(-1, TILE_ROWS, groups, _QUADS, 4).transpose(0, 2, 3, 1, 4)
    if matrix.bits == 4:
        quads = quads[:, :, : _QUADS // 2] | (quads[:, :, _QUADS // 2 :] << 4)
    pieces = [np.ascontiguousarray(quads).reshape(len(quads), groups, -1)]
    for values in (matrix.scale, matrix.minimum):
        if values is not None:
            tiled = np.zeros((num_rows, groups), dtype=np.float16)
            tiled[: matrix.rows] = values
            tiled = np.ascontiguousarray(tiled.reshape(-1, TILE_ROWS, groups).transpose(0, 2, 1))
            pieces.append(tiled.view(np.uint8).reshape(len(quads), groups, -1))
    return np.concatenate(pieces, axis=2).reshape(-1)


def unpack(tiles: NDArray[np.uint8], rows: int, cols: int, bits: int, *, has_minimum: bool) -> GroupedMatrix:
    """The inverse of `pack`."""
    groups = padded(cols) // GROUP
    blocks = padded(rows, TILE_ROWS) // TILE_ROWS
    tiled = tiles.reshape(blocks, groups, tile_bytes(bits, has_minimum))
    num_code_bytes = TILE_ROWS * GROUP * bits // 8
    quads = tiled[:, :, :num_code_bytes].reshape(blocks, groups, -1, TILE_ROWS, 4)
    if bits == 4:
        quads = np.concatenate([quads & 15, quads >> 4], axis=2)
    codes = quads.transpose(0, 3, 1, 2, 4).reshape(blocks * TILE_ROWS, groups * GROUP)[:rows]
    halves = np.ascontiguousarray(tiled[:, :, num_code_bytes:]).view(np.float16).reshape(blocks, groups, -1, TILE_ROWS)
    scales = halves.transpose(2, 0, 3, 1).reshape(halves.shape[2], blocks * TILE_ROWS, groups)[:, :rows]
    return GroupedMatrix(
        rows, cols, bits, codes if bits == 4 else codes.view(np.int8), scales[0], scales[1] if has_minimum else None
    )
