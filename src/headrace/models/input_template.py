"""Around which tokens a model wants the text, or the two texts, that it reads as a whole: `[CLS] A [SEP] B [SEP]`.

Reads the post-processor of a `tokenizer.json` into slots, fills them, and cuts texts that are too long as the
`tokenizers` library does. Knows ids only: no text, no vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.core.errors import ModelFileError

FIRST, SECOND = -1, -2
"""What stands in a slot in place of a token: the first text, the second."""

Slots = list[tuple[int, int]]
"""A template: (token, or FIRST or SECOND; segment) in order."""


def fill(slots: Sequence[tuple[int, int]], first: list[int], second: list[int] | None) -> tuple[list[int], list[int]]:
    """Token ids and segments, equally many, of texts in a template."""
    ids: list[int] = []
    segments: list[int] = []
    for token, segment in slots:
        piece = first if token == FIRST else second or [] if token == SECOND else [token]
        ids.extend(piece)
        segments.extend([segment] * len(piece))
    return ids, segments


def room_of(slots: Sequence[tuple[int, int]], max_tokens: int) -> int:
    """How many tokens of text fit beside the template's own, so that all are at most `max_tokens`."""
    return max(0, max_tokens - sum(token >= 0 for token, _ in slots))


def lengths_within(room: int, first: int, second: int) -> tuple[int, int]:
    """How much of each text to keep, both from their start, so that they have at most `room` tokens together.

    The longer one gives way until both are equal (`longest_first` of the `tokenizers` library, to the token).
    """
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (shorter, room - shorter) if first <= second else (room - shorter, shorter)


def read_post_processor(post_processor: Any, ids: Mapping[str, int]) -> tuple[Slots, Slots]:
    """The templates of one text and of two; empty where there is none. `ids` are those of the vocabulary's tokens.

    Raises ModelFileError for one that is malformed or names an unknown token.
    """
    if not isinstance(post_processor, dict):
        return [], []
    kind = post_processor.get("type")
    try:
        if kind == "Sequence":
            found = [read_post_processor(part, ids) for part in post_processor["processors"]]
            return next((templates for templates in found if templates[0]), ([], []))
        if kind == "TemplateProcessing":
            special = post_processor.get("special_tokens") or {}
            return _slots(post_processor["single"], special, ids), _slots(post_processor["pair"], special, ids)
        if kind in ("BertProcessing", "RobertaProcessing"):
            start, end = int(post_processor["cls"][1]), int(post_processor["sep"][1])
            single = [(start, 0), (FIRST, 0), (end, 0)]
            if kind == "BertProcessing":
                return single, [*single, (SECOND, 1), (end, 1)]
            return single, [*single, (end, 0), (SECOND, 0), (end, 0)]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ModelFileError(
            f"tokenizer.json: post_processor cannot be read ({error!r}); fetch the file again."
        ) from error
    return [], []


def _slots(template: Any, special: Mapping[str, Any], ids: Mapping[str, int]) -> Slots:
    slots: Slots = []
    for item in template:
        if "Sequence" in item:
            sequence = item["Sequence"]
            slots.append(({"A": FIRST, "B": SECOND}[sequence["id"]], int(sequence.get("type_id", 0))))
            continue
        name, segment = item["SpecialToken"]["id"], int(item["SpecialToken"].get("type_id", 0))
        stated = special[name]["ids"] if name in special else [ids[name]]
        slots.extend((int(token), segment) for token in stated)
    if any(token not in ids.values() for token, _ in slots if token >= 0):
        raise ValueError("a token of a template is not in the vocabulary")
    return slots
