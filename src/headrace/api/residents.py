"""Models that come and go, in the shape of llama.cpp's router: `GET /models`, `POST /models/load` and `/models/unload`.

Of that shape are the paths, `{"model": NAME}`, `{"success": true}` and each model's `status.value`: unloaded, loading
or loaded. What a model holds and who uses it stands beside it; a load or an unload is answered when it is done, and
`"wait": false` refuses the unload of a model in use instead of waiting for its requests.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.api.openai_refusal import show
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.service import Residence

_MAX_NAME_CHARS = 400
_STATUS = {"absent": "unloaded", "waiting": "loading", "loading": "loading", "ready": "loaded", "leaving": "loaded"}


@dataclass(frozen=True, slots=True)
class Change:
    """What a body asks for: a model by name, and whether to wait for those who use it."""

    model: str
    waits: bool = True


def decode_change(body: bytes, *, may_wait: bool) -> Change:
    """The model that a body names; `may_wait`: `wait` is possible. Raises InvalidRequest naming the field."""
    known = ("model", "wait") if may_wait else ("model",)
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"body: not valid JSON ({error}); send an object with model.") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("body: not a JSON object; send one with model.")
    for field in fields:
        if field not in known:
            raise UnsupportedField(
                f"{field[:100]}: not supported here; possible are {', '.join(known)}.", param=field[:100]
            )
    model, waits = fields.get("model"), fields.get("wait", True)
    if not isinstance(model, str) or not 1 <= len(model) <= _MAX_NAME_CHARS:
        raise InvalidRequest(f"model: {show(model)} is not the name of a model.", param="model")
    if not isinstance(waits, bool):
        raise InvalidRequest(f"wait: {show(waits)} is neither true nor false.", param="wait")
    return Change(model, waits)


def encode_residences(residences: Iterable[Residence], memory_bytes: int | None) -> bytes:
    """The list of served models; `memory_bytes` is what they may hold together, None without a bound."""
    data = [_residence(one) for one in residences]
    held = sum(one["bytes_held"] for one in data)
    return msgspec.json.encode({"object": "list", "data": data, "bytes_held": held, "memory_bytes": memory_bytes})


def encode_changed(residence: Residence) -> bytes:
    """The answer to a load or an unload."""
    return msgspec.json.encode({"success": True, "model": _residence(residence)})


def _residence(one: Residence) -> dict[str, Any]:
    return {
        "id": one.name,
        "object": "model",
        "status": {"value": _STATUS[one.state]},
        "state": one.state,
        "bytes_held": one.bytes_held,
        "num_requests": one.num_requests,
        "idle_s": one.idle_s,
        "unloads_in_s": one.unloads_in_s,
    }
