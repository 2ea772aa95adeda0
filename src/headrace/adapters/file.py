"""An opened adapter file, whatever its format: which linear layers it changes, by how much, and how to read them.

`peft.py` and `gguf_lora.py` make it; nothing here parses bytes, and no value is read before `read` is asked for it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError
from headrace.kernels.low_rank import MAX_RANK
from headrace.kernels.plan import RopeStyle


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerEntry:
    """A changed linear layer: names and shapes of its two tensors in NumPy order, A [rank, cols] and B [rows, rank]."""

    a: str
    b: str
    a_shape: tuple[int, ...]
    b_shape: tuple[int, ...]
    scale: float

    @property
    def rank(self) -> int:
        """Of the change."""
        return self.a_shape[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFile:
    """Layers by (layer, role in the words of `models.family.ROLES`).

    `style`: how rows of q and k are ordered, where the model's family has two orders. `architecture`: the base model's,
    where the file says so. `read` gives a tensor in float32 and refuses NaN; `digest` gives `sha256:...`.
    """

    path: Path
    style: RopeStyle
    architecture: str | None
    layers: Mapping[tuple[int, str], LayerEntry]
    read: Callable[[str], NDArray[np.float32]]
    digest: Callable[[], str]


def layer_entry(a: str, b: str, shapes: tuple[tuple[int, ...], tuple[int, ...]], scale: float) -> LayerEntry:
    """An entry whose two shapes fit each other. Raises ModelFileError (without the path) where they do not."""
    a_shape, b_shape = shapes
    if len(a_shape) != 2 or len(b_shape) != 2 or a_shape[0] != b_shape[1]:
        raise ModelFileError(
            f"tensors {a!r} and {b!r} have shapes {a_shape} and {b_shape}, not (rank, inputs) and (outputs, rank); "
            "save the adapter again."
        )
    if a_shape[0] > MAX_RANK:
        raise ModelFileError(f"tensor {a!r} has rank {a_shape[0]}; at most {MAX_RANK} is supported.")
    return LayerEntry(a=a, b=b, a_shape=a_shape, b_shape=b_shape, scale=scale)


def paired(tensors: Mapping[tuple[int, str, str], str]) -> dict[tuple[int, str], tuple[str, str]]:
    """Names of A and B by layer and role, out of names by layer, role and side; ModelFileError if one is missing."""
    found = {}
    for layer, role, _ in tensors:
        names = tensors.get((layer, role, "a")), tensors.get((layer, role, "b"))
        if names[0] is None or names[1] is None:
            present = names[0] or names[1]
            raise ModelFileError(f"tensor {present!r} stands alone; an adapter needs both factors: save it again.")
        found[layer, role] = (names[0], names[1])
    if not found:
        raise ModelFileError("holds no LoRA factors; this is not an adapter, or it was saved without its weights.")
    return found
