"""The page tables of running sequences as native steps read them: one row a slot, amended and never rebuilt.

Knows sequences and their slots; no pool and no kernel.
"""

from collections.abc import Sequence as Many

import numpy as np
from numpy.typing import NDArray

from headrace.engine.sequence import Sequence


class PageTables:
    """Rows for `max_sequences` slots; the width follows the longest sequence met so far."""

    def __init__(self, max_sequences: int) -> None:
        self._table = np.zeros((max_sequences, 16), np.int32)

    def update(self, sequences: Many[Sequence]) -> bool:
        """Write down the pages that sequences got since the last time; whether there were any."""
        stale = [sequence for sequence in sequences if sequence.num_tabled < len(sequence.pages)]
        for sequence in stale:
            self._write(sequence)
        return bool(stale)

    def of(self, sequences: Many[Sequence]) -> NDArray[np.int32]:
        """Their page tables [sequences, width], each as wide as the longest needs."""
        width = max(len(sequence.pages) for sequence in sequences)
        return self._table[[sequence.slot for sequence in sequences], :width]

    def row(self, slot: int) -> NDArray[np.int32]:
        """What is written for a slot."""
        row: NDArray[np.int32] = self._table[slot]
        return row

    def _write(self, sequence: Sequence) -> None:
        size = len(sequence.pages)
        if size > self._table.shape[1]:
            grown = np.zeros((self._table.shape[0], max(size, 2 * self._table.shape[1])), np.int32)
            grown[:, : self._table.shape[1]] = self._table
            self._table = grown
        self._table[sequence.slot, sequence.num_tabled : size] = sequence.pages[sequence.num_tabled :]
        sequence.num_tabled = size
