"""Small GGUF files for tests, written by the `gguf` package or, where it refuses to write nonsense, byte by byte."""

import struct
from dataclasses import dataclass
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


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in byte-level vocabularies, in byte order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyLlama:
    """Shape of a random Llama model small enough for any test."""

    layers: int = 2
    hidden: int = 64
    heads: int = 2
    kv_heads: int = 1
    feed_forward: int = 96
    vocab: int = 260
    context: int = 128
    seed: int = 0
    experts: int = 0  # in the place of every dense layer; two of them are used


def write_tiny_llama(path: Path, shape: TinyLlama = TinyLlama(), *, drop: str = "", **metadata: object) -> Path:
    """A complete random model with a byte-level vocabulary; `drop` names a tensor to leave out."""
    writer = gguf.GGUFWriter(path, str(metadata.get("architecture", "llama")))
    writer.add_block_count(shape.layers)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    tokens = [*byte_alphabet(), "<|end|>"]
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(256)
    if "template" in metadata:
        writer.add_chat_template(str(metadata["template"]))
    rng = np.random.default_rng(shape.seed)
    for name, size in tiny_tensors(shape).items():
        if name == drop:
            continue
        values = rng.normal(0, 0.05, size).astype(np.float32)
        if len(size) == 1:
            writer.add_tensor(name, 1 + values)
        else:
            blocks = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q4_1)
            writer.add_tensor(name, blocks, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def tiny_tensors(shape: TinyLlama) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a tied Llama model's tensors."""
    kv = shape.hidden // shape.heads * shape.kv_heads
    found: dict[str, tuple[int, ...]] = {"token_embd.weight": (shape.vocab, shape.hidden)}
    for layer in range(shape.layers):
        found |= {
            f"blk.{layer}.attn_norm.weight": (shape.hidden,),
            f"blk.{layer}.attn_q.weight": (shape.hidden, shape.hidden),
            f"blk.{layer}.attn_k.weight": (kv, shape.hidden),
            f"blk.{layer}.attn_v.weight": (kv, shape.hidden),
            f"blk.{layer}.attn_output.weight": (shape.hidden, shape.hidden),
            f"blk.{layer}.ffn_norm.weight": (shape.hidden,),
        }
        stack, end = ((shape.experts,), "_exps") if shape.experts else ((), "")
        found |= {
            f"blk.{layer}.ffn_gate{end}.weight": (*stack, shape.feed_forward, shape.hidden),
            f"blk.{layer}.ffn_up{end}.weight": (*stack, shape.feed_forward, shape.hidden),
            f"blk.{layer}.ffn_down{end}.weight": (*stack, shape.hidden, shape.feed_forward),
        }
        if shape.experts:
            found[f"blk.{layer}.ffn_gate_inp.weight"] = (shape.experts, shape.hidden)
    return found | {"output_norm.weight": (shape.hidden,)}
