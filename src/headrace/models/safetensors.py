"""Safetensors checkpoints: a folder with config.json and .safetensors files, or one such file beside its config.

Owns the parsing of untrusted headers (each file is 8 bytes of header length, JSON, data) with every size checked
against the file. Types F32, F16 and BF16; matrices are quantised to 8-bit groups. Knows nothing of architectures or
tokenizers.
"""

import hashlib
import json
import mmap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError
from headrace.kernels.grouped import GroupedMatrix
from headrace.models.digest import Hasher, sha256_of
from headrace.models.ggml_types import as_float32
from headrace.models.regroup import regroup

MAX_HEADER_BYTES = 1 << 25
MAX_JSON_BYTES = 1 << 25
MAX_DIMS = 8
SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "modules.json",
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
"""Small files beside the weights that decide what the model says; they are part of its digest."""

_VALUE_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_BROKEN = "the file is truncated or corrupt: download it again"


@dataclass(frozen=True, slots=True)
class _Tensor:
    """Where a tensor lies; `kind` is the file's own type name, readable or not."""

    path: Path
    data: mmap.mmap
    kind: str
    shape: tuple[int, ...]
    start: int


class SafetensorsFolder:
    """An opened checkpoint; implements `Checkpoint`. Data is read on demand from read-only maps of the files.

    `config` is the file of metadata beside the weights; adapters call theirs by another name.
    """

    def __init__(self, path: Path, hasher: Hasher = sha256_of, config: str = "config.json") -> None:
        self.folder, self.files = _find(path)
        self._hasher = hasher
        self._config = config
        self._metadata = read_json(self.folder / config)
        self._tensors: dict[str, _Tensor] = {}
        for file in self.files:
            for name, tensor in _read_header(file).items():
                if name in self._tensors:
                    other = self._tensors[name].path.name
                    raise ModelFileError(f"{file}: tensor {name!r} is also in {other}; keep one set of weight files.")
                self._tensors[name] = tensor

    @property
    def format(self) -> Literal["safetensors"]:
        """Which naming and metadata convention applies."""
        return "safetensors"

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The parsed `config.json`."""
        return self._metadata

    @property
    def names(self) -> Iterable[str]:
        """Names of all tensors."""
        return self._tensors.keys()

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in NumPy order (outermost first)."""
        return self._tensor(name).shape

    def vector(self, name: str) -> NDArray[np.float32]:
        """The tensor in float32, in its own shape."""
        tensor = self._tensor(name)
        values = as_float32(self._rows(name), tensor.kind).reshape(tensor.shape)
        if not np.isfinite(values).all():
            raise self._bad(name, "holds NaN or infinity")
        return values

    def grouped(self, name: str, index: int | None = None) -> GroupedMatrix:
        """A 2-D tensor quantised to 8 bits; with an index, that matrix of a 3-D tensor."""
        tensor = self._tensor(name)
        if len(tensor.shape) != (2 if index is None else 3):
            needed = "a matrix" if index is None else "a matrix for each expert"
            raise self._bad(name, f"has shape {tensor.shape}, but {needed} is needed")
        rows = self._rows(name)
        if index is not None:
            rows = rows[index * tensor.shape[1] : (index + 1) * tensor.shape[1]]
        try:
            return regroup(lambda first, last: as_float32(rows[first:last], tensor.kind), *tensor.shape[-2:])
        except ValueError as error:
            raise self._bad(name, str(error)) from error

    def digest(self) -> str:
        """`sha256:...` over names and digests of the weight files and of the small files beside them."""
        total = hashlib.sha256()
        beside = [self.folder / name for name in {*SIDE_FILES, self._config}]
        try:
            for file in sorted({*self.files, *(file for file in beside if file.is_file())}):
                name = file.relative_to(self.folder).as_posix()
                total.update(f"{name} {self._hasher(file)}\n".encode("utf-8", "surrogateescape"))
        except OSError as error:
            raise ModelFileError(f"{self.folder}: cannot be read ({error}); check the disk and permissions.") from error
        return f"sha256:{total.hexdigest()}"

    def _bad(self, name: str, what: str, remedy: str = _BROKEN) -> ModelFileError:
        where = self._tensors[name].path if name in self._tensors else self.folder
        return ModelFileError(f"{where}: tensor {name!r} {what}; {remedy}.")

    def _tensor(self, name: str) -> _Tensor:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise self._bad(
                name, "is missing", "weight files are incomplete or of another architecture than config.json says"
            )
        return tensor

    def _rows(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes [rows, bytes of a row], without a copy."""
        tensor = self._tensor(name)
        value_bytes = _VALUE_BYTES.get(tensor.kind)
        if value_bytes is None:
            raise self._bad(
                name, f"has type {tensor.kind}, which Headrace does not read", "use a checkpoint in F32, F16 or BF16"
            )
        row_bytes = (tensor.shape[-1] if tensor.shape else 1) * value_bytes
        count = int(np.prod(tensor.shape, dtype=np.int64)) * value_bytes
        raw = np.frombuffer(tensor.data, dtype=np.uint8, count=count, offset=tensor.start)
        return raw.reshape(-1, row_bytes)


def _find(path: Path) -> tuple[Path, tuple[Path, ...]]:
    """The folder and its weight files in a fixed order."""
    if path.is_file():
        return path.parent, (path,)
    if not path.is_dir():
        raise ModelFileError(f"{path}: no such file or folder; give the path of a model.")
    index = path / "model.safetensors.index.json"
    if not index.is_file():
        files = tuple(sorted(path.glob("*.safetensors")))
        if not files:
            raise ModelFileError(f"{path}: holds no .safetensors file; give the folder of a downloaded checkpoint.")
        return path, files
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelFileError(f"{index}: 'weight_map' is missing or empty; download the file again.")
    names = {str(name) for name in weight_map.values()}
    for name in names:
        # The index comes from outside: it may only name files that lie beside it.
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelFileError(f"{index}: {name!r} is not the name of a .safetensors file beside it; refused.")
        if not (path / name).is_file():
            raise ModelFileError(f"{path / name}: named by {index.name} but missing; download the checkpoint again.")
    return path, tuple(path / name for name in sorted(names))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of bounded size. Raises ModelFileError."""
    return _object(_content(path), path, "the file")


def read_json_list(path: Path) -> list[Any]:
    """A JSON list from a file of bounded size. Raises ModelFileError."""
    value = _value(_content(path), path, "the file")
    if not isinstance(value, list):
        raise ModelFileError(f"{path}: the file is not a JSON list; {_BROKEN}.")
    return value


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelFileError(f"{path}: larger than {MAX_JSON_BYTES} bytes; this is not the file it should be.")
        return path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read ({error}); a checkpoint needs this file.") from error


def _value(content: bytes, path: Path, what: str) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path}: {what} is not valid JSON ({error}); {_BROKEN}.") from error


def _object(content: bytes, path: Path, what: str) -> dict[str, Any]:
    value = _value(content, path, what)
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: {what} is not a JSON object; {_BROKEN}.")
    return value


def _read_header(path: Path) -> dict[str, _Tensor]:
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise ModelFileError(
            f"{path}: cannot be opened ({error}); check the path, its permissions and size."
        ) from error
    size = len(data)
    length = int.from_bytes(data[:8], "little")
    if size < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise ModelFileError(f"{path}: header length {length} does not fit a file of {size} bytes; {_BROKEN}.")
    header = _object(data[8 : 8 + length], path, "the header")
    header.pop("__metadata__", None)
    return {name: _entry(path, data, 8 + length, name, entry) for name, entry in header.items()}


def _entry(path: Path, data: mmap.mmap, base: int, name: str, entry: Any) -> _Tensor:
    """One tensor of a header, with everything that its readers rely on checked."""

    def refuse(what: str) -> ModelFileError:
        return ModelFileError(f"{path}: tensor {name!r}: {what}; {_BROKEN}.")

    fields = entry if isinstance(entry, dict) else {}
    kind, shape, offsets = fields.get("dtype"), _counts(fields.get("shape")), _counts(fields.get("data_offsets"))
    if not isinstance(kind, str) or shape is None or offsets is None or len(offsets) != 2:
        raise refuse(f"{str(entry)[:200]} is not an entry with dtype, shape and data_offsets")
    if len(shape) > MAX_DIMS or 0 in shape:
        raise refuse(f"shape {shape[:20]} is empty or has more than {MAX_DIMS} dimensions")
    first, last = offsets
    if not first <= last <= len(data) - base:
        raise refuse(f"data_offsets {offsets} pass the file's end at {len(data) - base}")
    expected = _VALUE_BYTES.get(kind)
    if expected is not None:
        for dim in shape:
            expected *= dim
        if expected != last - first:
            raise refuse(f"{kind} of shape {shape} needs {expected} bytes, data_offsets give {last - first}")
    return _Tensor(path, data, kind, shape, base + first)


def _counts(values: Any) -> tuple[int, ...] | None:
    """A list of sizes as a tuple, or None if it is anything else (a bool is no size)."""
    if isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 62 for value in values):
        return tuple(values)
    return None
