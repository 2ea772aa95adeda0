"""Records what llama.cpp's tokenizer makes of a corpus, as vectors for tests/oracle/test_tokenizer_vectors.py.

Two steps, because llama-cpp-python lives in its own environment and never in ours:

    .venv/bin/python scripts/record_tokenizer.py make FOLDER
    PEER/bin/python scripts/record_tokenizer.py record FOLDER SMOLLM2.gguf
    PEER/bin/python scripts/record_tokenizer.py gemma3 GEMMA3.gguf

The first trains two tiny vocabularies on the corpus and writes them as GGUF files, one per pre-tokenizer; the merges are
learnt without any pre-tokenizer, so that they cross words and every difference in cutting shows. The second loads each
file, tokenises the corpus with and without special tokens, and writes tests/oracle/vectors/tokenizer_llama_cpp.json.gz.
The third does so for a Gemma 3 file and texts of its own besides, into tokenizer_gemma3.json.gz.
"""

# ruff: noqa: E501, PLC0415, SIM905
# (texts are read as they are, and each step runs in an environment that lacks the other's packages)
import gzip
import json
import sys
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[1] / "tests" / "oracle" / "vectors"
PRE = (
    "gpt-2 phi-2 mpt olmo jais trillion smollm starcoder refact command-r codeshell exaone minerva-7b llama-bpe falcon3"
    " pixtral dbrx smaug-bpe chatglm-bpe qwen2 stablelm2 deepseek-r1-qwen megrez tekken gpt-4o llama4 deepseek-llm"
    " deepseek-coder deepseek-v3 falcon default"
).split()
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
UNMERGED = ["qz", "Ġqz"]  # reached only where a whole word in the vocabulary skips merging
USER_DEFINED = ["<tool_call>", "</tool_call>"]


def corpus() -> list[str]:
    """Texts that tokenizers disagree about."""
    prose = (
        "The quick brown fox jumps over the lazy dog, and I'm sure it'll do it again: we've SEEN it, THEY'RE certain. "
        "DON'T, don't, Don'T; it's 12,345.678 or 1234567890 (3/4, 50%), see https://example.org/a_b?c=d&e=f#g."
    )
    code = (
        'def f(x: int) -> str:\n    if x >= 10**3:\n        return f"{x!r:>10}\\n"\n\treturn None  # why?\n\n\n'
        "int main(void) {\r\n\tfor (int i = 0; i < 10; ++i) { printf(\"%d\\n\", a[i]); }\r\n}\r\n<div class='x'>&amp;</div>\n"
    )
    languages = [
        "Grüße, où es-tu ? Ça va ÉTÉ été Ångström ǅ ß ſ İı ÇALIŞ ΑΒΓ αβγ ς ПРИВЕТ привет Ёё Հայերեն ქართული ᲐᲑ ﬁ ＡＢＣ",
        "你好，世界。今天天气很好！１２３ 一二三 日本語のテキスト、カタカナ・ひらがな 한국어 텍스트입니다 가나다",
        "مرحبا بالعالم، كيف حالك؟ ١٢٣٤ שלום עולם สวัสดีครับ ๑๒๓ नमस्ते दुनिया १२३ বাংলা தமிழ் አማርኛ ខ្មែរ བོད",
        "👋🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ☕️ ❤️‍🔥 1️⃣ ™ © ½ Ⅷ ② ㊿ x² ∑∫√ ≤≥ → €£¥ 𝔘𝔫𝔦 𝟙𝟚𝟛 𐐀𐐨 𓀀",
        "e\u0301 a\u0308o\u0302 n\u0303 Z\u0351\u036b\u0343 \u0301 \u200d \u200b \u00ad \ufeff \u2060 ŏ̈ कि षि",
        "“quotes” ‘single’ — dash – en … ¿qué? ¡sí! «là» 「括弧」 don’t it’s",
    ]
    spaces = [
        "a  b   c    d     e",
        "  lead",
        "trail  ",
        "\n",
        "\n\n",
        " \n \n\n  \n",
        "a\n\n\nb",
        "a \n b",
        "\t\ta\t b \t",
        "\r\n\r\nx",
        " ",
        "   ",
        "a\u00a0b \u00a0 c",
        "\u3000全角\u3000 x",
        "a\u2003\u2003b",
        "a\u2028b\u2029c\u0085d\u000b\u000ce",
        "x\u1680y",
        " \u200b x",
        "!\n\n",
        "?!\r\n/",
        " ...\n//\n",
        "a\n 1\n 22\n 333\n4444\n",
        "end. \n",
        "  \n\n\n\t\tx  ",
        "\n  ",
        "1 2  3   4",
        " 9",
        "\n9",
    ]
    numbers = [
        "0",
        "12",
        "123",
        "1234",
        "12345",
        "123456",
        "1234567",
        "1.5e-10",
        "0xFF",
        "a1b22c333d4444",
        "１２３４",
        "½¼",
        "3rd 2nd",
        "²³",
    ]
    control = [
        "a\u0000b",
        "\u0000",
        "\u0001\u0002\u001b[31mred\u001b[0m\u007f",
        "\u0080\u009f",
        "\ufffd\uffff\ufdd0",
        "\U0010ffff\U000e0001",
    ]
    special = [
        "<|im_start|>user\nhi<|im_end|>\n",
        "<|im_end|>",
        "x<|im_end|>y",
        "<|im_end|><|im_end|>",
        " <|endoftext|> ",
        "<|im_end|",
        "<|im_<|im_end|>",
        "<tool_call>{}</tool_call>",
        "a <tool_call> b",
        "<s>",
        "</s>x",
        "<unk>",
        "a<s>b </s>",
        "<0x0A>",
        "<repo_name>x<file_sep>",
        "<<<<|||>>>>",
    ]
    words = [
        "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'Ve 'LL 'D",
        "I'VE we'Re x'sy",
        "camelCaseWord HTTPServer XMLHttpRequest iPhone ABCdef aBC ÀÉb éÀB Éa ÉÀ",
        "snake_case __init__ a.b.c a-b --flag $HOME ~/x `code` **bold** #!/bin/sh",
        "/usr/local/bin//x /\n/",
        "$$$ +++ === ^^^ ||| ~~~ <<<>>>",
        "a" * 70,
        "ab" * 40,
        "the" * 30,
        "camelCase " * 9,
        "xY" * 30,
        "aÉb " * 9,
        "qz",
        " qz qz,qz qzqz aqz",
        "it'Sx " * 8,
        " " * 90,
        "=" * 80,
        "\n" * 20,
        "aaaAAAaaa111",
        "▁x ▁▁ y▁",
        "Ġx Ċ Âé",
        "?.,!…。",
        "a.b,c!d",
        "x\n#include <a>\n#define B 1",
    ]
    return [
        "a",
        "é",
        prose,
        code,
        *languages,
        *spaces,
        *numbers,
        *control,
        *special,
        *words,
        prose + code + "".join(languages),
    ]


def _without_special() -> list[str]:
    # A token learnt twice, as text and as special token, is an error to llama.cpp.
    texts = corpus() * 2
    for special in (*CONTROL, *USER_DEFINED, UNMERGED[0], "<s>", "</s>", "<unk>", "<0x"):
        texts = [text.replace(special, "") for text in texts]
    return texts


def byte_level_vocabulary() -> dict[str, Any]:
    """About 900 byte-level tokens with merges."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False, initial_alphabet=alphabet, max_token_length=12)
    library.train_from_iterator(_without_special(), trainer)
    model = json.loads(library.to_str())["model"]
    learnt = [*sorted(model["vocab"], key=model["vocab"].get), *UNMERGED]
    tokens = [*learnt, *CONTROL, *USER_DEFINED]
    types = [1] * len(learnt) + [3] * len(CONTROL) + [4] * len(USER_DEFINED)
    return {"tokens": tokens, "types": types, "merges": [" ".join(merge) for merge in model["merges"]]}


def scored_vocabulary(*, crossing: bool) -> dict[str, Any]:
    """A SentencePiece-like vocabulary with many equal scores; `crossing` lets tokens span a word's end."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    library = Tokenizer(models.BPE())
    pattern = r"[\s\S]+" if crossing else "▁*[^▁]+|▁+"
    library.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=800, show_progress=False, limit_alphabet=200, max_token_length=8)
    library.train_from_iterator([text.replace(" ", "▁") for text in _without_special()], trainer)
    model = json.loads(library.to_str())["model"]
    learnt = sorted(model["vocab"], key=model["vocab"].get)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *CONTROL[1:], *USER_DEFINED, *learnt]
    types = [2, 3, 3, *[6] * 256, 3, 3, 4, 4, *[1] * len(learnt)]
    scores = [0.0] * (263) + [-float(i // 3) for i in range(len(learnt))]
    return {"tokens": tokens, "types": types, "scores": scores}


def metadata(vocabularies: dict[str, Any], name: str) -> dict[str, Any]:
    """The GGUF key-values of one case: a pre-tokenizer's name, or spm, spm-crossing, spm-bare."""
    prefix = "tokenizer.ggml."
    if name.startswith("spm"):
        own = vocabularies["spm-crossing" if name == "spm-crossing" else "spm"]
        values = {"model": "llama", "scores": own["scores"], "bos_token_id": 1, "eos_token_id": 2}
        if name == "spm-bare":
            values["add_space_prefix"] = False
    else:
        own = vocabularies["byte_level"]
        values = {
            "model": "gpt2",
            "pre": name,
            "merges": own["merges"],
            "eos_token_id": own["tokens"].index("<|im_end|>"),
        }
        values["bos_token_id"] = own["tokens"].index("<|im_start|>")
    values |= {"tokens": own["tokens"], "token_type": own["types"]}
    return {prefix + key: value for key, value in values.items()}


def make(folder: Path) -> None:
    """Write the vocabularies and one GGUF file per case."""
    import gguf

    folder.mkdir(parents=True, exist_ok=True)
    vocabularies = {
        "byte_level": byte_level_vocabulary(),
        "spm": scored_vocabulary(crossing=False),
        "spm-crossing": scored_vocabulary(crossing=True),
    }
    (folder / "vocabularies.json").write_text(json.dumps(vocabularies))
    for name in (*PRE, "spm", "spm-crossing", "spm-bare"):
        writer = gguf.GGUFWriter(folder / f"{name}.gguf", "llama")
        for add in ("context_length", "embedding_length", "block_count", "feed_forward_length", "head_count"):
            getattr(writer, f"add_{add}")(32)
        writer.add_layer_norm_rms_eps(1e-5)
        for key, value in metadata(vocabularies, name).items():
            if isinstance(value, bool):
                writer.add_bool(key, value)
            elif isinstance(value, int):
                writer.add_uint32(key, value)
            elif isinstance(value, str):
                writer.add_string(key, value)
            else:
                writer.add_array(key, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def tokenize(path: Path, texts: list[str]) -> dict[str, list[list[int]]]:
    """What llama.cpp makes of the texts, as plain text and with special tokens."""
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    params.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise SystemExit(f"{path}: llama.cpp cannot load it")
    vocab = llama_cpp.llama_model_get_vocab(model)
    result: dict[str, list[list[int]]] = {}
    for key, special in (("plain", False), ("special", True)):
        result[key] = []
        for text in texts:
            data = text.encode()
            ids = (llama_cpp.llama_token * (len(data) + 8))()
            num = llama_cpp.llama_tokenize(vocab, data, len(data), ids, len(ids), False, special)
            result[key].append(list(ids[:num]))
    llama_cpp.llama_model_free(model)
    return result


def record(folder: Path, smollm2: Path) -> None:
    """Write the vectors."""
    import llama_cpp

    texts = corpus()
    cases = {name: tokenize(folder / f"{name}.gguf", texts) for name in (*PRE, "spm", "spm-crossing", "spm-bare")}
    vectors = {
        "made_by": f"llama-cpp-python {llama_cpp.__version__}",
        "vocabularies": json.loads((folder / "vocabularies.json").read_text()),
        "texts": texts,
        "cases": cases,
        "smollm2": tokenize(smollm2, texts),
    }
    data = json.dumps(vectors, separators=(",", ":")).encode()
    (VECTORS / "tokenizer_llama_cpp.json.gz").write_bytes(gzip.compress(data, mtime=0))


def record_gemma3(path: Path) -> None:
    """Write the vectors of a real SentencePiece vocabulary of 262k tokens, many of them runs of blanks."""
    import llama_cpp

    blanks = [char * count for char in "\n\t " for count in (1, 2, 3, 7, 15, 16, 30, 31, 32, 40, 70)]
    tags = "<table><tr><td>1</td></tr></table> <h1>x</h1>\n\n<b>> </ <i> </i></b> <code> a </code> <a href='x'> > </ a>"
    turns = "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n<unused0><mask><pad><eos>[multimodal]"
    indented = "def f():\n    if x:\n        return  1\n\n\n\tpass\n" + " " * 33 + "x"
    texts = [*corpus(), *blanks, *(f"a{blank}b" for blank in blanks), tags, turns, indented, "a > </ b", ">  </", "> "]
    vectors = {"made_by": f"llama-cpp-python {llama_cpp.__version__}", "texts": texts, **tokenize(path, texts)}
    data = json.dumps(vectors, separators=(",", ":")).encode()
    (VECTORS / "tokenizer_gemma3.json.gz").write_bytes(gzip.compress(data, mtime=0))


if __name__ == "__main__":
    if sys.argv[1:2] == ["make"] and len(sys.argv) == 3:
        make(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["record"] and len(sys.argv) == 4:
        record(Path(sys.argv[2]), Path(sys.argv[3]))
    elif sys.argv[1:2] == ["gemma3"] and len(sys.argv) == 3:
        record_gemma3(Path(sys.argv[2]))
    else:
        raise SystemExit(__doc__)
