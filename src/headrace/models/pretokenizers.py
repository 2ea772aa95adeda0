r"""How each family of byte-level BPE cuts text into words before merging, by the name that GGUF files carry.

A row lists regular expressions that are applied in order, each inside the pieces that the one before it left; matches
and the gaps between them both become pieces. The expressions are written so that the result equals llama.cpp's, which
departs from the families' own files in places (tekken and gpt-4o: letters outside ASCII count as both cases); recorded
vectors hold them to it. `(?!\S)` looks no further than the piece. Knows nothing of vocabularies or files.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Regex
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer, Sequence, Split

from headrace.core.errors import ModelFileError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_SUFFIX = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_QWEN2 = _SUFFIX + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|" + _SPACES
_NOT_LOWER, _NOT_UPPER = r"[\p{L}&&[^a-z]]", r"[\p{L}&&[^A-Z]]"
_CASED = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_NOT_LOWER}*{_NOT_UPPER}+%(end)s|[^\r\n\p{{L}}\p{{N}}]?{_NOT_LOWER}+{_NOT_UPPER}*%(end)s"
)
_SLASHED = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
_TEKKEN = _CASED % {"end": ""} + r"|\p{N}" + _SLASHED
_GPT4O = _CASED % {"end": _SUFFIX + "?"} + r"|\p{N}{1,3}" + _SLASHED
_CJK = r"[一-龥ࠀ-一가-퟿]+"
# The letters of cased scripts as the DeepSeek LLM file lists them; escaped where NFC would change a character.
_CASED_LETTERS = (
    r"A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\u1f7dᾀ-ᾴᾶ-ᾼ\u1fbe"
    r"ῂ-ῄῆ-ῌῐ-\u1fd3ῖ-\u1fdbῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\u2126ℨ\u212a-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ"
    "𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)


@dataclass(frozen=True, slots=True)
class PreTokenization:
    """One family: its expressions, whether a whole word in the vocabulary skips merging, and whether BOS is added."""

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False

    def build(self) -> PreTokenizer:
        """The same as a `tokenizers` pre-tokenizer that ends in the byte-level alphabet."""
        splits = [Split(Regex(pattern), "isolated") for pattern in self.patterns]
        return Sequence([*splits, ByteLevel(add_prefix_space=False, use_regex=False)])


_GPT2_FAMILY = PreTokenization((_GPT2,))
_DIGITS_FAMILY = PreTokenization((r"\p{N}", _GPT2))
_LLAMA3_FAMILY = PreTokenization((_LLAMA3,), ignore_merges=True, add_bos=True)
_QWEN2_FAMILY = PreTokenization((_QWEN2,))
_DEEPSEEK_LLM = PreTokenization(
    (r"[\r\n]", rf"\s?[{_CASED_LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _CJK, r"\p{N}+")
)
_DEEPSEEK_CODER = PreTokenization((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CJK, r"\p{N}"))
_DEEPSEEK_V3 = PreTokenization(
    (
        r"\p{N}{1,3}",
        r"[一-龥぀-ゟ゠-ヿ]+",
        r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
        r"| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES,
    )
)
_FALCON = PreTokenization((r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, r"[0-9][0-9][0-9]"))
_DEFAULT = PreTokenization((r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"))

_FAMILIES: Mapping[PreTokenization, tuple[str, ...]] = {
    _GPT2_FAMILY: ("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "roberta-bpe", "gigachat"),
    _DIGITS_FAMILY: ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
    _LLAMA3_FAMILY: ("llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral"),
    PreTokenization((_LLAMA3,)): ("dbrx", "smaug-bpe", "chatglm-bpe"),
    _QWEN2_FAMILY: ("qwen2", "stablelm2", "deepseek-r1-qwen", "megrez"),
    PreTokenization((_TEKKEN,), ignore_merges=True, add_bos=True): ("tekken",),
    PreTokenization((_GPT4O,)): ("gpt-4o", "llama4"),
    _DEEPSEEK_LLM: ("deepseek-llm",),
    _DEEPSEEK_CODER: ("deepseek-coder",),
    _DEEPSEEK_V3: ("deepseek-v3",),
    _FALCON: ("falcon",),
    _DEFAULT: ("default",),
}
PRE_TOKENIZATIONS: Mapping[str, PreTokenization] = {
    name: family for family, names in _FAMILIES.items() for name in names
}


def find_pre_tokenization(name: str) -> PreTokenization:
    """The row for a `tokenizer.ggml.pre` value. Raises ModelFileError with the known names for any other."""
    try:
        return PRE_TOKENIZATIONS[name]
    except KeyError:
        known = ", ".join(sorted(PRE_TOKENIZATIONS))
        raise ModelFileError(
            f"tokenizer.ggml.pre: {name!r} is not a pre-tokenizer that Headrace knows; it knows: {known}."
        ) from None
