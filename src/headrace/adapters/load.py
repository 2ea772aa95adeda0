"""From an adapter's path to factors bound to a model's program: open, compare with the model, reorder, quantise, bind.

Owns the order of these steps and the messages that name the file. Knows neither format nor kernels; which files may be
loaded, and for how long they stay, is `shelf.py`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.adapters.factors import Factors, quantize_factors
from headrace.adapters.file import AdapterFile, LayerEntry
from headrace.adapters.gguf_lora import open_gguf_lora
from headrace.adapters.peft import CONFIG, open_peft
from headrace.adapters.plan import Heads, Target
from headrace.adapters.program import AdaptableProgram, BoundAdapter, packed_bytes
from headrace.core.errors import ModelFileError
from headrace.kernels.low_rank import LowRank
from headrace.kernels.plan import RopeStyle

_FEED_FORWARD = frozenset({"gate", "up", "gate_up", "down"})

_SAME = {"mistral": "llama", "mixtral": "llama", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe"}
"""Architectures that GGUF files call by another name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedAdapter:
    """What the engine needs of an adapter; `digest` is `sha256:...` over its files, `created` Unix time in seconds."""

    name: str
    digest: str
    bound: BoundAdapter
    rank: int
    num_layers: int
    created: int

    @property
    def num_bytes(self) -> int:
        """Memory of its factors."""
        return self.bound.num_bytes


def load_adapter(
    path: Path,
    program: AdaptableProgram,
    *,
    name: str,
    architecture: str,
    reserve: Callable[[int], None] = lambda num_bytes: None,
) -> LoadedAdapter:
    """Load a PEFT folder or a GGUF file for a model of that architecture.

    `reserve` is told the bytes that the factors will take before any is read, and may raise.

    Raises:
        ModelFileError: the adapter is missing, corrupt, for another model, or asks for what is not supported; the
            message says which file, field or tensor, and what to do.
    """
    with _errors_name(path):
        file = open_adapter(path)
        placed = place_layers(file, program.targets, architecture)
        by_matrix = _by_matrix(placed)
        reserve(
            sum(
                packed_bytes(
                    members[0][0].cols,
                    ((piece.rows, entry.rank) for target, entry in members for piece in target.pieces),
                )
                for members in by_matrix.values()
            )
        )
        bound = program.bind(read_factors(file, placed))
        return LoadedAdapter(
            name=name,
            digest=file.digest(),
            bound=bound,
            rank=max(entry.rank for entry in file.layers.values()),
            num_layers=len(file.layers),
            created=int(path.stat().st_mtime),
        )


def open_adapter(path: Path) -> AdapterFile:
    """Open an adapter by what the path is: a folder as PEFT saves it, or a GGUF file."""
    if path.is_dir():
        if not (path / CONFIG).is_file():
            raise ModelFileError(f"holds no {CONFIG}; give the folder that PEFT's save_pretrained wrote.")
        return open_peft(path)
    return open_gguf_lora(path)


def read_factors(file: AdapterFile, placed: list[tuple[Target, LayerEntry]]) -> dict[int, LowRank]:
    """The factors of every changed matrix, by its index in the plan."""
    found = {}
    for matrix, members in _by_matrix(placed).items():
        parts = []
        for target, entry in members:
            a, b = file.read(entry.a), file.read(entry.b)
            if target.heads is not None and target.heads.style is not file.style:
                b = reordered(b, target.heads)
            pieces = target.pieces
            for piece, own in zip(pieces, np.split(b, len(pieces)), strict=True):
                parts.append((piece, Factors(a, own, entry.scale)))
        try:
            found[matrix] = quantize_factors(parts)
        except ValueError as error:
            names = ", ".join(name for _, entry in members for name in (entry.a, entry.b))
            raise ModelFileError(f"one of the tensors {names} {error}; train it again or take another file.") from error
    return found


def _by_matrix(placed: list[tuple[Target, LayerEntry]]) -> dict[int, list[tuple[Target, LayerEntry]]]:
    by_matrix: dict[int, list[tuple[Target, LayerEntry]]] = {}
    for target, entry in placed:
        by_matrix.setdefault(target.matrix, []).append((target, entry))
    return by_matrix


def reordered(b: NDArray[np.float32], heads: Heads) -> NDArray[np.float32]:
    """B with its outputs in the model's order of rotated features instead of the other one."""
    if heads.rotary_dim != heads.head_dim:
        raise ModelFileError(
            f"q and k rows would have to be reordered, but only {heads.rotary_dim} of {heads.head_dim} features of a "
            "head are rotated; take an adapter in the base model's own format."
        )
    half, rank = heads.head_dim // 2, b.shape[1]
    sizes = (2, half) if heads.style is RopeStyle.ADJACENT else (half, 2)
    return np.ascontiguousarray(b.reshape(-1, *sizes, rank).swapaxes(1, 2).reshape(b.shape))


def place_layers(
    file: AdapterFile, targets: Mapping[tuple[int, str], Target], architecture: str
) -> list[tuple[Target, LayerEntry]]:
    """Where in the model each layer is that the file changes, in the model's order. Raises ModelFileError."""
    if file.architecture is not None and file.architecture != _SAME.get(architecture, architecture):
        raise ModelFileError(
            f"general.architecture = {file.architecture!r}, but the model is {architecture}; "
            "take an adapter that was trained on this model.",
            param="general.architecture",
        )
    for (layer, role), entry in file.layers.items():
        target = targets.get((layer, role))
        roles = {known for place, known in targets if place == layer}
        if target is None and role in _FEED_FORWARD and roles and roles.isdisjoint(_FEED_FORWARD):
            raise ModelFileError(
                f"tensor {entry.a!r} changes {role} of layer {layer}, which has experts in its place; adapters cannot "
                "change experts: take one that changes attention alone."
            )
        if target is None:
            raise ModelFileError(
                f"tensor {entry.a!r} changes {role!r} of layer {layer}, which the model does not have; "
                "take an adapter that was trained on this model."
            )
        if (entry.a_shape[1], entry.b_shape[0]) != (target.cols, target.rows):
            raise ModelFileError(
                f"tensors {entry.a!r} and {entry.b!r} change a layer of {entry.a_shape[1]} inputs and "
                f"{entry.b_shape[0]} outputs, but the model's has {target.cols} and {target.rows}; "
                "take an adapter that was trained on this model."
            )
    places = [place for place in targets if place in file.layers]
    return [(targets[place], file.layers[place]) for place in places]


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Errors of steps that do not know the file get its path in front."""
    try:
        yield
    except ModelFileError as error:
        if str(path) in error.message:
            raise
        raise ModelFileError(f"{path}: {error.message}", param=error.param, code=error.code) from error
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error}); check the disk and permissions.") from error
