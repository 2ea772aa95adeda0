"""How many messages a body has, and what of them is not text: images, sounds and files, counted and weighed.

Text is never taken for more than text: only the types of a message's parts are read. What is not built as a protocol
says is counted as if it were text, which bounds it too; the backend that gets it will refuse it. Knows the names that
vendors give to parts, and nothing of what is in them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headrace.core.shape import Need

# Type of a part -> what a model needs for it. A file's bytes count as text: nothing else bounds what is in it.
_TYPES: Final = {
    "image_url": Need.VISION,
    "image": Need.VISION,
    "input_image": Need.VISION,
    "input_audio": Need.AUDIO,
    "video_url": Need.VISION,
    "file": None,
    "input_file": None,
    "document": None,
}
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)
_MAX_DEPTH: Final = 4
_READ: Final = frozenset({"messages", "input", "system"})


_ABSENT: Final = msgspec.Raw(b"")


class _Message(msgspec.Struct):
    """A message, an item or a part: what is inside stands under one of these names."""

    type: Any = None
    content: msgspec.Raw = _ABSENT
    output: msgspec.Raw = _ABSENT


_messages_of = msgspec.json.Decoder(list[_Message]).decode
_raws_of = msgspec.json.Decoder(list[msgspec.Raw]).decode


@dataclass(frozen=True, slots=True)
class Media:
    """What was found: `num_bytes` are those of images and sounds, which are no text."""

    num_messages: int = 0
    num_media: int = 0
    num_bytes: int = 0
    needs: frozenset[Need] = frozenset()


def media_of(fields: Mapping[str, bytes], opening: tuple[str, ...]) -> Media:
    """What is in the fields that a model reads."""
    num_messages = 0
    found: list[tuple[Need | None, int]] = []
    for name in opening:
        raw = fields.get(name)
        if raw is None or not raw.startswith(b"["):
            num_messages += raw is not None
            continue
        if name not in _READ:
            num_messages += 1
            continue
        try:
            if raw.find(b'"type"') < 0:  # every part that is not text says what it is
                num_messages += len(_raws_of(raw))
                continue
            messages = _messages_of(raw)
        except _ERRORS:
            num_messages += raw.count(b'"role"') + 1
            continue
        num_messages += len(messages)
        if any(isinstance(message.type, str) and message.type in _TYPES for message in messages):
            _look(raw, 0, found)
            continue
        for message in messages:
            _look_inside(message, 1, found)
    if not found:
        return Media(num_messages)
    weighed = sum(size for need, size in found if need is not None)
    needs = frozenset(need for need, _ in found if need is not None)
    return Media(num_messages, len(found), weighed, needs)


def _look(raw: bytes, depth: int, found: list[tuple[Need | None, int]]) -> None:
    """Add the media among the parts of a message."""
    try:
        parts = _messages_of(raw)
    except _ERRORS:
        return
    sizes: list[msgspec.Raw] | None = None
    for index, part in enumerate(parts):
        kind = part.type
        if isinstance(kind, str) and kind in _TYPES:
            sizes = _raws_of(raw) if sizes is None else sizes
            found.append((_TYPES[kind], len(bytes(sizes[index]))))
        if depth < _MAX_DEPTH:
            _look_inside(part, depth + 1, found)


def _look_inside(part: _Message, depth: int, found: list[tuple[Need | None, int]]) -> None:
    for inner in (part.content, part.output):
        # Nothing of a long text is copied to see that it is one.
        if inner is not _ABSENT and memoryview(inner)[:1].tobytes() == b"[":
            _look(bytes(inner), depth, found)
