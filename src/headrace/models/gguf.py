"""GGUF files (versions 2 and 3, little endian): metadata, tensor table, and tensors as float32 or groups.

Owns the parsing of untrusted bytes: every count, length and offset is checked against the file's size and a sane
maximum before anything is allocated, and whatever is wrong raises a ModelFileError that names the file, the field and
the value. Knows nothing of architectures or tokenizers; what the bytes of a tensor mean is `ggml_types`.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError
from headrace.kernels.grouped import GroupedMatrix
from headrace.models.digest import Hasher, sha256_of
from headrace.models.ggml_types import TYPES, UNSUPPORTED, dequantize, to_grouped

MAX_TENSORS = 1 << 17
MAX_KEYS = 1 << 16
MAX_ARRAY_VALUES = 1 << 22  # over all arrays of a file; Gemma's vocabulary of 262k needs about 1.3 million
MAX_EAGER_VALUES = 1 << 12  # longer arrays are read when they are asked for
MAX_HEADER_BYTES = 1 << 28
MAX_NAME_BYTES = 1 << 10
MAX_DIMS = 4
MAX_ALIGNMENT = 1 << 16

_BROKEN = "the file is truncated or corrupt: download it again"
_STRING, _ARRAY, _BOOL = 8, 9, 7
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies: shape in NumPy order, ggml type number, first byte and size (0 for refused types)."""

    shape: tuple[int, ...]
    type_code: int
    start: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class _LateArray:
    """Where a long array lies: its number of values and its first byte."""

    field: str
    kind: int
    num: int
    start: int


class _Cursor:
    """A position in the header that never passes its end."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path = path
        self.data = data
        self.end = min(len(data), MAX_HEADER_BYTES)
        self.pos = 0
        self.array_values = 0

    def fail(self, what: str, remedy: str = _BROKEN) -> ModelFileError:
        """An error about this file; the caller raises it."""
        return ModelFileError(f"{self.path}: {what}; {remedy}.")

    def need(self, size: int, field: str) -> int:
        """Move past `size` bytes that must exist and return where they start."""
        start = self.pos
        if size > self.end - start:
            raise self.fail(f"{field}: {size} bytes at offset {start} pass the header's end at {self.end}")
        self.pos = start + size
        return start

    def number(self, code: str, field: str) -> Any:
        """One little-endian number of a `struct` type."""
        return struct.unpack_from("<" + code, self.data, self.need(struct.calcsize("<" + code), field))[0]

    def count(self, field: str, most: int) -> int:
        """An unsigned 64-bit count of at most `most`."""
        value = int(self.number("Q", field))
        if value > most:
            raise self.fail(f"{field}: {value} is more than the supported maximum {most}")
        return value

    def text(self, field: str, most: int = MAX_HEADER_BYTES) -> str:
        """A length-prefixed UTF-8 string."""
        size = self.count(f"{field}: length", most)
        start = self.need(size, field)
        try:
            return self.data[start : self.pos].decode()
        except UnicodeDecodeError as error:
            raise self.fail(f"{field}: not valid UTF-8 at offset {start + error.start}") from error

    def texts(self, num: int, field: str) -> list[str]:
        """Many strings. Written as one loop over local names: vocabularies have hundreds of thousands of them."""
        data, pos, end = self.data, self.pos, self.end
        length_at = struct.Struct("<Q").unpack_from
        found: list[str] = []
        try:
            for _ in range(num):
                start = pos + 8
                pos = start + length_at(data, pos)[0]
                if pos > end:
                    break
                found.append(data[start:pos].decode())
        except (UnicodeDecodeError, struct.error) as error:
            raise self.fail(f"{field}[{len(found)}]: not a string ({error})") from error
        if len(found) < num:
            raise self.fail(f"{field}[{len(found)}]: a string passes the header's end at {end}")
        self.pos = pos
        return found

    def skip_texts(self, num: int, field: str) -> None:
        """Move past many strings without making them."""
        data, pos = self.data, self.pos
        length_at = struct.Struct("<Q").unpack_from
        try:
            for _ in range(num):
                pos += 8 + length_at(data, pos)[0]
        except (OverflowError, struct.error) as error:
            raise self.fail(f"{field}: a string passes the header's end at {self.end} ({error})") from error
        if pos > self.end:
            raise self.fail(f"{field}: the last string passes the header's end at {self.end}")
        self.pos = pos

    def array(self, field: str) -> "list[Any] | _LateArray":
        """An array of numbers, booleans or strings; a long one is only measured and read when it is asked for."""
        kind = int(self.number("I", f"{field}: element type"))
        num = self.count(f"{field}: array length", MAX_ARRAY_VALUES)
        self.array_values += num
        if self.array_values > MAX_ARRAY_VALUES:
            raise self.fail(f"{field}: arrays hold {self.array_values} values; the maximum is {MAX_ARRAY_VALUES}")
        late = _LateArray(field, kind, num, self.pos)
        if num <= MAX_EAGER_VALUES:
            return self.values(late)
        if kind == _STRING:
            self.skip_texts(num, field)
        else:
            self.need(num * struct.calcsize("<" + self.code_of(late)), field)
        return late

    def values(self, array: "_LateArray") -> list[Any]:
        """The values of an array that was met before, or is met now; moves past it."""
        self.pos = array.start
        if array.kind == _STRING:
            return self.texts(array.num, array.field)
        code = self.code_of(array)
        start = self.need(array.num * struct.calcsize("<" + code), array.field)
        found: list[Any] = np.frombuffer(self.data, dtype="<" + code, count=array.num, offset=start).tolist()
        return found

    def code_of(self, array: "_LateArray") -> str:
        """The `struct` type of an array's numbers."""
        if array.kind not in _NUMBERS:
            what = f"{array.field}: arrays of value type {array.kind} are not supported"
            raise self.fail(what, "convert the model again")
        return _NUMBERS[array.kind]

    def value(self, field: str) -> Any:
        """One metadata value of any type."""
        kind = int(self.number("I", f"{field}: value type"))
        if kind == _STRING:
            return self.text(field)
        if kind == _ARRAY:
            return self.array(field)
        if kind not in _NUMBERS:
            raise self.fail(f"{field}: value type {kind} does not exist")
        return self.number(_NUMBERS[kind], field)


class _Metadata(Mapping[str, Any]):
    """Key-values, of which long arrays are read from the file each time: a start with packed weights needs none."""

    def __init__(self, cursor: _Cursor, values: dict[str, Any]) -> None:
        self._cursor = cursor
        self._values = values

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        return self._cursor.values(value) if isinstance(value, _LateArray) else value

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class GgufFile:
    """An opened GGUF file; implements `Checkpoint`. Data is read on demand from a read-only map of the file."""

    def __init__(self, path: Path, hasher: Hasher = sha256_of) -> None:
        self.path = path
        self._hasher = hasher
        self._data = _map(path)
        cursor = _Cursor(path, self._data)
        num_tensors, num_keys = _read_counts(cursor)
        self._metadata = _Metadata(cursor, _read_metadata(cursor, num_keys))
        if self._metadata.get("split.count", 1) not in (0, 1):
            raise cursor.fail(
                f"is one of {self._metadata['split.count']} parts of a model", "join them with llama-gguf-split --merge"
            )
        self._tensors = _read_tensors(cursor, num_tensors, _alignment(cursor, self._metadata))

    @property
    def format(self) -> Literal["gguf"]:
        """Which naming and metadata convention applies."""
        return "gguf"

    @property
    def metadata(self) -> Mapping[str, Any]:
        """Key-values; arrays are lists. Asking for a long array that is broken raises ModelFileError."""
        return self._metadata

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """The tensor table."""
        return self._tensors

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in NumPy order (outermost first)."""
        return self._info(name).shape

    def type_name(self, name: str) -> str:
        """The tensor's ggml type, such as Q4_1."""
        code = self._info(name).type_code
        return TYPES[code].name if code in TYPES else UNSUPPORTED.get(code, f"number {code}")

    def vector(self, name: str) -> NDArray[np.float32]:
        """The tensor in float32, in its own shape."""
        info = self._info(name)
        values = dequantize(self._rows(name), TYPES[info.type_code]).reshape(info.shape)
        if not np.isfinite(values).all():
            raise self._bad(name, "holds NaN or infinity")
        return values

    def grouped(self, name: str, index: int | None = None) -> GroupedMatrix:
        """A 2-D tensor in groups: exact codes where the type allows it, else requantised to 8 bits.

        With an index, that matrix of a 3-D tensor; no other one is read.
        """
        info = self._info(name)
        if len(info.shape) != (2 if index is None else 3):
            needed = "a matrix" if index is None else "a matrix for each expert"
            raise self._bad(name, f"has shape {info.shape}, but {needed} is needed")
        rows = self._rows(name)
        if index is not None:
            rows = rows[index * info.shape[1] : (index + 1) * info.shape[1]]
        try:
            return to_grouped(rows, TYPES[info.type_code], info.shape[-1])
        except ValueError as error:
            raise self._bad(name, str(error)) from error

    def digest(self) -> str:
        """`sha256:...` over the file's bytes."""
        try:
            return self._hasher(self.path)
        except OSError as error:
            raise ModelFileError(f"{self.path}: cannot be read ({error}); check the disk and permissions.") from error

    def _bad(self, name: str, what: str, remedy: str = _BROKEN) -> ModelFileError:
        return ModelFileError(f"{self.path}: tensor {name!r} {what}; {remedy}.")

    def _info(self, name: str) -> TensorInfo:
        info = self._tensors.get(name)
        if info is None:
            raise self._bad(name, "is missing", "the file is incomplete or of another architecture than it says")
        return info

    def _rows(self, name: str) -> NDArray[np.uint8]:
        """The tensor's bytes [rows, bytes of a row], without a copy."""
        info = self._info(name)
        if info.type_code not in TYPES:
            raise self._bad(
                name,
                f"has type {self.type_name(name)}, which Headrace does not read",
                f"use a file with types out of {', '.join(kind.name for kind in TYPES.values())}",
            )
        row_bytes = TYPES[info.type_code].row_bytes(info.shape[-1])
        raw = np.frombuffer(self._data, dtype=np.uint8, count=info.num_bytes, offset=info.start)
        return raw.reshape(-1, row_bytes)


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be opened ({error}); check the path and its permissions.") from error
    except ValueError as error:
        raise ModelFileError(f"{path}: the file is empty; download it again.") from error


def _read_counts(cursor: _Cursor) -> tuple[int, int]:
    """Check magic and version; return the numbers of tensors and of keys."""
    magic = bytes(cursor.data[: min(4, cursor.end)])
    if magic != b"GGUF":
        raise cursor.fail(f"starts with {magic!r} instead of b'GGUF'", "give the path of a GGUF file")
    cursor.pos = 4
    version = int(cursor.number("I", "version"))
    if version & 0xFFFF == 0 and version:
        raise cursor.fail("is a big-endian file, which Headrace does not read", "convert the model to little endian")
    if version not in (2, 3):
        raise cursor.fail(f"GGUF version {version} is not supported", "convert the model to version 3")
    return cursor.count("tensor count", MAX_TENSORS), cursor.count("key count", MAX_KEYS)


def _read_metadata(cursor: _Cursor, num_keys: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for index in range(num_keys):
        key = cursor.text(f"key {index}", MAX_NAME_BYTES)
        if key in metadata:
            raise cursor.fail(f"metadata key {key!r} occurs twice")
        metadata[key] = cursor.value(f"metadata {key!r}")
    return metadata


def _alignment(cursor: _Cursor, metadata: Mapping[str, Any]) -> int:
    value = metadata.get("general.alignment", 32)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise cursor.fail(f"general.alignment: {value!r} is not a power of two up to {MAX_ALIGNMENT}")
    return value


def _read_tensors(cursor: _Cursor, num_tensors: int, alignment: int) -> dict[str, TensorInfo]:
    found: dict[str, tuple[tuple[int, ...], int, int, int]] = {}
    for index in range(num_tensors):
        name = cursor.text(f"name of tensor {index}", MAX_NAME_BYTES)
        if name in found:
            raise cursor.fail(f"tensor {name!r} occurs twice")
        num_dims = int(cursor.number("I", f"tensor {name!r}: number of dimensions"))
        if not 1 <= num_dims <= MAX_DIMS:
            raise cursor.fail(f"tensor {name!r}: {num_dims} dimensions; 1 to {MAX_DIMS} are allowed")
        # GGUF names the innermost dimension first.
        shape = tuple(int(cursor.number("Q", f"tensor {name!r}: dimension")) for _ in range(num_dims))[::-1]
        code = int(cursor.number("I", f"tensor {name!r}: type"))
        offset = int(cursor.number("Q", f"tensor {name!r}: offset"))
        if offset % alignment:
            raise cursor.fail(f"tensor {name!r}: offset {offset} is not a multiple of {alignment}")
        found[name] = (shape, code, offset, _num_bytes(cursor, name, shape, code))
    base = -(-cursor.pos // alignment) * alignment
    size = len(cursor.data)
    for name, (_, _, offset, num_bytes) in found.items():
        if base + offset + num_bytes > size:
            raise cursor.fail(
                f"tensor {name!r}: {num_bytes} bytes at offset {base + offset} pass the file's end at {size}"
            )
    return {
        name: TensorInfo(shape, code, base + offset, num_bytes)
        for name, (shape, code, offset, num_bytes) in found.items()
    }


def _num_bytes(cursor: _Cursor, name: str, shape: tuple[int, ...], code: int) -> int:
    """Bytes of a tensor; 0 for types that are refused when the tensor is wanted."""
    if min(shape) == 0:
        raise cursor.fail(f"tensor {name!r}: shape {shape} has an empty dimension")
    kind = TYPES.get(code)
    if kind is None:
        return 0
    if shape[-1] % kind.block_values:
        raise cursor.fail(
            f"tensor {name!r}: rows of {shape[-1]} values are not whole {kind.name} blocks of {kind.block_values}"
        )
    num_bytes = kind.row_bytes(shape[-1])
    for size in shape[:-1]:
        num_bytes *= size
    return num_bytes
