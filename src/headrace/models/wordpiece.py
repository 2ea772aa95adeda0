"""WordPiece as GGUF files carry it, turned into the `tokenizer.json` that the library runs.

The file holds only tokens: whether the model folds case is read off them, and the rest is what BERT's tokenizers share
(Devlin et al., arXiv 1810.04805). Knows no metadata keys; encodes nothing.
"""

import json
from collections.abc import Iterable

from headrace.models.input_template import FIRST, SECOND, Slots

_WORD_START = "\u2581"  # the mark that GGUF puts before what begins a word, in place of BERT's before what continues it
_PREFIX = "##"
_MAX_WORD_CHARS = 100


def texts_of(tokens: Iterable[str]) -> list[str]:
    """The tokens as BERT writes them: `word`, `##part`, `[CONTROL]`."""
    return [
        text[1:] if text.startswith(_WORD_START) else text if _is_bracketed(text) else _PREFIX + text for text in tokens
    ]


def definition_of(texts: list[str], unknown: int, hidden: set[int]) -> str:
    """A bare `tokenizer.json` over these tokens, without those that no text may become."""
    folds_case = all(text == text.lower() for i, text in enumerate(texts) if not _is_bracketed(text))
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": {
                "type": "BertNormalizer",
                "clean_text": True,
                "handle_chinese_chars": True,
                "strip_accents": None,
                "lowercase": folds_case,
            },
            "pre_tokenizer": {"type": "BertPreTokenizer"},
            "post_processor": None,
            "decoder": {"type": "WordPiece", "prefix": _PREFIX, "cleanup": True},
            "model": {
                "type": "WordPiece",
                "unk_token": texts[unknown],
                "continuing_subword_prefix": _PREFIX,
                "max_input_chars_per_word": _MAX_WORD_CHARS,
                "vocab": {text: i for i, text in enumerate(texts) if i not in hidden},
            },
        },
        ensure_ascii=False,
    )


def pair_template(start: int, end: int) -> tuple[Slots, Slots]:
    """`[CLS] A [SEP]`, and with `B [SEP]` behind it."""
    single = [(start, 0), (FIRST, 0), (end, 0)]
    return single, [*single, (SECOND, 1), (end, 1)]


def _is_bracketed(text: str) -> bool:
    return text.startswith("[") and text.endswith("]")
