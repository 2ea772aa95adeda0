"""What a model file offers, whatever its format: metadata, float32 values, and matrices in groups.

`gguf.py` and `safetensors.py` implement it; architectures read through it; nothing here parses bytes.
"""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.kernels.grouped import GroupedMatrix


class Checkpoint(Protocol):
    """An opened model file (or folder). Tensors are addressed by the format's own names; shapes are (rows, cols)."""

    @property
    def format(self) -> Literal["gguf", "safetensors"]:
        """Which naming and metadata convention applies."""
        ...

    @property
    def metadata(self) -> Mapping[str, Any]:
        """GGUF key-values, or the parsed `config.json` of a safetensors folder."""
        ...

    def __contains__(self, name: str) -> bool:
        """Whether a tensor of that name exists."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in NumPy order (outermost first). Raises ModelFileError if there is no such tensor."""
        ...

    def vector(self, name: str) -> NDArray[np.float32]:
        """The tensor in float32, in its own shape."""
        ...

    def grouped(self, name: str, index: int | None = None) -> GroupedMatrix:
        """A 2-D tensor in groups: exact codes where the type allows it, else requantised to 8 bits.

        With an index, that matrix of a 3-D tensor; no other one is read.
        """
        ...

    def digest(self) -> str:
        """`sha256:...` over the file's bytes (a folder: names and digests of weights, config and tokenizer)."""
        ...
