"""From a path to a model that can run: checkpoint, plan, packed weights, native program, tokenizer, template.

Owns the order of these steps and the making of a plan's matrices and vectors out of checkpoint tensors. Knows no format
(`gguf`, `safetensors`), no architecture (`registry`) and no bytes of the cache (`packed`).
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError
from headrace.core.request import Task
from headrace.kernels import native
from headrace.kernels.choice import REFERENCE, kernels_in_use
from headrace.kernels.grouped import GroupedMatrix, interleave, interleave_halves, stack, unpack
from headrace.kernels.numpy_program import NumpyProgram
from headrace.kernels.plan import GROUP, TILE_ROWS, MatrixSpec, Plan, VectorSpec, padded
from headrace.models.checkpoint import Checkpoint
from headrace.models.digest import DigestMemory, Hasher, Stamp, sha256_of, stamp
from headrace.models.expert_weights import packed_experts
from headrace.models.gguf import GgufFile
from headrace.models.hidden import has_head, without_head
from headrace.models.packed import (
    Extra,
    Item,
    Pack,
    PackedMatrix,
    PackedVector,
    PackError,
    PackKey,
    discard,
    open_or_build,
    packed_matrix,
    read_pack,
)
from headrace.models.pooling import Pooling, ScoreActivation, read_activation, read_pooling
from headrace.models.registry import Architecture, C, architecture_for
from headrace.models.regroup import regroup
from headrace.models.safetensors import SafetensorsFolder
from headrace.models.template import ChatTemplate
from headrace.models.template_source import TemplateSource, source_of_folder, source_of_gguf
from headrace.models.tokenizer import Tokenizer

_TOKENIZER = "tokenizer"
_Build = Callable[[], Iterator[Item]]


GENERATES = frozenset({Task.GENERATE, Task.COUNT, Task.EMBED, Task.SCORE})
"""What a model that gives logits can be asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """Everything the engine needs of a model. `created` is Unix time in seconds; `template` None: no chat.

    `matrix_bytes`: packed tiles of every matrix, in the plan's order; `weights_bytes` is their sum.
    `bind` makes a program of another plan over the same packed matrices and vectors.
    `tasks` are what the model can be asked for. `pooling` makes a vector of hidden states: of the plan's output where
    `plan` has no head, else of the output of `hidden.without_head(plan)`; None: the model embeds nothing.
    `labels` name the output's features of a model that judges pairs, read at an input's first token; `activation` makes
    scores of them.
    `cache_dir` keeps what is derived from the model once (None: nothing is kept).
    `facts` are what an answer depends on beside the file: the tokenizer's digest, bits of the weights, the kernels.
    """

    name: str
    digest: str
    architecture: str
    plan: Plan
    program: native.Program | NumpyProgram
    bind: Callable[[Plan], native.Program | NumpyProgram]
    tokenizer: Tokenizer
    template: ChatTemplate | None
    context_length: int
    weights_bytes: int
    matrix_bytes: tuple[int, ...]
    created: int
    is_from_cache: bool
    tasks: frozenset[Task] = GENERATES
    pooling: Pooling | None = None
    labels: tuple[str, ...] = ()
    activation: ScoreActivation = ScoreActivation.SIGMOID
    cache_dir: Path | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    def pooled(self) -> tuple[Plan, native.Program | NumpyProgram]:
        """The plan whose output is pooled or judged, and a program of it; makes one where the plan has a head."""
        if self.plan.is_whole or not has_head(self.plan):
            return self.plan, self.program
        plan = without_head(self.plan)
        return plan, self.bind(plan)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a model's files say apart from its weights, and which files these were: of `LoadedModel`'s fields those that
    a second load need not make again."""

    stamps: tuple[Stamp, ...]
    architecture: str
    key: PackKey
    plan: Plan
    tokenizer: Tokenizer
    template: ChatTemplate | None
    use: "_Use"


def load_model(
    path: Path,
    *,
    name: str | None = None,
    cache_dir: Path | None = None,
    max_context: int | None = None,
    readings: dict[Path, Reading] | None = None,
    touches: bool = False,
) -> LoadedModel:
    """Load a GGUF file or a safetensors folder; packed weights are kept in `cache_dir` (None: in memory only).

    `readings` keeps what was read for models that are loaded again with the same `max_context`: as long as their files
    stay as they are, only weights are mapped then. Reading them holds the interpreter for a tenth of a second or more.
    `touches`: wait here until the weights are in memory, and not in the first steps.
    Raises:
        ModelFileError: the model is missing, corrupt, absurd or of a kind that is not supported; the message says which
            file, field and value, and what to do.
        InvalidRequest: HEADRACE_KERNELS names no kernels that can run here.
    """
    binder = bind_reference if kernels_in_use() == REFERENCE else bind
    with _errors_name(path):
        reading, pack = _recall(path, cache_dir, {} if readings is None else readings) or _read(
            path, cache_dir, max_context
        )
        if readings is not None:
            readings[path] = reading
        if touches:
            pack.touch()
        plan = reading.plan
        vectors = [pack.vectors[spec.name][: spec.shape[0]] for spec in plan.vectors]
        rebind = partial(binder, matrices=pack.matrices, vectors=vectors)
        program = rebind(plan)
    return LoadedModel(
        name=path.stem if name is None else name,
        digest=reading.key.digest,
        architecture=reading.architecture,
        plan=plan,
        program=program,
        bind=rebind,
        tokenizer=reading.tokenizer,
        template=reading.template,
        context_length=plan.max_positions,
        weights_bytes=pack.matrix_bytes,
        matrix_bytes=tuple(matrix.tiles.nbytes for matrix in pack.matrices),
        created=int(path.stat().st_mtime),
        is_from_cache=pack.is_cached,
        tasks=reading.use.tasks,
        pooling=reading.use.pooling,
        labels=reading.use.labels,
        activation=reading.use.activation,
        cache_dir=cache_dir,
        facts={
            "tokenizer": reading.tokenizer.digest,
            "weights": " and ".join(f"{bits} bits" for bits in sorted({matrix.bits for matrix in pack.matrices})),
            "kernels": kernels_in_use(),
        },
    )


def _recall(path: Path, cache_dir: Path | None, readings: Mapping[Path, Reading]) -> tuple[Reading, Pack] | None:
    """What was read before and the pack made then; None if the files have changed or the pack is not as it was."""
    reading = readings.get(path)
    if reading is None or cache_dir is None or reading.stamps != _stamps(path):
        return None
    try:
        return reading, read_pack(cache_dir / reading.key.file_name, reading.key)
    except (OSError, PackError):
        return None


def _read(path: Path, cache_dir: Path | None, max_context: int | None) -> tuple[Reading, Pack]:
    stamps = _stamps(path)
    checkpoint = open_checkpoint(path, sha256_of if cache_dir is None else DigestMemory(cache_dir))
    architecture = architecture_for(checkpoint)
    config = architecture.read_config(checkpoint, max_context)
    plan = architecture.record(config)
    # A pack on disk serves every context, so its tables hold all positions that were trained.
    stored = config if cache_dir is None or max_context is None else architecture.read_config(checkpoint, None)
    build = _builder(architecture, stored, checkpoint, path)
    key = PackKey(checkpoint.digest(), fingerprint(architecture.record(stored)))
    pack, tokenizer = _weights_and_tokenizer(cache_dir, key, build)
    _check_vocabulary(tokenizer, plan)
    template = None if plan.is_whole else _template(checkpoint, path, tokenizer)
    use = _use_of(plan, architecture.labels(config), checkpoint, path)
    return Reading(stamps, architecture.name, key, plan, tokenizer, template, use), pack


def _stamps(path: Path) -> tuple[Stamp, ...]:
    """How a model's file, or every file of its folder, stands on disk; empty where that cannot be told."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    try:
        return tuple(stamp(file) for file in files)
    except OSError:
        return ()


@dataclass(frozen=True, slots=True)
class _Use:
    """What a model can be asked for, in the fields of `LoadedModel`."""

    tasks: frozenset[Task]
    pooling: Pooling | None
    labels: tuple[str, ...] = ()
    activation: ScoreActivation = ScoreActivation.SIGMOID


def _use_of(plan: Plan, labels: tuple[str, ...], checkpoint: Checkpoint, path: Path) -> _Use:
    if labels:
        return _Use(frozenset({Task.COUNT, Task.SCORE}), None, labels, read_activation(checkpoint, len(labels)))
    generates = has_head(plan) and not plan.is_whole
    tasks = GENERATES if generates else frozenset({Task.COUNT, Task.EMBED})
    return _Use(tasks, read_pooling(checkpoint, _folder_of(path), is_whole=plan.is_whole))


def open_checkpoint(path: Path, hasher: Hasher = sha256_of) -> Checkpoint:
    """Open a model by what the path is: a folder with config.json, a .safetensors file, or a GGUF file."""
    if path.is_dir() and not (path / "config.json").exists():
        files = sorted(path.glob("*.gguf"))
        if len(files) != 1:
            raise ModelFileError(
                f"{path}: holds no config.json and {len(files)} .gguf files; name one file or a checkpoint's folder."
            )
        return GgufFile(files[0], hasher)
    if path.is_dir() or path.suffix == ".safetensors":
        return SafetensorsFolder(path, hasher)
    return GgufFile(path, hasher)


def damaged_matrices(path: Path, cache_dir: Path) -> list[str] | None:
    """Discard a model's packed weights if bytes of them have changed on disk, so that the next start packs them again.

    Returns the matrices and tables concerned; None if there is no pack, or one that the next start replaces anyway.
    Reads the whole pack. Raises ModelFileError as `load_model` does.
    """
    if not cache_dir.is_dir():
        return None
    checkpoint = open_checkpoint(path, DigestMemory(cache_dir))
    architecture = architecture_for(checkpoint)
    plan = architecture.record(architecture.read_config(checkpoint, None))
    key = PackKey(checkpoint.digest(), fingerprint(plan))
    try:
        damaged = read_pack(cache_dir / key.file_name, key).verify()
    except (OSError, PackError):
        return None
    if damaged:
        discard(cache_dir, key)
    return damaged


def fingerprint(plan: Plan) -> str:
    """What packed weights depend on besides the source: matrices and vectors, by name, shape and parts."""
    content = {
        "tile": [TILE_ROWS, GROUP],
        "matrices": [
            [
                *(m.name, m.rows, m.cols, m.parts, m.layout),
                *(["rotates"] if m.rotates else []),
                *([m.num_experts] if m.num_experts else []),
            ]
            for m in plan.matrices
        ],
        "vectors": [_vector_content(v) for v in plan.vectors],
    }
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _vector_content(spec: VectorSpec) -> list[object]:
    # A scale only where there is one, so that packs of plans without any stay valid.
    return [spec.name, spec.shape, spec.parts, spec.offset, *([] if spec.scale == 1.0 else [spec.scale])]


def read_matrix(spec: MatrixSpec, checkpoint: Checkpoint) -> GroupedMatrix:
    """A plan's matrix out of its checkpoint tensors; shapes are checked before any data is read."""
    shapes = [checkpoint.shape(part) for part in spec.parts]
    for part, shape in zip(spec.parts, shapes, strict=True):
        if len(shape) != 2 or shape[1] != spec.cols:
            raise ModelFileError(
                f"tensor {part!r} has shape {shape}, but {spec.name!r} needs rows of {spec.cols} values; "
                "the file's metadata and tensors disagree: download it again."
            )
    if spec.rows != _rows_made(spec.layout, [shape[0] for shape in shapes]):
        raise ModelFileError(
            f"tensors {', '.join(spec.parts)} have shapes {shapes}, but {spec.name!r} needs {spec.rows} rows "
            f"({spec.layout}); the file's metadata and tensors disagree: download it again."
        )
    if spec.rotates:
        return _rotated(spec, checkpoint)
    parts = [checkpoint.grouped(part) for part in spec.parts]
    if spec.layout == "interleave":
        return interleave(*parts)
    if spec.layout == "halves":
        return interleave_halves(*parts)
    return parts[0] if len(parts) == 1 else stack(parts)


def _rotated(spec: MatrixSpec, checkpoint: Checkpoint) -> GroupedMatrix:
    values = np.concatenate([checkpoint.vector(part) for part in spec.parts])
    try:
        return regroup(lambda first, last: values[first:last], spec.rows, spec.cols, rotates=True)
    except ValueError as error:
        raise ModelFileError(f"tensors {', '.join(spec.parts)}: {error}; download the file again.") from error


def _rows_made(layout: str, rows: list[int]) -> int | None:
    """Rows of a matrix made of parts with so many; None where they do not fit each other."""
    if layout == "interleave":
        return 2 * padded(rows[0]) if len(rows) == 2 and rows[0] == rows[1] else None
    if layout == "halves":
        return 2 * padded(rows[0] // 2) if len(rows) == 1 and rows[0] % 2 == 0 else None
    return sum(rows)


def read_vector(spec: VectorSpec, checkpoint: Checkpoint) -> NDArray[np.float32]:
    """A plan's stored vector out of its checkpoint tensors."""
    shapes = [checkpoint.shape(part) for part in spec.parts]
    if sum(int(np.prod(shape, dtype=np.float64)) for shape in shapes) != int(np.prod(spec.shape)):
        raise ModelFileError(
            f"tensors {', '.join(spec.parts)} have shapes {shapes}, but {spec.name!r} needs {spec.shape}; "
            "the file's metadata and tensors disagree: download it again."
        )
    values = np.concatenate([checkpoint.vector(part).reshape(-1) for part in spec.parts]).reshape(spec.shape)
    values = values + np.float32(spec.offset) if spec.offset else values
    return values * np.float32(spec.scale) if spec.scale != 1.0 else values


def bind_reference(
    plan: Plan, matrices: Sequence[PackedMatrix], vectors: Sequence[NDArray[np.float32]]
) -> NumpyProgram:
    """The same in NumPy, for debugging. Raises ValueError for what does not fit."""
    grouped = [unpack(m.tiles, m.rows, m.cols, m.bits, has_minimum=m.has_minimum) for m in matrices]
    return NumpyProgram(plan, grouped, vectors)


def bind(plan: Plan, matrices: Sequence[PackedMatrix], vectors: Sequence[NDArray[np.float32]]) -> native.Program:
    """A native program of a plan and its weights, both in the plan's order. Raises ValueError for what does not fit."""
    return native.Program(
        buffers=[(int(buffer.kind), buffer.width, int(buffer.rows)) for buffer in plan.buffers],
        ops=[(int(op.kind), list(op.ints), list(op.floats)) for op in plan.ops],
        matrices=[native.Matrix(m.tiles, m.rows, m.cols, m.bits, m.has_minimum) for m in matrices],
        vectors=list(vectors),
        cache=(plan.cache.num_layers, plan.cache.num_kv_heads, plan.cache.head_dim),
        vocab_size=plan.vocab_size,
        max_positions=plan.max_positions,
        output=plan.output,
    )


@contextlib.contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Errors of steps that do not know the file get its path in front."""
    try:
        yield
    except ModelFileError as error:
        if str(path) in error.message:
            raise
        raise ModelFileError(f"{path}: {error.message}", param=error.param, code=error.code) from error
    except ValueError as error:
        # The native program refuses what it cannot run safely, such as a head size that no kernel supports.
        raise ModelFileError(f"{path}: its forward pass cannot run here: {error}") from error


def _check_vocabulary(tokenizer: Tokenizer, plan: Plan) -> None:
    if tokenizer.vocab_size > plan.vocab_size:
        raise ModelFileError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and the model only {plan.vocab_size}; "
            "the files do not belong together: download them again."
        )


def _weights_and_tokenizer(cache_dir: Path | None, key: PackKey, build: _Build) -> tuple[Pack, Tokenizer]:
    pack = open_or_build(cache_dir, key, build)
    try:
        return pack, Tokenizer.deserialize(pack.extras[_TOKENIZER])
    except (KeyError, ModelFileError):
        if cache_dir is None:
            raise
    # Another version wrote the tokenizer in another form: the pack is stale although its weights are not.
    discard(cache_dir, key)
    pack = open_or_build(cache_dir, key, build)
    return pack, Tokenizer.deserialize(pack.extras[_TOKENIZER])


def _builder(architecture: Architecture[C], config: C, checkpoint: Checkpoint, path: Path) -> _Build:
    """Gives the plan's weights one at a time, so that packing needs the memory of one matrix."""

    def build() -> Iterator[Item]:
        plan = architecture.record(config)
        # First what is small and may be refused, so that a bad tokenizer costs no packing.
        yield Extra(_TOKENIZER, _read_tokenizer(checkpoint, path).serialize())
        for vector in plan.vectors:
            if vector.parts:
                yield PackedVector(vector.name, read_vector(vector, checkpoint))
        for name, values in architecture.computed_vectors(config).items():
            yield PackedVector(name, values)
        for matrix in plan.matrices:
            if matrix.num_experts:
                yield packed_experts(matrix, checkpoint)
            else:
                yield packed_matrix(matrix.name, read_matrix(matrix, checkpoint))

    return build


def _read_tokenizer(checkpoint: Checkpoint, path: Path) -> Tokenizer:
    if checkpoint.format == "gguf":
        return Tokenizer.from_gguf(checkpoint.metadata)
    return Tokenizer.from_files(_folder_of(path))


def _folder_of(path: Path) -> Path:
    return path if path.is_dir() else path.parent


def read_template(checkpoint: Checkpoint, path: Path) -> str:
    """The source of the model's chat template, empty if it has none. Raises ModelFileError."""
    source = _template_source(checkpoint, path)
    return "" if source is None else source.plain


def _template_source(checkpoint: Checkpoint, path: Path) -> TemplateSource | None:
    if checkpoint.format == "gguf":
        return source_of_gguf(checkpoint.metadata)
    return source_of_folder(_folder_of(path))


def _template(checkpoint: Checkpoint, path: Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The model's chat template, if it has one."""
    source = _template_source(checkpoint, path)
    if source is None:
        return None
    eos = source.eos
    if checkpoint.format == "gguf" and (eos_id := checkpoint.metadata.get("tokenizer.ggml.eos_token_id")) is not None:
        eos = tokenizer.token_text(eos_id)
    bos = "" if tokenizer.bos_id is None else tokenizer.token_text(tokenizer.bos_id)
    return ChatTemplate(source.plain, bos_token=bos, eos_token=eos, with_tools=source.with_tools)
