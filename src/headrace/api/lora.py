"""vLLM's routes for adapters: bodies of `POST /v1/load_lora_adapter` and `POST /v1/unload_lora_adapter`; and ours that
lists them, `GET /v1/adapters`.

A path is never taken from a client: adapters lie in the server's folder, and their names are their files' names.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from headrace.api.openai_models import encode_card
from headrace.api.openai_refusal import show
from headrace.core.backend import ModelCard
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.service import AdapterState

_MAX_NAME_CHARS = 400


def decode_lora_name(body: bytes) -> str:
    """The adapter that a body names. Raises InvalidRequest naming the field."""
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"body: not valid JSON ({error}); send an object with lora_name.") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("body: not a JSON object; send one with lora_name.")
    for name in fields:
        if name == "lora_path":
            raise UnsupportedField(
                "lora_path: files are taken from the server's folder of adapters only; leave it out.", param="lora_path"
            )
        if name != "lora_name":
            raise UnsupportedField(f"{name[:100]}: not supported; only lora_name is.", param=name[:100])
    name = fields.get("lora_name")
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_NAME_CHARS:
        raise InvalidRequest(f"lora_name: {show(name)} is not the name of an adapter.", param="lora_name")
    return name


def encode_loaded(card: ModelCard) -> bytes:
    """The answer to a load: the adapter as `GET /v1/models` lists it."""
    return msgspec.json.encode(encode_card(card))


class AdapterAnswer(msgspec.Struct):
    """An adapter of a model in memory; `bytes_held` is 0 while it is not in memory itself."""

    object: Literal["adapter"]
    id: str
    model: str
    is_loaded: bool
    bytes_held: int


class AdapterAnswerList(msgspec.Struct):
    """All of them."""

    object: Literal["list"]
    data: list[AdapterAnswer]


def encode_adapters(adapters: Iterable[AdapterState]) -> bytes:
    """The adapters that there are."""
    data = [AdapterAnswer("adapter", one.name, one.model, one.is_loaded, one.num_bytes) for one in adapters]
    return msgspec.json.encode(AdapterAnswerList("list", data))


def encode_unloaded(name: str) -> bytes:
    """The answer to an unload."""
    return msgspec.json.encode({"id": name, "object": "model", "unloaded": True})
