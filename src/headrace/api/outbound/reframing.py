"""Bodies of OpenAI's protocols that pass through: written anew from their fields, each value as it came.

What a gateway may change is the model's name, the bound of the answer and the wish to be told of usage, and nothing
else: fields that nobody here knows travel on. This runs for every request that passes through, so nothing is decoded
but what changes. Knows which fields those are, and no policies.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.api.outbound.call_ids import plain_ids
from headrace.api.outbound.chat_body import can_drop
from headrace.api.outbound.codec import Quirks
from headrace.core.errors import InvalidRequest

_encode_json = msgspec.json.Encoder().encode
_options = msgspec.json.Decoder(dict[str, msgspec.Raw])
_WANTED: Final = re.compile(rb'"include_usage"\s*:\s*true\b')
_INCLUDE: Final = b'{"include_usage":true}'
_CONVERSATIONS: Final = ("messages", "input")
BOUNDS: Final = (
    "max_completion_tokens",
    "max_tokens",
    "max_output_tokens",
    "n_predict",
    "max_new_tokens",
    "max_length",
)
"""Every name of the bound of an answer: some servers go by names of their own before OpenAI's (llama.cpp, TabbyAPI)."""

# Keys as JSON, made once: those that are met all the time.
_KEYS: Final[dict[str, bytes]] = {}
_MAX_KEYS: Final = 512


def wants_stream(fields: Mapping[str, bytes]) -> bool:
    """Whether a body asks for a stream."""
    return fields.get("stream") == b"true"


def wants_usage(fields: Mapping[str, bytes]) -> bool:
    """Whether a body asks that its stream tells its usage."""
    options = fields.get("stream_options")
    return options is not None and _WANTED.search(options) is not None


def write_fields(fields: Mapping[str, bytes]) -> bytes:
    """A body of fields, each value as it is."""
    return b"{" + b",".join([(_KEYS.get(name) or _key(name)) + value for name, value in fields.items()]) + b"}"


def rewrite(fields: Mapping[str, bytes], model: str, quirks: Quirks) -> dict[str, bytes]:
    """The fields with the backend's name of the model, without what another backend signed or this one would refuse and
    nobody misses, and with those that it always gets."""
    changed = dict(fields)
    changed["model"] = _encode_json(model)
    for name in _CONVERSATIONS:
        if (said := changed.get(name)) is not None:
            changed[name] = plain_ids(said)
    if quirks.drops:
        for name in [name for name in changed if can_drop(name, quirks)]:
            del changed[name]
    for name, added in quirks.adds.items():
        changed.setdefault(name, _encode_json(added))
    return changed


def bound_answer(fields: dict[str, bytes], field: str, max_tokens: int | None) -> None:
    """Lower the bound of an answer to `max_tokens` where it is higher or missing, and call it `field`.

    A bound by another name, or of null, does not stay beside it: a backend could go by that one. Raises
    InvalidRequest for a bound that is no number.
    """
    given = [name for name in BOUNDS if name in fields]
    if max_tokens is not None:
        bounds = [max_tokens]
    elif not given or given == [field]:
        return
    else:
        bounds = []
    for name in given:
        value = fields[name] if name == field else fields.pop(name)
        if value != b"null":
            bounds.append(read_number(name, value))
    if bounds:
        fields[field] = b"%d" % min(bounds)


def bound_field(fields: dict[str, bytes], field: str, max_tokens: int | None) -> None:
    """Lower the bound of an answer that has one name only. Raises InvalidRequest as `bound_answer` does."""
    bound_answer(fields, field, max_tokens)


def ask_usage(fields: dict[str, bytes], quirks: Quirks) -> None:
    """Wish to be told of a stream's usage; other options stay as they are."""
    options = fields.get("stream_options")
    if not quirks.has_usage_option:
        fields.pop("stream_options", None)
    elif options is None or options == b"null":
        fields["stream_options"] = _INCLUDE
    elif not _WANTED.search(options):
        try:
            given: dict[str, Any] = dict(_options.decode(options))
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            words = "stream_options: is no object; send one, or leave it out."
            raise InvalidRequest(words, param="stream_options") from None
        fields["stream_options"] = _encode_json(given | {"include_usage": True})


def read_number(name: str, value: bytes) -> int:
    """The number of tokens that a field of a body asks for. Raises InvalidRequest naming the field."""
    try:
        number = int(value)
    except ValueError:
        number = -1
    if number < 0 or len(value) > 18:
        shown = value[:40].decode("utf-8", "replace")
        raise InvalidRequest(f"{name}: {shown} is no number of tokens; send a whole number.", param=name)
    return number


def _key(name: str) -> bytes:
    key = _encode_json(name) + b":"
    if len(_KEYS) < _MAX_KEYS:
        _KEYS[name] = key
    return key
