"""Our tokens equal llama.cpp's, recorded by scripts/record_tokenizer.py, for every pre-tokenizer and for SentencePiece.

The vocabularies in the vectors are tiny and their merges cross words, so that a difference in cutting shows at once.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from headrace.models.gguf import GgufFile
from headrace.models.tokenizer import Tokenizer


def read_vectors(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(gzip.decompress((Path(__file__).parent / "vectors" / name).read_bytes()))
    return values


VECTORS = read_vectors("tokenizer_llama_cpp.json.gz")
GEMMA3 = read_vectors("tokenizer_gemma3.json.gz")


def metadata(name: str) -> dict[str, Any]:
    own = VECTORS["vocabularies"][name if name in VECTORS["vocabularies"] else "spm" if "spm" in name else "byte_level"]
    values: dict[str, Any] = {"tokens": own["tokens"], "token_type": own["types"]}
    if "spm" in name:
        values |= {"model": "llama", "scores": own["scores"], "bos_token_id": 1, "eos_token_id": 2}
        values |= {"add_space_prefix": False} if name == "spm-bare" else {}
    else:
        values |= {"model": "gpt2", "pre": name, "merges": own["merges"]}
    return {f"tokenizer.ggml.{key}": value for key, value in values.items()}


def differences(
    tokenizer: Tokenizer, expected: dict[str, list[list[int]]], texts: list[str] = VECTORS["texts"]
) -> list[tuple[str, str, list[int], list[int]]]:
    found = []
    for kind, special in (("plain", False), ("special", True)):
        for text, ids in zip(texts, expected[kind], strict=True):
            ours = tokenizer.encode(text, special=special)
            if ours != ids:
                found.append((kind, text, ours, ids))
    return found


@pytest.mark.parametrize("name", sorted(VECTORS["cases"]))
def test_tokens_equal_llama_cpps(name: str) -> None:
    tokenizer = Tokenizer.from_gguf(metadata(name))

    assert differences(tokenizer, VECTORS["cases"][name]) == []


@pytest.mark.parametrize("name", ["smollm", "llama-bpe", "spm"])
def test_a_tokenizer_read_back_from_its_bytes_gives_the_same_tokens(name: str) -> None:
    tokenizer = Tokenizer.deserialize(Tokenizer.from_gguf(metadata(name)).serialize())

    assert differences(tokenizer, VECTORS["cases"][name]) == []


def test_the_embedded_models_tokens_equal_llama_cpps(smollm2_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(GgufFile(smollm2_path).metadata)

    assert differences(tokenizer, VECTORS["smollm2"]) == []


def test_gemmas_tokens_equal_llama_cpps_but_for_a_tag_that_llama_cpp_takes_for_an_end(gemma3_path: Path) -> None:
    tokenizer = Tokenizer.from_gguf(GgufFile(gemma3_path).metadata)

    # llama.cpp makes every token called </s> a control token. This vocabulary's is the tag of struck-out text, and
    # ordinary to transformers as well.
    different = {(kind, text) for kind, text, _, _ in differences(tokenizer, GEMMA3, GEMMA3["texts"])}
    assert different == {("plain", text) for text in GEMMA3["texts"] if "</s>" in text}
    assert tokenizer.encode("</s>") == tokenizer.encode("</s>", special=True) == [212]
    assert tokenizer.eos_ids == {1, 106} and tokenizer.encode("x", bos=True)[0] == 2


def test_the_bytes_of_gemmas_tokens_are_the_text(gemma3_path: Path) -> None:
    tokenizer = Tokenizer.deserialize(Tokenizer.from_gguf(GgufFile(gemma3_path).metadata).serialize())
    for text in GEMMA3["texts"]:
        joined = b"".join(tokenizer.token_bytes(token) for token in tokenizer.encode(text))
        assert joined == text.replace("▁", " ").encode()


@pytest.mark.parametrize("name", sorted(VECTORS["cases"]))
def test_the_bytes_of_the_tokens_are_the_text(name: str) -> None:
    tokenizer = Tokenizer.from_gguf(metadata(name))
    for text in VECTORS["texts"]:
        joined = b"".join(tokenizer.token_bytes(token) for token in tokenizer.encode(text))
        expected = text.replace("▁", " ") if "spm" in name else text
        if tokenizer.strips_leading_space:
            # Every piece that follows a user-defined token gets the space of a word's start.
            joined, expected = joined.replace(b" ", b""), expected.replace(" ", "")
        assert joined == expected.encode()
