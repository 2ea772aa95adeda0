"""Adapter files that cannot be used are refused by file, field or tensor, value and remedy."""

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.oracle import tiny_adapters
from tests.oracle.assembly import assemble
from tests.oracle.test_adapters import native_program
from tests.oracle.tiny_adapters import make, peft_config, peft_tensors, write_gguf_lora, write_peft
from tests.oracle.tiny_files import write_folder, write_gguf

from headrace.adapters.load import LoadedAdapter, load_adapter, open_adapter, place_layers, read_factors, reordered
from headrace.adapters.plan import Heads, targets
from headrace.adapters.program import AdaptableProgram
from headrace.core.errors import ModelFileError, Unavailable
from headrace.kernels.plan import RopeStyle
from headrace.models.gguf import GgufFile
from headrace.models.safetensors import SafetensorsFolder

LAYER = "base_model.model.model.layers.1"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> AdaptableProgram:
    folder = write_folder("llama", tmp_path_factory.mktemp("base"))
    return native_program(assemble(SafetensorsFolder(folder)))


def load(path: Path, program: AdaptableProgram) -> LoadedAdapter:
    return load_adapter(path, program, name="it", architecture="llama")


def write(folder: Path, fields: dict[str, object], tensors: dict[str, np.ndarray] | None = None) -> Path:
    adapter = make("llama", "it")
    write_peft(adapter, folder)
    (folder / "adapter_config.json").write_text(json.dumps(peft_config(adapter) | fields))
    save_file(peft_tensors(adapter) | (tensors or {}), folder / "adapter_model.safetensors")
    return folder


def test_a_loaded_adapter_says_what_it_is_and_its_digest_follows_its_bytes(
    program: AdaptableProgram, tmp_path: Path
) -> None:
    adapter = load(write_peft(make("llama", "it", ranks=(("k_proj", 9),)), tmp_path / "one"), program)
    again = load(write_peft(make("llama", "it", ranks=(("k_proj", 9),)), tmp_path / "two"), program)
    other = load(write_peft(make("llama", "it"), tmp_path / "three"), program)
    assert (adapter.name, adapter.rank, adapter.num_layers) == ("it", 9, 14)
    assert adapter.digest == again.digest != other.digest
    assert adapter.digest.startswith("sha256:")
    assert adapter.num_bytes > sum(a.size + b.size for a, b in make("llama", "it").factors.values())
    changed = write(tmp_path / "one", {"lora_alpha": 3})
    assert load(changed, program).digest != other.digest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "IA3"}, r"peft_type = 'IA3'.*'LORA'"),
        ({"peft_type": None}, "peft_type is missing"),
        ({"task_type": "SEQ_CLS"}, "task_type = 'SEQ_CLS'"),
        ({"use_dora": True}, "use_dora = True: not supported"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\]"),
        ({"target_modules": ["q_proj", "lm_head"]}, "target_modules.*lm_head is not supported"),
        ({"target_modules": ["model.embed_tokens"]}, "target_modules.*embed_tokens is not supported"),
        ({"init_lora_weights": "pissa_niter_16"}, "init_lora_weights = 'pissa_niter_16'"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out = True"),
        ({"layer_replication": [[0, 4]]}, "layer_replication"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens"),
        ({"something_new": 7}, "something_new = 7: not supported"),
        ({"r": 257}, r"r = 257: must be within \[1, 256\]"),
        ({"r": True}, "r = True: a whole number"),
        ({"r": 5}, "rank_pattern.* says 5; save the adapter again"),
        ({"lora_alpha": 1e999}, "lora_alpha = inf: must be finite"),
        ({"lora_alpha": 1e300}, "q_proj.lora_A.*holds factors whose product is too large"),
        ({"rank_pattern": {"(q|k)_proj": 4}}, "is a regular expression"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": 0}}, "q_proj = 0"),
    ],
)
def test_a_peft_config_that_asks_for_something_else_is_refused_by_field_and_value(
    program: AdaptableProgram, tmp_path: Path, fields: dict[str, object], message: str
) -> None:
    path = write(tmp_path / "adapter", fields)
    with pytest.raises(ModelFileError, match=message) as refused:
        load(path, program)
    assert str(path) in refused.value.message


def test_patterns_set_rank_and_alpha_of_the_modules_that_they_name(program: AdaptableProgram, tmp_path: Path) -> None:
    path = write(tmp_path / "adapter", {"alpha_pattern": {"layers.0.mlp.up_proj": 2.0, r"^model\.layers\.1": 9.0}})
    layers = open_adapter(path).layers
    assert layers[0, "up"].scale == 0.5
    assert layers[1, "up"].scale == layers[0, "gate"].scale == 2.0


def bad(values: float) -> np.ndarray:
    return np.full((64, 4), values, np.float32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{LAYER}.self_attn.o_proj.lora_B.weight": bad(np.nan)}, r"layers.1.self_attn.o_proj.*NaN or infinity"),
        ({f"{LAYER}.self_attn.o_proj.lora_B.weight": np.zeros((4, 64), np.float32)}, r"have shapes \(4, 64\) and \(4,"),
        ({f"{LAYER}.self_attn.o_proj.lora_B.weight": np.zeros((63, 4), np.float32)}, "64 inputs and 63 outputs"),
        ({f"{LAYER}.self_attn.o_proj.lora_A.weight": np.zeros(64, np.float32)}, "says 4"),
        ({"base_model.model.lm_head.lora_A.weight": bad(0)}, "lm_head.lora_A.weight' is not supported"),
        ({f"{LAYER}.self_attn.q_proj.lora_magnitude_vector": bad(0)}, "lora_magnitude_vector' is not supported"),
        ({f"{LAYER}.self_attn.q_proj.bias": bad(0)}, "q_proj.bias' is not supported"),
        ({f"{LAYER.replace('.1', '.01')}.self_attn.q_proj.lora_A.weight": bad(0)}, "layers.01.*is not supported"),
        ({f"{LAYER.replace('.1', '.7')}.self_attn.q_proj.lora_A.weight": bad(0)}, "stands alone"),
        (
            {f"{LAYER.replace('.1', '.7')}.mlp.up_proj.lora_{side}.weight": bad(0)[:4, :4] for side in "AB"},
            "layer 7, which the model does not have",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(
    program: AdaptableProgram, tmp_path: Path, tensors: dict[str, np.ndarray], message: str
) -> None:
    path = write(tmp_path / "adapter", {}, tensors)
    with pytest.raises(ModelFileError, match=message) as refused:
        load(path, program)
    assert str(path) in refused.value.message


def without_weights(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")


def without_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def cut_short(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def of_json_gone_wrong(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("[" * 100_000)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_weights, r"holds no adapter_model.safetensors; save the adapter as safetensors \(not as .bin\)"),
        (without_config, "holds no adapter_config.json"),
        (cut_short, "pass the file's end"),
        (of_json_gone_wrong, "adapter_config.json: .* is not valid JSON"),
    ],
)
def test_a_folder_that_is_incomplete_or_damaged_is_refused(
    program: AdaptableProgram, tmp_path: Path, spoil: Callable[[Path], None], message: str
) -> None:
    path = write_peft(make("llama", "it"), tmp_path / "adapter")
    spoil(path)
    with pytest.raises(ModelFileError, match=message):
        load(path, program)


def test_its_memory_is_told_to_the_byte_before_it_is_read(program: AdaptableProgram, tmp_path: Path) -> None:
    told: list[int] = []
    path = write_peft(make("llama", "it", ranks=(("k_proj", 9), ("up_proj", 33))), tmp_path / "adapter")
    adapter = load_adapter(path, program, name="it", architecture="llama", reserve=told.append)
    assert told == [adapter.num_bytes]

    def refuse(num_bytes: int) -> None:
        raise Unavailable("no room")

    path = write(tmp_path / "other", {}, {f"{LAYER}.self_attn.o_proj.lora_B.weight": bad(np.nan)})
    with pytest.raises(Unavailable, match="no room"):
        load_adapter(path, program, name="it", architecture="llama", reserve=refuse)


@pytest.mark.parametrize("form", ["peft", "gguf"])
def test_fused_layers_take_the_memory_of_their_halves(tmp_path: Path, form: str) -> None:
    phi = native_program(assemble(SafetensorsFolder(write_folder("phi3", tmp_path))))
    adapter = make("phi3", "it", 9)
    path = write_peft(adapter, tmp_path / "it") if form == "peft" else write_gguf_lora(adapter, tmp_path / "it.gguf")
    told: list[int] = []
    loaded = load_adapter(path, phi, name="it", architecture="phi3", reserve=told.append)
    assert (told, loaded.num_layers) == ([loaded.num_bytes], 8)


def test_fused_layers_of_a_model_that_has_them_apart_are_refused(program: AdaptableProgram, tmp_path: Path) -> None:
    path = write_peft(make("phi3", "it"), tmp_path / "phi")
    with pytest.raises(ModelFileError, match=r"changes '(qkv|gate_up)' of layer 0, which the model does not have"):
        load(path, program)
    other = write_gguf_lora(make("phi3", "it"), tmp_path / "phi.gguf")
    with pytest.raises(ModelFileError, match=r"general\.architecture = 'phi3', but the model is llama"):
        load(other, program)


def gguf_lora(path: Path, **strings: str) -> Path:
    writer = gguf.GGUFWriter(path, strings.pop("architecture", "llama"))
    for key, value in ({"general_type": "adapter", "adapter_type": "lora"} | strings).items():
        writer.add_string(key.replace("_", ".", 1), value)
    writer.add_float32("adapter.lora.alpha", float(strings.get("alpha", "8")))
    name = strings.get("tensor_name", "blk.0.ffn_up.weight")
    writer.add_tensor(f"{name}.lora_a", np.ones((4, 64), np.float32))
    writer.add_tensor(f"{name}.lora_b", np.ones((100, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("strings", "message"),
    [
        ({"general_type": "model"}, "general.type = 'model': an adapter is needed"),
        ({"adapter_type": "control-vector"}, "adapter.type = 'control-vector': only lora"),
        ({"architecture": "qwen3"}, "general.architecture = 'qwen3', but the model is llama"),
        ({"tensor_name": "token_embd.weight"}, "token_embd.weight.lora_a' is not supported"),
        ({"tensor_name": "output.weight"}, "output.weight.lora_a' is not supported"),
        ({"tensor_name": "blk.0.attn_q.weight"}, "64 inputs and 100 outputs, but the model's has 64 and 64"),
        ({"tensor_name": "blk.9.ffn_up.weight"}, "layer 9, which the model does not have"),
    ],
)
def test_gguf_files_that_are_no_adapter_of_this_model_are_refused(
    program: AdaptableProgram, tmp_path: Path, strings: dict[str, str], message: str
) -> None:
    path = gguf_lora(tmp_path / "adapter.gguf", **strings)
    with pytest.raises(ModelFileError, match=message) as refused:
        load(path, program)
    assert str(path) in refused.value.message


def test_a_gguf_file_without_an_alpha_of_its_own_is_not_scaled(tmp_path: Path) -> None:
    assert open_adapter(gguf_lora(tmp_path / "a.gguf", alpha="0")).layers[0, "up"].scale == 1.0
    assert open_adapter(gguf_lora(tmp_path / "b.gguf", alpha="6")).layers[0, "up"].scale == 1.5


def test_the_two_forms_of_one_adapter_are_the_same_numbers_in_either_base(tmp_path: Path) -> None:
    adapter = make("llama", "it", modules=tiny_adapters.LINEAR[:2])
    paths = write_peft(adapter, tmp_path / "peft"), write_gguf_lora(adapter, tmp_path / "adapter.gguf")
    bases = SafetensorsFolder(write_folder("llama", tmp_path)), GgufFile(write_gguf("llama", tmp_path / "model.gguf"))
    for base in bases:
        places = targets(assemble(base).plan)
        first, second = (read_factors(file, place_layers(file, places, "llama")) for file in map(open_adapter, paths))
        for index, low_rank in first.items():
            for one, other in zip(low_rank.parts, second[index].parts, strict=True):
                assert np.array_equal(one.codes, other.codes)


def test_rows_are_reordered_within_heads_and_only_where_all_features_are_rotated() -> None:
    b = np.arange(16, dtype=np.float32).reshape(16, 1)
    side_by_side = reordered(b, Heads(RopeStyle.ADJACENT, 8, 8))
    assert side_by_side[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]
    assert np.array_equal(reordered(side_by_side, Heads(RopeStyle.HALVES, 8, 8)), b)
    with pytest.raises(ModelFileError, match="only 4 of 8 features"):
        reordered(b, Heads(RopeStyle.ADJACENT, 8, 4))
