"""The safetensors reader on valid folders, with the `safetensors` library as the writer."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from headrace.core.errors import ModelFileError
from headrace.models.safetensors import SafetensorsFolder

RNG = np.random.default_rng(5)
MATRIX = RNG.normal(0, 0.02, (6, 40)).astype(np.float32)
NORM = RNG.normal(1, 0.1, 40).astype(np.float16)


def write_folder(folder: Path) -> Path:
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 40}')
    save_file({"matrix": MATRIX, "norm": NORM}, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_folder_gives_config_shapes_and_values(tmp_path: Path) -> None:
    model = SafetensorsFolder(write_folder(tmp_path))
    assert model.format == "safetensors"
    assert model.metadata == {"model_type": "llama", "hidden_size": 40}
    assert ("matrix" in model, "absent" in model, "__metadata__" in model) == (True, False, False)
    assert model.shape("matrix") == (6, 40)
    assert np.array_equal(model.vector("matrix"), MATRIX)
    assert np.array_equal(model.vector("norm"), NORM.astype(np.float32))


def test_a_matrix_is_quantised_to_eight_bits_in_groups(tmp_path: Path) -> None:
    matrix = SafetensorsFolder(write_folder(tmp_path)).grouped("matrix")
    assert (matrix.rows, matrix.cols, matrix.bits, matrix.codes.shape) == (6, 40, 8, (6, 64))
    assert np.abs(matrix.dequantize() - MATRIX).max() <= np.abs(MATRIX).max() / 127


def test_bf16_is_widened_exactly(tmp_path: Path) -> None:
    words = (MATRIX.view(np.uint32) >> 16).astype(np.uint16)
    entry = {"m": {"dtype": "BF16", "shape": [6, 40], "data_offsets": [0, words.nbytes]}}
    raw = json.dumps(entry).encode()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + words.tobytes())
    expected = (words.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(SafetensorsFolder(tmp_path).vector("m"), expected)


def test_a_single_file_is_read_with_the_config_beside_it(tmp_path: Path) -> None:
    write_folder(tmp_path)
    assert SafetensorsFolder(tmp_path / "model.safetensors").metadata["hidden_size"] == 40


def test_shards_are_found_through_the_index_and_other_files_are_left_alone(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "consolidated.safetensors")
    save_file({"matrix": MATRIX}, tmp_path / "model-1.safetensors")
    save_file({"norm": NORM}, tmp_path / "model-2.safetensors")
    weight_map = {"matrix": "model-1.safetensors", "norm": "model-2.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    model = SafetensorsFolder(tmp_path)
    assert [file.name for file in model.files] == ["model-1.safetensors", "model-2.safetensors"]
    assert np.array_equal(model.vector("norm"), NORM.astype(np.float32))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-9.safetensors"}}')
    with pytest.raises(
        ModelFileError, match=r"model-9\.safetensors: named by model\.safetensors\.index\.json but missing"
    ):
        SafetensorsFolder(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    save_file({"norm": NORM}, tmp_path / "other.safetensors")
    with pytest.raises(ModelFileError, match=r"'norm' is also in model\.safetensors"):
        SafetensorsFolder(tmp_path)


@pytest.mark.parametrize("gone", ["config.json", "model.safetensors"])
def test_a_folder_without_its_files_is_refused(gone: str, tmp_path: Path) -> None:
    (write_folder(tmp_path) / gone).unlink()
    with pytest.raises(ModelFileError, match=Path(gone).suffix):
        SafetensorsFolder(tmp_path)


def test_a_type_that_is_not_read_is_refused_by_name_when_it_is_wanted(tmp_path: Path) -> None:
    write_folder(tmp_path)
    save_file({"ids": np.arange(4, dtype=np.int64)}, tmp_path / "other.safetensors")
    with pytest.raises(
        ModelFileError, match="'ids' has type I64, which Headrace does not read; use a checkpoint in F32"
    ):
        SafetensorsFolder(tmp_path).vector("ids")


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path)
    save_file({"bad": np.full((2, 32), np.inf, np.float16)}, tmp_path / "other.safetensors")
    model = SafetensorsFolder(tmp_path)
    for read in (model.vector, model.grouped):
        with pytest.raises(ModelFileError, match=r"other\.safetensors: tensor 'bad' holds NaN or infinity"):
            read("bad")


def test_a_missing_tensor_and_a_vector_for_a_matrix_are_named(tmp_path: Path) -> None:
    model = SafetensorsFolder(write_folder(tmp_path))
    with pytest.raises(ModelFileError, match="'absent' is missing"):
        model.shape("absent")
    with pytest.raises(ModelFileError, match=r"'norm' has shape \(40,\), but a matrix is needed"):
        model.grouped("norm")


def test_the_digest_covers_weights_config_and_tokenizer_by_name_and_content(tmp_path: Path) -> None:
    write_folder(tmp_path)
    plain = SafetensorsFolder(tmp_path).digest()
    lines = "".join(
        f"{name} sha256:{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}\n"
        for name in ("config.json", "model.safetensors")
    )
    assert plain == "sha256:" + hashlib.sha256(lines.encode()).hexdigest()
    (tmp_path / "README.md").write_text("not part of it")
    assert SafetensorsFolder(tmp_path).digest() == plain
    (tmp_path / "tokenizer.json").write_text("{}")
    assert SafetensorsFolder(tmp_path).digest() != plain
