"""A model's program that takes adapters: the plain plan where a batch has none, the adapted one where it has.

Both look into the same packed matrices; the adapted one has activations of its own, which take memory from the first
batch with an adapter on. Knows no files, names or budgets.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.adapters.plan import Target, adapted, targets
from headrace.kernels import native
from headrace.kernels.grouped import pack as pack_matrix
from headrace.kernels.grouped import tile_bytes
from headrace.kernels.low_rank import BLOCK, LowRank, pack
from headrace.kernels.numpy_program import NumpyProgram
from headrace.kernels.plan import GROUP, TILE_ROWS, Plan, padded
from headrace.models.load import LoadedModel

_ALIGN = 64

Program = native.Program | NumpyProgram


@dataclass(frozen=True, slots=True)
class BoundAdapter:
    """Factors bound to one program; `handle` is what its `step` takes."""

    handle: "native.Adapter | Mapping[int, LowRank]"
    num_bytes: int


class AdaptableProgram:
    """Steps like `native.Program`, with an adapter or None for each sequence.

    Not to be stepped from two threads at once, as the programs inside.
    """

    def __init__(self, plan: Plan, program: Program, bind: Callable[[Plan], Program]) -> None:
        self.targets: Mapping[tuple[int, str], Target] = targets(plan)
        self._plain = program
        self._adapted = bind(adapted(plan))

    @classmethod
    def of(cls, model: LoadedModel) -> "AdaptableProgram":
        """Around a loaded model's program."""
        return cls(model.plan, model.program, model.bind)

    def step(  # noqa: PLR0913 - the native signature
        self,
        threads: Any,
        pool: NDArray[Any],
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        page_tables: NDArray[np.int32],
        selected: NDArray[np.int32],
        *,
        adapters: Sequence[BoundAdapter | None] | None = None,
        **named: Any,
    ) -> Any:
        """`native.Program.step`; adapters as `bind` made them."""
        arrays = (pool, tokens, starts, contexts, page_tables, selected)
        if adapters is None or all(adapter is None for adapter in adapters):
            return self._plain.step(threads, *arrays, **named)
        handles: list[Any] = [None if adapter is None else adapter.handle for adapter in adapters]
        return self._adapted.step(threads, *arrays, adapters=handles, **named)

    def bind(self, factors: Mapping[int, LowRank]) -> BoundAdapter:
        """An adapter out of what it adds to each matrix, by the matrix' index. ValueError for what does not fit."""
        if isinstance(self._adapted, NumpyProgram):
            return BoundAdapter(dict(factors), sum(_num_bytes(each) for each in factors.values()))
        # One piece of memory in the order of reading, so that what is fetched ahead of one factor is the next one.
        memory = _Memory(sum(_num_bytes(each) for each in factors.values()))
        matrices = []
        for index, low_rank in sorted(factors.items()):
            a = native.Matrix(memory.put(pack_matrix(low_rank.a)), low_rank.a.rows, low_rank.a.cols, 8, False)
            parts, first = [], 0
            for part in low_rank.parts:
                place = (part.offset, part.block_step, part.factor)
                parts.append((first, part.rank, len(part.codes), *place, memory.put(pack(part))))
                first += part.rank
            matrices.append((index, a, parts))
        return BoundAdapter(native.Adapter(self._adapted, matrices), memory.num_bytes)


class _Memory:
    """Aligned pieces of one array."""

    def __init__(self, num_bytes: int) -> None:
        self._array = np.zeros(num_bytes + _ALIGN, np.uint8)
        self._next = -self._array.ctypes.data % _ALIGN
        self.num_bytes = num_bytes

    def put(self, piece: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """A view that holds the piece's bytes."""
        view = self._array[self._next : self._next + len(piece)]
        view[:] = piece
        self._next += padded(len(piece), _ALIGN)
        return view


def packed_bytes(cols: int, parts: Iterable[tuple[int, int]]) -> int:
    """Memory of the factors of a matrix of so many columns; parts are (outputs, rank). Every piece begins a line."""
    parts = list(parts)
    num_blocks = padded(sum(rank for _, rank in parts), TILE_ROWS) // TILE_ROWS
    tiles = num_blocks * (padded(cols) // GROUP) * tile_bytes(8, False)
    blocks = (padded(rows, BLOCK) * (padded(rank, 2) + 2 * (padded(rank) // GROUP)) for rows, rank in parts)
    return sum(padded(size, _ALIGN) for size in (tiles, *blocks))


def _num_bytes(low_rank: LowRank) -> int:
    return packed_bytes(low_rank.a.cols, ((len(part.codes), part.rank) for part in low_rank.parts))
