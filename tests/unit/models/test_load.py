"""From a path to a program: the same weights cold and warm, and clear refusals on the way."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from safetensors.numpy import save_file
from tests.gguf_files import TinyLlama, byte_alphabet, write_small_file, write_tiny_llama

from headrace.core.errors import ModelFileError
from headrace.core.request import Message, Role, Task, TextPart, Tool
from headrace.kernels import native, reference, reference_pages
from headrace.kernels.grouped import unpack
from headrace.kernels.plan import MatrixSpec, VectorSpec
from headrace.models import gguf as gguf_reader
from headrace.models.family import ROLES
from headrace.models.gguf import GgufFile
from headrace.models.load import (
    Reading,
    bind,
    damaged_matrices,
    fingerprint,
    load_model,
    open_checkpoint,
    read_matrix,
    read_vector,
)
from headrace.models.packed import Extra, PackKey, open_or_build, packed_matrix
from headrace.models.registry import architecture_for
from headrace.models.safetensors import SafetensorsFolder

TEMPLATE = "{% for message in messages %}{{ message['content'] }}<|end|>{% endfor %}"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "tiny.gguf", template=TEMPLATE)


@pytest.fixture
def checkpoint(tiny: Path) -> GgufFile:
    return GgufFile(tiny)


def logits_of(program: native.Program, plan_vocab: int, cache: tuple[int, int, int]) -> np.ndarray:
    tokens = np.arange(5, dtype=np.int32)
    pool = np.zeros((1, cache[0], cache[1], 2, cache[2] * 32), dtype=np.uint16)
    logits = np.empty((1, plan_vocab), dtype=np.float32)
    threads = native.Threads(1)
    try:
        program.step(
            threads,
            pool,
            tokens,
            np.array([0, 5], dtype=np.int32),
            np.zeros(1, dtype=np.int32),
            np.zeros((1, 1), dtype=np.int32),
            np.array([4], dtype=np.int32),
            logits,
        )
    finally:
        threads.close()
    return logits


def test_a_second_start_uses_the_pack_and_answers_the_same(tiny: Path, tmp_path: Path) -> None:
    cold, warm, bare = (
        load_model(tiny, cache_dir=tmp_path / "cache"),
        load_model(tiny, cache_dir=tmp_path / "cache"),
        load_model(tiny),
    )
    assert (cold.is_from_cache, warm.is_from_cache, bare.is_from_cache) == (False, True, False)
    results = []
    for model in (cold, warm, bare):
        assert (model.name, model.architecture, model.context_length) == ("tiny", "llama", 128)
        assert model.digest == GgufFile(tiny).digest()
        assert model.weights_bytes == cold.weights_bytes > 0
        assert model.created == int(tiny.stat().st_mtime)
        assert model.tokenizer.encode("the") == cold.tokenizer.encode("the")
        assert model.template is not None
        assert model.facts == cold.facts
        assert model.facts["tokenizer"].startswith("sha256:")
        assert model.facts["weights"] in {"4 bits", "8 bits", "4 bits and 8 bits"}
        results.append(logits_of(model.program, model.plan.vocab_size, (2, 1, 32)))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_what_was_read_is_kept_for_files_that_stay_as_they_are_and_for_no_others(tiny: Path, tmp_path: Path) -> None:
    kept: dict[Path, Reading] = {}
    cache = tmp_path / "cache"
    first = load_model(tiny, cache_dir=cache, readings=kept)
    again = load_model(tiny, cache_dir=cache, readings=kept, touches=True)
    assert again.tokenizer is first.tokenizer and again.plan is first.plan and again.is_from_cache
    shape = (2, 1, 32)
    expected = logits_of(first.program, first.plan.vocab_size, shape)
    assert np.array_equal(logits_of(again.program, again.plan.vocab_size, shape), expected)
    for pack in cache.glob("*.pack"):
        pack.unlink()
    packed = load_model(tiny, cache_dir=cache, readings=kept)
    assert np.array_equal(logits_of(packed.program, packed.plan.vocab_size, shape), expected)
    write_tiny_llama(tiny, TinyLlama(seed=1))
    other = load_model(tiny, cache_dir=cache, readings=kept)
    assert other.digest != first.digest
    assert not np.array_equal(logits_of(other.program, other.plan.vocab_size, shape), expected)


def test_a_warm_start_reads_no_weights_of_the_source(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_model(tiny, cache_dir=tmp_path / "cache")

    def refuse(*_: object) -> None:
        raise AssertionError("a warm start read a tensor or hashed the file")

    monkeypatch.setattr(gguf_reader, "to_grouped", refuse)
    monkeypatch.setattr(gguf_reader, "dequantize", refuse)
    monkeypatch.setattr("hashlib.file_digest", refuse)
    assert load_model(tiny, cache_dir=tmp_path / "cache").is_from_cache


def test_the_bound_program_computes_what_the_reference_computes(tiny: Path) -> None:
    model, checkpoint = load_model(tiny), GgufFile(tiny)
    architecture = architecture_for(checkpoint)
    computed = architecture.computed_vectors(architecture.read_config(checkpoint, None))
    matrices = [read_matrix(spec, checkpoint) for spec in model.plan.matrices]
    vectors = [read_vector(v, checkpoint) if v.parts else computed[v.name] for v in model.plan.vectors]
    program = bind(model.plan, [packed_matrix("", matrix) for matrix in matrices], vectors)
    slow = reference.ReferenceProgram(model.plan, matrices, vectors)
    wanted = slow.step(
        reference_pages.new_pool(model.plan.cache, 1),
        np.arange(5, dtype=np.int32),
        np.array([0, 5], dtype=np.int32),
        np.zeros(1, dtype=np.int32),
        np.zeros((1, 1), dtype=np.int32),
        np.array([4], dtype=np.int32),
    )
    loaded = logits_of(model.program, model.plan.vocab_size, (2, 1, 32))
    assert np.array_equal(loaded, logits_of(program, model.plan.vocab_size, (2, 1, 32)))
    assert np.abs(loaded - wanted).max() < 0.02 * np.abs(wanted).max()


def test_a_shorter_context_shares_the_pack(tiny: Path, tmp_path: Path) -> None:
    load_model(tiny, cache_dir=tmp_path / "cache")
    short = load_model(tiny, name="mine", cache_dir=tmp_path / "cache", max_context=64)
    assert (short.name, short.context_length, short.is_from_cache) == ("mine", 64, True)


def test_another_plan_has_another_fingerprint(tiny: Path) -> None:
    plan = load_model(tiny).plan
    first, *rest = plan.matrices
    other = replace(plan, matrices=(replace(first, layout="interleave"), *rest))
    assert fingerprint(plan) == fingerprint(load_model(tiny).plan) != fingerprint(other)


def test_weights_that_changed_on_disk_are_found_and_packed_again(tiny: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert damaged_matrices(tiny, cache) is None
    assert not cache.exists()
    load_model(tiny, cache_dir=cache)
    assert damaged_matrices(tiny, cache) == []
    (pack,) = cache.glob("*.pack")
    data = bytearray(pack.read_bytes())
    # The matrices lie behind the tokenizer and the vectors and before the index.
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    (name,) = damaged_matrices(tiny, cache) or []
    assert name
    assert damaged_matrices(tiny, cache) is None
    assert not load_model(tiny, cache_dir=cache).is_from_cache


def test_a_pack_whose_tokenizer_is_of_another_version_is_built_again(tiny: Path, tmp_path: Path) -> None:
    model = load_model(tiny)
    key = PackKey(model.digest, fingerprint(model.plan))
    open_or_build(tmp_path / "cache", key, lambda: [Extra("tokenizer", b"of another version")])
    assert not load_model(tiny, cache_dir=tmp_path / "cache").is_from_cache
    assert load_model(tiny, cache_dir=tmp_path / "cache").is_from_cache


def test_a_cache_that_cannot_be_written_costs_time_and_not_the_start(
    tiny: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert not load_model(tiny, cache_dir=tmp_path / "file").is_from_cache
    assert "cannot be stored" in caplog.text


def test_parts_are_stacked_in_their_order(checkpoint: GgufFile) -> None:
    parts = tuple(f"blk.0.attn_{letter}.weight" for letter in "qkv")
    matrix = read_matrix(MatrixSpec(0, "qkv", 128, 64, parts), checkpoint)
    assert np.array_equal(matrix.dequantize(), np.concatenate([checkpoint.vector(part) for part in parts]))


def test_gate_and_up_alternate_by_32_rows(checkpoint: GgufFile) -> None:
    parts = ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight")
    matrix = read_matrix(MatrixSpec(0, "both", 192, 64, parts, "interleave"), checkpoint)
    pairs = matrix.dequantize().reshape(3, 2, 32, 64)
    for index, part in enumerate(parts):
        assert np.array_equal(pairs[:, index].reshape(96, 64), checkpoint.vector(part))


BAD_MATRICES = {
    "too many columns": (MatrixSpec(0, "m", 64, 96, ("blk.0.attn_q.weight",)), r"shape \(64, 64\), but 'm' needs rows"),
    "too many rows": (MatrixSpec(0, "m", 65, 64, ("blk.0.attn_q.weight",)), "needs 65 rows"),
    "a vector": (MatrixSpec(0, "m", 1, 64, ("output_norm.weight",)), r"has shape \(64,\)"),
    "missing": (MatrixSpec(0, "m", 64, 64, ("blk.9.attn_q.weight",)), "'blk.9.attn_q.weight' is missing"),
    "unequal pair": (
        MatrixSpec(0, "m", 96, 64, ("blk.0.attn_q.weight", "blk.0.attn_k.weight"), "interleave"),
        "needs 96 rows",
    ),
}


@pytest.mark.parametrize("case", BAD_MATRICES)
def test_tensors_that_do_not_fit_the_plan_are_named(case: str, checkpoint: GgufFile) -> None:
    spec, says = BAD_MATRICES[case]
    with pytest.raises(ModelFileError, match=says):
        read_matrix(spec, checkpoint)


def test_vectors_are_joined_and_checked(checkpoint: GgufFile) -> None:
    parts = ("blk.0.attn_norm.weight", "blk.0.ffn_norm.weight")
    joined = read_vector(VectorSpec(0, "v", (128,), parts), checkpoint)
    assert np.array_equal(joined, np.concatenate([checkpoint.vector(part) for part in parts]))
    with pytest.raises(ModelFileError, match="'v' needs"):
        read_vector(VectorSpec(0, "v", (127,), parts), checkpoint)


def test_what_a_format_leaves_off_is_added_to_a_stored_vector(checkpoint: GgufFile) -> None:
    parts = ("blk.0.attn_norm.weight",)
    plain = read_vector(VectorSpec(0, "v", (64,), parts), checkpoint)
    more = read_vector(VectorSpec(0, "v", (64,), parts, offset=1.0), checkpoint)
    assert np.array_equal(more, plain + np.float32(1.0))


def test_a_missing_tensor_stops_the_start_by_name(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "holes.gguf", drop="blk.1.ffn_down.weight")
    with pytest.raises(ModelFileError, match=r"holes\.gguf.*blk\.1\.ffn_down\.weight"):
        load_model(path, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*.pack*"))


def test_an_unknown_architecture_is_refused_with_the_file(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "odd.gguf", architecture="mamba")
    with pytest.raises(ModelFileError, match=r"odd\.gguf: .*mamba"):
        load_model(path)


def test_a_tokenizer_larger_than_the_model_is_refused(tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "short.gguf", TinyLlama(vocab=200))
    with pytest.raises(ModelFileError, match="tokenizer has 257 tokens and the model only 200"):
        load_model(path)


def test_a_model_without_a_template_is_loaded_without_chat(tmp_path: Path) -> None:
    assert load_model(write_tiny_llama(tmp_path / "base.gguf")).template is None


def test_a_path_is_opened_by_what_it_is(tmp_path: Path) -> None:
    small = write_small_file(tmp_path / "small.gguf")
    assert isinstance(open_checkpoint(small), GgufFile)
    assert isinstance(open_checkpoint(tmp_path), GgufFile)
    with pytest.raises(ModelFileError, match="cannot be opened"):
        open_checkpoint(tmp_path / "absent.gguf")
    with pytest.raises(ModelFileError, match="no such file"):
        open_checkpoint(tmp_path / "absent.safetensors")
    write_small_file(tmp_path / "second.gguf")
    with pytest.raises(ModelFileError, match=r"2 \.gguf files"):
        open_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match=r"no \.safetensors file"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    assert isinstance(open_checkpoint(tmp_path), SafetensorsFolder)


def test_the_shipped_model_keeps_its_codes_exactly(smollm2_path: Path) -> None:
    model = load_model(smollm2_path)
    checkpoint = GgufFile(smollm2_path)
    assert (model.architecture, model.context_length, model.plan.vocab_size) == ("llama", 8192, 49152)
    for spec in model.plan.matrices[1:5]:
        matrix = read_matrix(spec, checkpoint)
        assert (matrix.bits, matrix.minimum is not None) == (4, True)
        packed = packed_matrix(spec.name, matrix)
        back = unpack(packed.tiles, packed.rows, packed.cols, packed.bits, has_minimum=packed.has_minimum)
        if len(spec.parts) == 1:
            assert np.array_equal(back.dequantize(), checkpoint.vector(spec.parts[0]))


def write_checkpoint_folder(folder: Path, source: GgufFile, **tokenizer_config: object) -> Path:
    """The tiny model once more, as a safetensors folder in float32."""
    names = {role: name for role, name in ROLES["gguf"].items() if "bias" not in role}
    tensors = {}
    for role, name in names.items():
        for layer in range(2 if "{}" in name else 1):
            if (stored := name.format(layer)) in source:
                tensors[ROLES["safetensors"][role].format(layer)] = source.vector(stored)
    save_file(tensors, folder / "model.safetensors")
    config = {
        "model_type": "llama", "hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 260,
        "num_hidden_layers": 2, "intermediate_size": 96, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    vocabulary = {text: index for index, text in enumerate(byte_alphabet())}
    library = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, []))
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    library.add_special_tokens(["<|end|>"])
    library.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|end|>"} | tokenizer_config))
    return folder


@pytest.fixture
def folder(tmp_path: Path, checkpoint: GgufFile) -> Path:
    path = tmp_path / "checkpoint"
    path.mkdir()
    return write_checkpoint_folder(path, checkpoint, chat_template="{{ eos_token }}")


def test_a_safetensors_folder_is_loaded_cold_and_warm(folder: Path, tmp_path: Path) -> None:
    cold, warm = (load_model(folder, cache_dir=tmp_path / "cache") for _ in range(2))
    assert (cold.is_from_cache, warm.is_from_cache, warm.name) == (False, True, "checkpoint")
    assert warm.tokenizer.encode("hi") == cold.tokenizer.encode("hi") != []
    results = [logits_of(model.program, 260, (2, 1, 32)) for model in (cold, warm)]
    assert np.array_equal(*results)


def changed(folder: Path, **changes: object) -> Path:
    """The folder with other values in its config.json."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def test_one_pack_serves_a_context_that_takes_the_other_of_two_ropes(folder: Path, tmp_path: Path) -> None:
    stretch = {"rope_type": "longrope", "short_factor": [1.0] * 16, "long_factor": [8.0] * 16}
    changed(folder, rope_scaling=stretch, original_max_position_embeddings=64)
    long = load_model(folder, cache_dir=tmp_path / "cache")
    short = load_model(folder, cache_dir=tmp_path / "cache", max_context=64)
    assert (long.is_from_cache, short.is_from_cache) == (False, True)
    results = [
        logits_of(model.program, 260, (2, 1, 32))
        for model in (long, short, load_model(folder), load_model(folder, max_context=64))
    ]
    assert np.array_equal(results[0], results[2]) and np.array_equal(results[1], results[3])
    assert not np.array_equal(results[0], results[1])


@pytest.mark.parametrize("changes", [{"architectures": ["LlamaModel"]}, {"is_causal": False}])
def test_a_decoder_that_is_made_to_be_embedded_with_is_offered_for_nothing_else(
    folder: Path, changes: dict[str, object]
) -> None:
    model = load_model(changed(folder, **changes))
    assert model.tasks == {Task.COUNT, Task.EMBED}
    assert model.plan.buffers[model.plan.output].width == 64
    assert model.pooled() == (model.plan, model.program)
    assert model.plan.is_whole is (changes.get("is_causal") is False)
    assert load_model(changed(folder, architectures=["LlamaForCausalLM"], is_causal=True)).tasks > model.tasks


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json"])
def test_a_folder_whose_small_files_change_is_packed_anew(file: str, folder: Path, tmp_path: Path) -> None:
    load_model(folder, cache_dir=tmp_path / "cache")
    path = folder / file
    path.write_text(path.read_text() + " ")
    assert not load_model(folder, cache_dir=tmp_path / "cache").is_from_cache


def rendered(folder: Path) -> str:
    template = load_model(folder).template
    assert template is not None
    return template.render([{"role": "user", "content": "hi"}])


def test_a_folders_template_is_its_own_file_else_the_configs_else_the_default_of_several(
    folder: Path, checkpoint: GgufFile
) -> None:
    assert rendered(folder) == "<|end|>"
    several = [{"name": "tools", "template": "no"}, {"name": "default", "template": "default"}]
    write_checkpoint_folder(folder, checkpoint, chat_template=several, eos_token={"content": "<|end|>"})
    assert rendered(folder) == "default"
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}{{ eos_token }}")
    assert rendered(folder) == "hi<|end|>"


def test_a_folder_may_have_a_template_of_its_own_for_tools(folder: Path, checkpoint: GgufFile) -> None:
    def encoded(*tools: Tool) -> str:
        model = load_model(folder)
        assert model.template is not None
        ids = model.template.encode_chat(model.tokenizer, [Message(Role.USER, (TextPart("hi"),))], tools)
        return b"".join(map(model.tokenizer.token_bytes, ids)).decode()

    several = [{"name": "tool_use", "template": "{{ tools[0].function.name }}"}, {"name": "default", "template": "no"}]
    write_checkpoint_folder(folder, checkpoint, chat_template=several, eos_token={"content": "<|end|>"})
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    assert (encoded(), encoded(Tool("f"))) == ("no", "f")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("own {{ tools[0].function.name }}")
    assert (encoded(), encoded(Tool("f"))) == ("no", "own f")
    write_checkpoint_folder(folder, checkpoint, chat_template=[*several[1:], {"name": "tool_use", "template": 1}])
    (folder / "additional_chat_templates" / "tool_use.jinja").unlink()
    with pytest.raises(ModelFileError, match="chat template: int instead of text"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"\xff", b"{{ 1", b"x" * 2_000_000])
def test_a_template_that_cannot_be_used_stops_the_start(content: bytes, folder: Path) -> None:
    (folder / "chat_template.jinja").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"chat.template"):
        load_model(folder)
