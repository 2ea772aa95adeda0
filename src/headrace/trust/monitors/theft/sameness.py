"""How many inputs of a window are by one template: a crawl that hides among other inputs lies near everybody, and still
repeats itself. Values only; knows no accounts.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.trust.monitors.theft.linking import grams_of

Grams = NDArray[np.uint32]

LEAST_GRAMS: Final = 8
"""A template has so many 3-grams at least: turns of speech, which people repeat, have fewer."""
_WORDS: Final = 24  # at either end of an input: a template shows in both
MAX_GRAMS: Final = 2 * (_WORDS - 2)
_NONE: Final = np.uint32(2**32 - 1)  # is no 3-gram: those have 31 bits


def grams_at_ends(words: Sequence[str]) -> Grams:
    """The 3-grams of a text's first and last words, `MAX_GRAMS` places of which the last may be empty."""
    found = grams_of(words[:_WORDS]) | grams_of(words[_WORDS:][-_WORDS:])
    grams = np.full(MAX_GRAMS, _NONE)
    grams[: len(found)] = np.fromiter(found, np.uint32, len(found))
    return grams


def sameness(inputs: Grams) -> float:
    """The largest share of some inputs (rows, of `grams_at_ends`) of which each has `LEAST_GRAMS` 3-grams that stand in
    that share of all: an h-index (Hirsch 2005) of templates. What stands in one input alone makes it 1 / inputs."""
    _, places, counts = np.unique(inputs, return_inverse=True, return_counts=True)
    standing = np.where(inputs == _NONE, 0, counts[places.reshape(inputs.shape)])
    shared = np.partition(standing, -LEAST_GRAMS, axis=1)[:, -LEAST_GRAMS]
    ranked = np.sort(shared)[::-1]
    return float(np.count_nonzero(ranked >= np.arange(1, len(ranked) + 1))) / len(ranked)
