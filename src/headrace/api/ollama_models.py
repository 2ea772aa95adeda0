"""Ollama's routes about models: what is served, what a model's files say, what is in memory, and fetching more.

A served model is listed with the tag that Ollama's clients expect of every name; its adapters are listed as they are
called. Knows no files: what they say comes in as values.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.api.ollama_answers import shown_time
from headrace.api.ollama_input import TAG, model_name
from headrace.api.openai_refusal import refuse_body
from headrace.core.backend import ModelCard
from headrace.core.errors import NotFound
from headrace.core.model_library import ModelDetails, PullStep
from headrace.core.request import Task
from headrace.core.service import Residence

VERSION: Final = "0.12.6"
"""The version of Ollama whose interface this is; clients switch features on by it."""
RUNNING: Final = b"Ollama is running"
"""What Ollama's clients look for at its root."""

# Beyond any calendar that a client may have, as Ollama says "never".
_NEVER: Final = "2318-01-01T00:00:00Z"

_encode_json = msgspec.json.Encoder().encode


class OllamaShowBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/show`; `name` is the older word for `model`."""

    model: str = ""
    name: str = ""
    verbose: bool | None = None
    system: Any = None
    template: Any = None
    options: Any = None


class OllamaPullBody(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /api/pull`. `insecure` is for Ollama's registry, which is not asked here."""

    model: str = ""
    name: str = ""
    insecure: bool | None = None
    stream: bool | None = None


_decode_show = msgspec.json.Decoder(OllamaShowBody).decode
_decode_pull = msgspec.json.Decoder(OllamaPullBody).decode


def decode_show(data: bytes) -> str:
    """The model that a body asks about. Raises InvalidRequest."""
    try:
        body = _decode_show(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, OllamaShowBody, {})
    return model_name(body.model or body.name)


def decode_pull(data: bytes) -> tuple[str, bool]:
    """The model that a body wants, and whether progress is told. Raises InvalidRequest."""
    try:
        body = _decode_pull(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, OllamaPullBody, {})
    return model_name(body.model or body.name), body.stream is not False


def find_card(cards: tuple[ModelCard, ...], name: str) -> ModelCard:
    """The card of a model by its name or alias. Raises NotFound."""
    for card in cards:
        if name == card.id or name in card.aliases:
            return card
    raise NotFound(f"model {name[:200]!r} not found; GET /api/tags lists what is served here.", param="model")


def encode_tags(cards: tuple[ModelCard, ...], details: Mapping[str, ModelDetails]) -> bytes:
    """The served models."""
    return _encode_json({"models": [_entry(card, details) | _modified(card, details) for card in cards]})


def encode_running(
    cards: tuple[ModelCard, ...],
    details: Mapping[str, ModelDetails],
    residences: Mapping[str, Residence] | None,
    unix_s: float,
) -> bytes:
    """The models in memory, and until when they stay; `residences` None: all of them, for ever."""
    models = []
    for card in cards:
        held = None if residences is None else residences.get(card.id)
        if card.parent is not None or not (card.is_loaded if held is None else held.state == "ready"):
            continue
        leaves_s = None if held is None else held.unloads_in_s
        entry = _entry(card, details) | {
            "expires_at": _NEVER if leaves_s is None else shown_time(unix_s + leaves_s),
            "size_vram": 0,
            "context_length": card.context_length,
        }
        models.append(entry | ({"size": held.bytes_held} if held is not None else {}))
    return _encode_json({"models": models})


def encode_details(card: ModelCard, details: ModelDetails | None) -> bytes:
    """What is known of a model."""
    able = {Task.GENERATE: "completion", Task.EMBED: "embedding"}
    capabilities = [name for task, name in able.items() if task in card.tasks]
    known = {} if details is None else {card.id: details}
    shown: dict[str, Any] = {
        "modelfile": f"FROM {card.id}\n",
        "parameters": "",
        "template": "" if details is None else details.template,
        "details": _shape(card, known),
        "capabilities": capabilities,
        "model_info": _info(card, details),
    }
    if details is not None:
        if details.template and Task.GENERATE in card.tasks:
            # Whoever has a conversation can call tools, in the template's way or in one that the engine writes itself.
            capabilities.append("tools")
            if "<think>" in details.template:
                capabilities.append("thinking")
        if details.licence:
            shown["license"] = details.licence
    return _encode_json(shown | _modified(card, known))


def encode_step(step: PullStep, digest: str) -> bytes:
    """A line of a pull's progress."""
    if step.num_bytes is None:
        return _encode_json({"status": step.what}) + b"\n"
    fields = {"status": step.what, "digest": digest, "total": step.num_bytes, "completed": step.num_done}
    return _encode_json(fields) + b"\n"


def encode_status(status: str) -> bytes:
    """A line, or a whole body, that says one thing."""
    return _encode_json({"status": status}) + b"\n"


def encode_version(own: str) -> bytes:
    """Which interface this is, and of which program."""
    return _encode_json({"version": VERSION, "headrace": own})


def _entry(card: ModelCard, details: Mapping[str, ModelDetails]) -> dict[str, Any]:
    name = card.id if card.parent is not None else card.id + TAG
    known = _of(card, details)
    return {
        "name": name,
        "model": name,
        "size": 0 if known is None else known.num_bytes,
        "digest": card.digest.rpartition(":")[2],
        "details": _shape(card, details),
    }


def _modified(card: ModelCard, details: Mapping[str, ModelDetails]) -> dict[str, str]:
    known = _of(card, details)
    return {"modified_at": shown_time(card.created if known is None else known.modified_s)}


def _shape(card: ModelCard, details: Mapping[str, ModelDetails]) -> dict[str, Any]:
    known = _of(card, details)
    family = "" if known is None else known.family
    return {
        "parent_model": card.parent or "",
        "format": "" if known is None else known.format,
        "family": family,
        "families": [family] if family else [],
        "parameter_size": "" if known is None else _short(known.num_parameters),
        "quantization_level": "" if known is None else known.quantization,
    }


def _info(card: ModelCard, details: ModelDetails | None) -> dict[str, Any]:
    """What the header says, and where clients look for the context that is really served."""
    if details is None:
        return {"general.architecture": "", ".context_length": card.context_length}
    served = {f"{details.family}.context_length": card.context_length}
    if details.embedding_length is not None:
        served[f"{details.family}.embedding_length"] = details.embedding_length
    template = {"tokenizer.chat_template"}
    return {key: value for key, value in details.metadata.items() if key not in template} | served


def _of(card: ModelCard, details: Mapping[str, ModelDetails]) -> ModelDetails | None:
    return details.get(card.id) or details.get(card.parent or "")


def _short(count: int) -> str:
    """A number of parameters as it is usually called."""
    for unit, name in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= unit:
            return f"{count / unit:.4g}{name}"
    return str(count)
