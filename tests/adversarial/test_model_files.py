"""Model files as an attacker or a bad disk would leave them: each is one clear ModelFileError."""

import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file
from tests.gguf_files import header, tensor, text, write_small_file, write_tiny_llama
from tests.oracle import tiny_encoders
from tokenizers import models

from headrace.core.errors import ModelFileError
from headrace.models.gguf import MAX_ARRAY_VALUES, GgufFile
from headrace.models.load import load_model
from headrace.models.safetensors import SafetensorsFolder

HUGE = 1 << 60
STRING, ARRAY, U8, U32, U64 = 8, 9, 0, 4, 10


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(kind: int, num: int, values: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, num) + values


def nested_arrays(depth: int) -> bytes:
    return array(ARRAY, 1) * depth + array(U8, 0)


BAD_GGUF = {
    # name: (bytes, what the message must say)
    "empty": (b"", "is empty"),
    "other magic": (b"PK\x03\x04" + bytes(60), "instead of b'GGUF'"),
    "magic alone": (b"GGUF", "version"),
    "version 1": (header(version=1), "version 1 is not supported"),
    "version 4": (header(version=4), "version 4 is not supported"),
    "big endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    "2^60 tensors": (header(tensors=HUGE), f"tensor count: {HUGE}"),
    "2^60 keys": (header(keys=HUGE), f"key count: {HUGE}"),
    "a key that is missing": (header(keys=1), "key 0"),
    "a long key": (header(keys=1) + text("k" * 2000) + bytes(12), "key 0: length: 2000"),
    "a 2^62-byte string": (header(keys=1) + key("k", STRING, struct.pack("<Q", 1 << 62)), "metadata 'k': length"),
    "a string past the end": (header(keys=1) + key("k", STRING, struct.pack("<Q", 100)), "100 bytes at offset"),
    "bad UTF-8": (header(keys=1) + key("k", STRING, text(b"\xff\xfe")), "metadata 'k': not valid UTF-8"),
    "bad UTF-8 in a key": (header(keys=1) + text(b"\xff"), "key 0: not valid UTF-8"),
    "bad UTF-8 in an array": (header(keys=1) + key("k", ARRAY, array(STRING, 1, text(b"\xff"))), r"'k'[0]: not a str"),
    "an unknown value type": (header(keys=1) + key("k", 99, b""), "value type 99"),
    "an unknown element type": (header(keys=1) + key("k", ARRAY, array(99, 1)), "value type 99"),
    "a 2^60 array": (header(keys=1) + key("k", ARRAY, array(U8, HUGE)), f"'k': array length: {HUGE}"),
    "an array past the end": (header(keys=1) + key("k", ARRAY, array(U64, 100)), "800 bytes"),
    "strings past the end": (header(keys=1) + key("k", ARRAY, array(STRING, 9, text("a"))), r"'k'[1]"),
    "a 2^64-1 string in an array": (
        header(keys=1) + key("k", ARRAY, array(STRING, 1, struct.pack("<Q", 2**64 - 1))),
        r"'k'[0]: a string passes",
    ),
    "many strings past the end": (
        header(keys=1) + key("k", ARRAY, array(STRING, 5000, text("a") * 4999)),
        "'k': a string passes the header's end",
    ),
    "many strings of which the last is too long": (
        header(keys=1) + key("k", ARRAY, array(STRING, 5000, text("a") * 4999 + struct.pack("<Q", 9))),
        "'k': the last string passes the header's end",
    ),
    "many strings, one of 2^64-1 bytes": (
        header(keys=1) + key("k", ARRAY, array(STRING, 5000, struct.pack("<Q", 2**64 - 1) + text("a") * 4999)),
        "'k': a string passes the header's end",
    ),
    "a long array of an unknown element type": (header(keys=1) + key("k", ARRAY, array(99, 5000)), "value type 99"),
    "a long array past the end": (header(keys=1) + key("k", ARRAY, array(U64, 5000)), "40000 bytes"),
    "nested arrays": (header(keys=1) + key("k", ARRAY, nested_arrays(1000)), "value type 9 are not supported"),
    "a key twice": (header(keys=2) + 2 * key("k", U32, bytes(4)), "'k' occurs twice"),
    "alignment 0": (header(keys=1) + key("general.alignment", U32, bytes(4)), "general.alignment: 0"),
    "alignment 24": (header(keys=1) + key("general.alignment", U32, struct.pack("<I", 24)), "general.alignment: 24"),
    "alignment text": (header(keys=1) + key("general.alignment", STRING, text("32")), "general.alignment: '32'"),
    "one part of many": (header(keys=1) + key("split.count", U32, struct.pack("<I", 3)), "one of 3 parts"),
    "a table that is missing": (header(tensors=1), "name of tensor 0"),
    "no dimensions": (header(tensors=1) + tensor("t", ()), "0 dimensions"),
    "many dimensions": (header(tensors=1) + tensor("t", (1,) * 9), "9 dimensions"),
    "2^32-1 dimensions": (header(tensors=1) + text("t") + b"\xff" * 40, "4294967295 dimensions"),
    "an empty dimension": (header(tensors=1) + tensor("t", (4, 0)), "(0, 4) has an empty dimension"),
    "a product above 2^64": (header(tensors=1) + tensor("t", (2**63, 2**63)) + bytes(64), "pass the file's end"),
    "a product that wraps to 0": (header(tensors=1) + tensor("t", (2**32, 2**32)) + bytes(64), "pass the file's end"),
    "half a block": (header(tensors=1) + tensor("t", (33,), 2) + bytes(99), "33 values are not whole Q4_0 blocks"),
    "an offset past the end": (header(tensors=1) + tensor("t", (1,), offset=HUGE) + bytes(64), "pass the file's end"),
    "a misaligned offset": (header(tensors=1) + tensor("t", (1,), offset=4) + bytes(64), "offset 4 is not a multiple"),
    "a tensor twice": (header(tensors=2) + 2 * tensor("t", (1,)) + bytes(64), "'t' occurs twice"),
    "no data": (header(tensors=1) + tensor("t", (8,)), "32 bytes at offset 64 pass the file's end"),
}


@pytest.mark.parametrize("case", BAD_GGUF)
def test_a_bad_gguf_file_is_refused_with_file_field_and_remedy(case: str, tmp_path: Path) -> None:
    content, says = BAD_GGUF[case]
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(ModelFileError) as caught:
        GgufFile(path)
    assert says in caught.value.message
    assert caught.value.message.startswith(str(path))
    assert "; " in caught.value.message


@pytest.mark.parametrize(
    "kind, name", [(16, "IQ2_XXS"), (19, "IQ1_S"), (34, "TQ1_0"), (39, "MXFP4"), (999, "number 999")]
)
def test_a_type_that_is_not_read_is_refused_by_name_when_it_is_wanted(kind: int, name: str, tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(header(tensors=1) + tensor("t", (256, 2), kind) + bytes(999))
    with pytest.raises(
        ModelFileError, match=f"'t' has type {name}, which Headrace does not read; use a file with types"
    ):
        GgufFile(path).grouped("t")


@pytest.mark.parametrize("name", ["absent.gguf", "."])
def test_a_path_that_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="cannot be opened"):
        GgufFile(tmp_path / name)


def test_weights_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "nan.gguf"
    table = header(tensors=1) + tensor("t", (32, 2))
    path.write_bytes(table + bytes(-len(table) % 32) + np.full(64, np.nan, dtype=np.float32).tobytes())
    for read in (GgufFile(path).vector, GgufFile(path).grouped):
        with pytest.raises(ModelFileError, match="'t' holds NaN or infinity"):
            read("t")


def test_a_broken_string_in_a_long_array_is_named_when_the_array_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "late.gguf"
    values = text("a") * 4999 + text(b"\xff")
    path.write_bytes(header(keys=2) + key("k", ARRAY, array(STRING, 5000, values)) + key("n", U32, bytes(4)))
    metadata = GgufFile(path).metadata
    assert metadata["n"] == 0
    with pytest.raises(ModelFileError, match=r"late\.gguf: metadata 'k'\[4999\]: not a string"):
        metadata["k"]


def test_many_arrays_together_stay_within_the_limit_of_one(tmp_path: Path) -> None:
    path = tmp_path / "arrays.gguf"
    half = MAX_ARRAY_VALUES // 2 + 1
    path.write_bytes(header(keys=2) + b"".join(key(name, ARRAY, array(U8, half, bytes(half))) for name in "ab"))
    with pytest.raises(ModelFileError, match="'b': arrays hold"):
        GgufFile(path)


@pytest.mark.parametrize("case", [name for name in BAD_GGUF if "2^" in name or "past" in name or "wraps" in name])
def test_absurd_sizes_allocate_nothing(case: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(BAD_GGUF[case][0])
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            GgufFile(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def read_everything(checkpoint: GgufFile | SafetensorsFolder, names: list[str]) -> None:
    for name in names:
        if name in checkpoint:
            checkpoint.vector(name)
            if len(checkpoint.shape(name)) == 2:
                checkpoint.grouped(name)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Some bytes changed, perhaps the end cut off."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(0, 6))):
        changed[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    return bytes(changed[: draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))])


@pytest.fixture(scope="module")
def small_gguf(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_small_file(tmp_path_factory.mktemp("valid") / "small.gguf").read_bytes()


FUZZ = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(data=st.data())
def test_a_damaged_gguf_file_is_read_or_refused_and_nothing_else(
    data: st.DataObject, small_gguf: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(data.draw(damaged(small_gguf)))
    try:
        read_everything(GgufFile(path), ["norm", "half", "matrix"])
    except ModelFileError as error:
        assert str(path) in error.message


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "tiny.gguf"
    return write_tiny_llama(path, template="{{ messages[0]['content'] }}").read_bytes()


@FUZZ
@given(data=st.data())
def test_a_model_with_a_damaged_header_starts_or_is_refused_and_nothing_else(
    data: st.DataObject, tiny_model: bytes, tmp_path: Path
) -> None:
    """Beyond the reader: metadata and tokenizer that are well-formed and absurd."""
    path = tmp_path / "damaged.gguf"
    end = tiny_model.index(b"output_norm.weight") + 50
    path.write_bytes(data.draw(damaged(tiny_model[:end])).ljust(end, b"\0") + tiny_model[end:])
    try:
        load_model(path)
    except ModelFileError as error:
        assert str(path) in error.message


@FUZZ
@given(content=st.binary(max_size=300))
def test_random_bytes_after_the_magic_are_read_or_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "random.gguf"
    path.write_bytes(header(tensors=1, keys=1) + content)
    try:
        GgufFile(path)
    except ModelFileError as error:
        assert str(path) in error.message


def folder_of(path: Path, entry: object, data: bytes = b"", length: int | None = None) -> Path:
    """A checkpoint whose one file has the header `entry` (bytes are taken as they are)."""
    raw = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    (path / "config.json").write_text("{}")
    prefix = struct.pack("<Q", len(raw) if length is None else length)
    (path / "model.safetensors").write_bytes(prefix + raw + data)
    return path


def one(**changes: object) -> dict[str, object]:
    return {"t": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes}


BAD_HEADERS: dict[str, tuple[object, int | None, str]] = {
    "a length past the end": (one(), HUGE, f"header length {HUGE}"),
    "no JSON": (b"\xff{}", None, "not valid JSON"),
    "deep JSON": (b"[" * 200_000, None, "not valid JSON"),
    "a list": ([], None, "not a JSON object"),
    "an entry that is a list": ({"t": []}, None, "'t': [] is not an entry"),
    "a shape of text": (one(shape="4"), None, "is not an entry"),
    "a negative size": (one(shape=[-2, -2]), None, "is not an entry"),
    "a size of true": (one(shape=[True, 4]), None, "is not an entry"),
    "a fraction": (one(shape=[1.5, 2]), None, "is not an entry"),
    "an empty dimension": (one(shape=[0, 2], data_offsets=[0, 0]), None, "is empty"),
    "offsets past the end": (one(data_offsets=[0, HUGE]), None, "pass the file's end"),
    "offsets in reverse": (one(data_offsets=[16, 0]), None, "pass the file's end"),
    "three offsets": (one(data_offsets=[0, 8, 16]), None, "is not an entry"),
    "a shape larger than its data": (one(shape=[1 << 40, 1 << 40]), None, "needs"),
    "a shape smaller than its data": (one(shape=[1, 2]), None, "needs 8 bytes, data_offsets give 16"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_bad_safetensors_header_is_refused_with_file_and_field(case: str, tmp_path: Path) -> None:
    entry, length, says = BAD_HEADERS[case]
    with pytest.raises(ModelFileError) as caught:
        SafetensorsFolder(folder_of(tmp_path, entry, bytes(16), length))
    assert says in caught.value.message
    assert str(tmp_path / "model.safetensors") in caught.value.message


@pytest.mark.parametrize("named", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "config.json"])
def test_an_index_cannot_name_files_elsewhere(named: str, tmp_path: Path) -> None:
    folder_of(tmp_path, one(), bytes(16))
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"t": named}}))
    with pytest.raises(ModelFileError, match="refused"):
        SafetensorsFolder(tmp_path)


@pytest.fixture(scope="module")
def small_safetensors(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("valid") / "model.safetensors"
    save_file({"matrix": np.ones((4, 40), np.float32), "norm": np.ones(40, np.float16)}, path)
    return path.read_bytes()


@FUZZ
@given(data=st.data())
def test_a_damaged_safetensors_file_is_read_or_refused_and_nothing_else(
    data: st.DataObject, small_safetensors: bytes, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(data.draw(damaged(small_safetensors)))
    try:
        read_everything(SafetensorsFolder(tmp_path), ["matrix", "norm"])
    except ModelFileError as error:
        assert str(tmp_path) in error.message


def encoder_folder(path: Path, name: str, change: Callable[[dict[str, np.ndarray]], object]) -> Path:
    """A tiny BERT checkpoint whose tensors `change` has spoilt, with a vocabulary."""
    tensors = tiny_encoders.prefixed(name)
    change(tensors)
    vocab = {f"word{i}": i for i in range(200)} | {"[UNK]": 200, "[CLS]": 201, "[SEP]": 202}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.save(str(path / "tokenizer.json"))
    return tiny_encoders.write_folder(name, path, tensors)


def reshape(tensor: str, *shape: int) -> Callable[[dict[str, np.ndarray]], object]:
    return lambda tensors: tensors.update({tensor: np.zeros(shape, np.float32)})


_UP = "encoder.layer.1.intermediate.dense.weight"
BAD_ENCODERS: dict[str, tuple[str, Callable[[dict[str, np.ndarray]], object], str]] = {
    "no words": ("bert", lambda t: t.pop("embeddings.word_embeddings.weight"), "word_embeddings.weight' is missing"),
    "no bias": ("bert", lambda t: t.pop("encoder.layer.0.attention.self.key.bias"), "self.key.bias' is missing"),
    "no norm": ("bert", lambda t: t.pop("embeddings.LayerNorm.weight"), "LayerNorm.weight' is missing"),
    "a narrow matrix": ("bert", reshape(_UP, 100, 63), "intermediate.dense.weight: shape (100, 63)"),
    "a matrix with one dimension": ("bert", reshape(_UP, 6400), "intermediate.dense.weight: shape (6400,)"),
    "few positions": ("bert", reshape("embeddings.position_embeddings.weight", 64, 64), "shape (64, 64)"),
    "words with one dimension": ("bert", reshape("embeddings.word_embeddings.weight", 203), "shape (203,)"),
    "few words": ("bert", reshape("embeddings.word_embeddings.weight", 100, 64), "the tokenizer has 203 tokens"),
    "NaN in a norm": ("bert", lambda t: t["embeddings.LayerNorm.bias"].fill(np.nan), "holds NaN or infinity"),
    "infinity in a rotated matrix": ("bert-rotated", lambda t: t[_UP].fill(np.inf), "holds NaN or infinity"),
    "values too large to scale": ("bert-rotated", lambda t: t[_UP].fill(3e38), "holds NaN or infinity"),
    "a classifier without a pooler": ("nli", lambda t: t.pop("bert.pooler.dense.weight"), "pooler.dense.weight"),
    "a classifier without labels": ("nli", lambda t: t.pop("classifier.weight"), "classifier.weight' is missing"),
    "labels beyond their names": ("nli", reshape("classifier.weight", 4, 96), "the classifier has 4 labels"),
    "a bias for other labels": ("nli", reshape("classifier.bias", 2), "classifier.bias: shape (2,)"),
}


@pytest.mark.parametrize("case", BAD_ENCODERS)
def test_an_encoder_whose_tensors_do_not_fit_is_refused_with_the_tensor(case: str, tmp_path: Path) -> None:
    name, change, says = BAD_ENCODERS[case]
    with pytest.raises(ModelFileError) as caught:
        load_model(encoder_folder(tmp_path, name, change))
    assert says in caught.value.message
    assert str(tmp_path) in caught.value.message


@pytest.mark.parametrize("name", ["bert", "nli"])
def test_the_same_encoders_are_read_while_they_are_whole(name: str, tmp_path: Path) -> None:
    model = load_model(encoder_folder(tmp_path, name, lambda tensors: None))
    assert model.plan.is_whole and len(model.labels) == tiny_encoders.num_labels(name)
