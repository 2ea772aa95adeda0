"""Which tokens of a vocabulary mark a text that is to be filled in: before what comes first, before what comes last,
and where the middle is to be written.

GGUF files name them by keys; otherwise they are known by how families call them. Control tokens by role only; knows
nothing of how a prompt is put together.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# Before the prefix, before the suffix, before the middle. Qwen and CodeGemma, StarCoder, SantaCoder, CodeLlama,
# DeepSeek, Granite.
_NAMES = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("\u2581<PRE>", "\u2581<SUF>", "\u2581<MID>"),
    ("<PRE>", "<SUF>", "<MID>"),
    ("<\uff5cfim\u2581begin\uff5c>", "<\uff5cfim\u2581hole\uff5c>", "<\uff5cfim\u2581end\uff5c>"),
    ("<|fim_begin|>", "<|fim_hole|>", "<|fim_end|>"),
)
# What such models write where the middle, or the file, is over.
_END_NAMES = frozenset(
    ["<|fim_pad|>", "<fim_pad>", "<fim-pad>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>", "<file_sep>"]
)
_KEYS = (("fim_pre", "fim_suf", "fim_mid"), ("prefix", "suffix", "middle"))
_END_KEYS = ("fim_pad", "fim_rep", "fim_sep")


def find_filling(
    ids: Mapping[str, int], metadata: Mapping[str, Any] | None = None, num_tokens: int = 0
) -> tuple[Sequence[int], Sequence[int]]:
    """The three tokens, none if the vocabulary has no such, and those that end what is filled in.

    `ids` are tokens by text, `metadata` the keys of a GGUF file, whose vocabulary has `num_tokens`.
    """
    marks = next(([ids[name] for name in names] for names in _NAMES if all(name in ids for name in names)), list[int]())
    keyed = {key: (metadata or {}).get(f"tokenizer.ggml.{key}_token_id") for key in (*sum(_KEYS, ()), *_END_KEYS)}
    known = {key: value for key, value in keyed.items() if isinstance(value, int) and 0 <= value < num_tokens}
    marks = next(([known[key] for key in keys] for keys in _KEYS if all(key in known for key in keys)), marks)
    if not marks:
        return [], []
    ends = {ids[name] for name in _END_NAMES if name in ids} | {known[key] for key in _END_KEYS if key in known}
    return marks, sorted({*marks, *ends})
