"""The GGUF reader on valid files, with the `gguf` package as the second opinion."""

import hashlib
from pathlib import Path

import gguf
import numpy as np
import pytest
from tests.gguf_files import VOCABULARY, header, tensor, text, write_small_file

from headrace.core.errors import ModelFileError
from headrace.models.gguf import GgufFile


@pytest.fixture
def small(tmp_path: Path) -> GgufFile:
    return GgufFile(write_small_file(tmp_path / "small.gguf"))


def test_metadata_of_every_kind_comes_out_as_plain_values(small: GgufFile) -> None:
    metadata = dict(small.metadata)
    assert metadata.pop("general.architecture") == "llama"
    assert metadata == {
        "some.u32": 7,
        "some.i8": -3,
        "some.f32": 0.5,
        "some.f64": 0.1,
        "some.u64": 2**63,
        "some.flag": True,
        "some.text": "naïve 水",
        "some.floats": [1.5, -2.0],
        "some.flags": [True, False],
        "tokenizer.ggml.tokens": VOCABULARY,
        "tokenizer.ggml.token_type": [1] * len(VOCABULARY),
    }


def test_long_arrays_are_the_same_every_time_they_are_asked_for(tmp_path: Path) -> None:
    words, numbers = [f"naïve {i}" for i in range(5000)], [i / 2 for i in range(5000)]
    writer = gguf.GGUFWriter(tmp_path / "long.gguf", "llama")
    writer.add_array("words", words)
    writer.add_array("numbers", numbers)
    writer.add_uint32("after", 3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    metadata = GgufFile(tmp_path / "long.gguf").metadata
    assert metadata["after"] == 3
    assert [(metadata["words"], metadata["numbers"]) for _ in range(2)] == [(words, numbers)] * 2
    assert dict(metadata)["words"] == words and len(metadata) == 4


def test_tensors_have_numpy_shapes_and_the_values_that_the_gguf_package_reads(small: GgufFile) -> None:
    assert small.format == "gguf"
    for expected in gguf.GGUFReader(small.path).tensors:
        shape = tuple(int(size) for size in expected.shape[::-1])
        values = gguf.quants.dequantize(expected.data, expected.tensor_type)
        assert expected.name in small
        assert small.shape(expected.name) == shape
        assert small.type_name(expected.name) == expected.tensor_type.name
        assert np.array_equal(small.vector(expected.name), values.reshape(shape))


def test_a_matrix_in_groups_keeps_its_values(small: GgufFile) -> None:
    matrix = small.grouped("matrix")
    assert (matrix.rows, matrix.cols, matrix.bits) == (5, 64, 4)
    assert np.array_equal(matrix.dequantize(), small.vector("matrix"))


def test_a_matrix_whose_rows_are_no_whole_groups_is_padded_with_zeros(small: GgufFile) -> None:
    matrix = small.grouped("half")
    assert (matrix.rows, matrix.cols, matrix.codes.shape) == (3, 40, (3, 64))
    assert np.abs(matrix.dequantize() - small.vector("half")).max() < 0.02


def test_the_digest_is_the_sha256_of_the_file(small: GgufFile) -> None:
    assert small.digest() == "sha256:" + hashlib.sha256(small.path.read_bytes()).hexdigest()


def test_a_vector_is_a_copy_that_may_be_changed(small: GgufFile) -> None:
    small.vector("norm")[:] = 0
    assert small.vector("norm").any()


def test_version_2_is_read_like_version_3(tmp_path: Path) -> None:
    path = tmp_path / "two.gguf"
    table = header(tensors=1, version=2) + tensor("t", (2,))
    path.write_bytes(table + bytes(-len(table) % 32) + np.array([1, 2], dtype=np.float32).tobytes())
    assert GgufFile(path).vector("t").tolist() == [1.0, 2.0]


def test_a_stated_alignment_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "aligned.gguf"
    alignment = text("general.alignment") + (4).to_bytes(4, "little") + (256).to_bytes(4, "little")
    table = header(tensors=1, keys=1) + alignment + tensor("t", (1,), offset=256)
    path.write_bytes(table + bytes(-len(table) % 256) + bytes(256) + np.float32(3).tobytes())
    assert GgufFile(path).vector("t").tolist() == [3.0]


@pytest.mark.parametrize("call", ["shape", "vector", "grouped", "type_name"])
def test_a_missing_tensor_is_named(small: GgufFile, call: str) -> None:
    with pytest.raises(ModelFileError, match=r"small\.gguf: tensor 'absent' is missing"):
        getattr(small, call)("absent")


def test_a_vector_is_not_taken_for_a_matrix(small: GgufFile) -> None:
    with pytest.raises(ModelFileError, match=r"'norm' has shape \(64,\), but a matrix is needed"):
        small.grouped("norm")


def test_the_shipped_model_is_read_like_the_gguf_package_reads_it(smollm2_path: Path) -> None:
    ours, theirs = GgufFile(smollm2_path), gguf.GGUFReader(smollm2_path)
    names = [name for name in theirs.fields if not name.startswith("GGUF.")]
    assert list(ours.metadata) == names
    assert all(ours.metadata[name] == theirs.fields[name].contents() for name in names)
    for expected in theirs.tensors[:4]:
        values = gguf.quants.dequantize(expected.data, expected.tensor_type)
        assert np.array_equal(ours.vector(expected.name), values)
