"""Matrices that hold all experts of a layer, read and packed one expert after the other.

Owns how experts lie below each other (`MatrixSpec.num_experts` says it). Knows no architecture and no file format.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from headrace.core.errors import ModelFileError
from headrace.kernels.grouped import GroupedMatrix, interleave, interleave_halves, stack
from headrace.kernels.plan import TILE_ROWS, MatrixSpec, padded
from headrace.models.checkpoint import Checkpoint
from headrace.models.packed import PackedMatrix, aligned_bytes, tiles_of


def read_experts(spec: MatrixSpec, checkpoint: Checkpoint) -> Iterator[GroupedMatrix]:
    """The experts of a matrix in order, each with its rows padded to whole tiles.

    Raises ModelFileError where tensors have other shapes than the plan asks for; shapes are checked before any data is
    read.
    """
    sides = 2 if spec.layout == "interleave" else 1  # tensors of an expert
    is_stacked = len(spec.parts) == sides
    own = spec.rows // spec.num_experts
    for part in spec.parts:
        shape = checkpoint.shape(part)
        rows = shape[-2] if len(shape) > 1 else 0
        fits = shape == ((spec.num_experts, rows, spec.cols) if is_stacked else (rows, spec.cols))
        if not fits or own != _rows_made(spec.layout, rows):
            raise ModelFileError(
                f"tensor {part!r} has shape {shape}, but {spec.name!r} needs {own} rows of {spec.cols} values "
                f"for each of {spec.num_experts} experts ({spec.layout}, rows padded); the file's metadata and "
                "tensors disagree: download it again."
            )
    for expert in range(spec.num_experts):
        if is_stacked:
            parts = [checkpoint.grouped(part, expert) for part in spec.parts]
        else:
            parts = [checkpoint.grouped(part) for part in spec.parts[sides * expert : sides * (expert + 1)]]
        yield _LAYOUTS[spec.layout](*parts)


def _rows_made(layout: str, rows: int) -> int:
    """Rows of an expert out of a tensor with so many."""
    if layout == "concat":
        return padded(rows, TILE_ROWS)
    return 2 * padded(rows if layout == "interleave" else rows // 2)


def packed_experts(spec: MatrixSpec, checkpoint: Checkpoint) -> PackedMatrix:
    """All experts of a matrix in tiles; only one of them is ever unpacked. Raises ModelFileError as `read_experts`."""
    tiles = aligned_bytes(0)
    form: tuple[int, bool] | None = None
    for expert, matrix in enumerate(read_experts(spec, checkpoint)):
        own = (matrix.bits, matrix.minimum is not None)
        packed = tiles_of(matrix)
        if form is None:
            form, tiles = own, aligned_bytes(spec.num_experts * len(packed))
        if own != form:
            raise ModelFileError(
                f"{spec.name!r}: expert {expert} has weights of another type than those before it; "
                "convert the model with one type for all experts."
            )
        tiles[expert * len(packed) : (expert + 1) * len(packed)] = packed
    assert form is not None
    return PackedMatrix(spec.name, spec.rows, spec.cols, *form, tiles)


def stacked_experts(spec: MatrixSpec, checkpoint: Checkpoint) -> GroupedMatrix:
    """All experts of a matrix below each other, unpacked."""
    return stack(list(read_experts(spec, checkpoint)))


def _whole_tiles(matrix: GroupedMatrix) -> GroupedMatrix:
    index = np.full(padded(matrix.rows, TILE_ROWS), -1, dtype=np.int64)
    if len(index) == matrix.rows:
        return matrix
    index[: matrix.rows] = np.arange(matrix.rows)
    return matrix.take(index)


_LAYOUTS: Mapping[str, Callable[..., GroupedMatrix]] = {
    "concat": _whole_tiles,
    "interleave": interleave,
    "halves": interleave_halves,
}
