"""OpenAI's metadata: up to sixteen short texts that a caller attaches to what is stored. Knows no route."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.api.openai_refusal import refuse_body, show
from headrace.core.errors import InvalidRequest

MAX_PAIRS: Final = 16
MAX_KEY_CHARS: Final = 64
MAX_VALUE_CHARS: Final = 512


class MetadataBody(msgspec.Struct, forbid_unknown_fields=True):
    """A body that changes what is attached to something."""

    metadata: dict[str, Any] | None


_decode = msgspec.json.Decoder(MetadataBody).decode


def decode_metadata(data: bytes) -> dict[str, str]:
    """The pairs of a body that holds nothing else. Raises InvalidRequest."""
    try:
        body = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, MetadataBody, {})
    return metadata(body.metadata)


def metadata(given: Mapping[str, Any] | None) -> dict[str, str]:
    """The pairs of a body's `metadata`. Raises InvalidRequest naming the key."""
    pairs = given or {}
    if len(pairs) > MAX_PAIRS:
        raise InvalidRequest(f"metadata: {len(pairs)} pairs given; at most {MAX_PAIRS} are allowed.", param="metadata")
    for key, value in pairs.items():
        if not 1 <= len(key) <= MAX_KEY_CHARS:
            raise InvalidRequest(
                f"metadata: the key {show(key)} has {len(key)} characters; 1 to {MAX_KEY_CHARS} are allowed.",
                param="metadata",
            )
        if not isinstance(value, str):
            raise InvalidRequest(
                f"metadata.{key}: {show(value)} given, but a string is needed.", param="metadata", code="invalid_type"
            )
        if len(value) > MAX_VALUE_CHARS:
            raise InvalidRequest(
                f"metadata.{key}: {len(value)} characters given; at most {MAX_VALUE_CHARS} are allowed.",
                param="metadata",
            )
    return dict(pairs)
