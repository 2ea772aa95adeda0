"""The masks of one step's rows, as the arrays that the native step reads, in memory that is kept between steps.

A sequence has one mask, or one before each token of its draft and one behind; its siblings draw from the first. A
matcher that gives up marks its sequence, whose row then allows nothing, and so draws no number. Knows no kernel.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import EngineFault
from headrace.engine.batch import Row
from headrace.engine.sequence import Sequence


class MaskTable:
    """See the file's head."""

    def __init__(self) -> None:
        self._masks = np.zeros((0, 0), np.uint32)
        self._address = 0
        self._ascending = np.zeros(0, np.int32)

    def fill(self, rows: list[tuple[Sequence, Row]]) -> dict[str, NDArray[Any]]:
        """`masks` and `mask_rows` of `native.Program.step`'s `sampling`; good until the next call. Empty if no row has
        a grammar."""
        mask_rows = [-1] * len(rows)
        owners: list[Sequence] = []
        count = first = 0
        for index, (sequence, row) in enumerate(rows):
            if sequence.matcher is None or row.target >= 0:
                continue
            if row.choice == sequence.choice and row.depth == 0:
                owners.append(sequence)
                first, count = count, count + 1 + len(sequence.draft)
            mask_rows[index] = first + row.depth
        if not owners:
            return {}
        self._grow(count, owners[0])
        self._write(owners)
        return {"masks": self._masks[:count], "mask_rows": np.array(mask_rows, np.int32)}

    def fill_single(self, sequences: list[Sequence]) -> dict[str, NDArray[Any]]:
        """The common step, in which every sequence draws one token: the same with less work between two steps."""
        owners = [sequence for sequence in sequences if sequence.matcher is not None]
        if not owners:
            return {}
        count = len(owners)
        self._grow(count, owners[0])
        self._write(owners)
        if count == len(sequences):
            return {"masks": self._masks[:count], "mask_rows": self._ascending[:count]}
        numbers = iter(range(count))
        mask_rows = [-1 if sequence.matcher is None else next(numbers) for sequence in sequences]
        return {"masks": self._masks[:count], "mask_rows": np.array(mask_rows, np.int32)}

    def _grow(self, count: int, sequence: Sequence) -> None:
        assert sequence.matcher is not None
        if count > len(self._masks):
            size = max(count, 2 * len(self._masks))
            self._masks = np.zeros((size, sequence.matcher.num_words), np.uint32)
            self._address = self._masks.ctypes.data
            self._ascending = np.arange(size, dtype=np.int32)

    def _write(self, owners: list[Sequence]) -> None:
        first, row_bytes = 0, self._masks.strides[0]
        for sequence in owners:
            matcher, count = sequence.matcher, 1 + len(sequence.draft)
            assert matcher is not None
            try:
                if count == 1:
                    matcher.mask_at(self._address + first * row_bytes)
                else:
                    # Behind a guess that the grammar refuses, nothing is ever looked at.
                    matcher.masks(sequence.draft, self._masks[first : first + count])
            except EngineFault as error:
                sequence.fault = error
                self._masks[first : first + count] = 0
            first += count
