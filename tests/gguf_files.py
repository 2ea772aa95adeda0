"""Small GGUF files for tests, written by the `gguf` package or, where it refuses to write nonsense, byte by byte."""

import struct
from pathlib import Path

import gguf
import numpy as np

VOCABULARY = [f"token {i}" for i in range(40)]


def write_small_file(path: Path) -> Path:
    """A valid file with all kinds of metadata and three tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("some.u32", 7)
    writer.add_int8("some.i8", -3)
    writer.add_float32("some.f32", 0.5)
    writer.add_float64("some.f64", 0.1)
    writer.add_uint64("some.u64", 2**63)
    writer.add_bool("some.flag", True)
    writer.add_string("some.text", "naïve 水")
    writer.add_array("some.floats", [1.5, -2.0])
    writer.add_array("some.flags", [True, False])
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([1] * len(VOCABULARY))
    rng = np.random.default_rng(0)
    writer.add_tensor("norm", rng.normal(size=64).astype(np.float32))
    writer.add_tensor("half", rng.normal(size=(3, 40)).astype(np.float16))
    blocks = gguf.quants.quantize(rng.normal(size=(5, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q4_1)
    writer.add_tensor("matrix", blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def text(value: str | bytes) -> bytes:
    """A length-prefixed string."""
    raw = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(raw)) + raw


def header(*, tensors: int = 0, keys: int = 0, version: int = 3) -> bytes:
    """Magic, version and counts."""
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


def tensor(name: str, dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    """One entry of the tensor table; innermost dimension first, as in the file."""
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
