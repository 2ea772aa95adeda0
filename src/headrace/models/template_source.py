"""Where a model's chat templates stand among its files: one for conversations, and for some models another one for
those with tools.

GGUF keys, a tokenizer's config with one template or several by name, files of their own. Compiles nothing
(`template.py`) and knows no tokenizer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace.core.errors import ModelFileError
from headrace.models.safetensors import read_json
from headrace.models.template import MAX_SOURCE_CHARS

_TOOL_USE = "tool_use"  # Hugging Face's name


@dataclass(frozen=True, slots=True)
class TemplateSource:
    """What the files say; `with_tools` is empty unless tools have a template of their own. `eos`: the text of the token
    that ends an answer, where a config names it."""

    plain: str
    with_tools: str = ""
    eos: str = ""


def source_of_gguf(metadata: Mapping[str, Any]) -> TemplateSource | None:
    """Of a GGUF file's keys; None if it has none. Raises ModelFileError."""
    key = "tokenizer.chat_template"
    return _checked(metadata.get(key), metadata.get(f"{key}.{_TOOL_USE}"), "")


def source_of_folder(folder: Path) -> TemplateSource | None:
    """Of a folder; a file of its own goes before the tokenizer's config. Raises ModelFileError."""
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    eos = config.get("eos_token")
    eos = eos.get("content") if isinstance(eos, dict) else eos
    source, with_tools = config.get("chat_template"), None
    if isinstance(source, list):
        # Several named ones; `default` is what a plain conversation uses.
        named = {item.get("name"): item.get("template") for item in source if isinstance(item, dict)}
        source, with_tools = named.get("default"), named.get(_TOOL_USE)
    own = folder / "chat_template.jinja", folder / "additional_chat_templates" / f"{_TOOL_USE}.jinja"
    source, with_tools = _read(own[0], source), _read(own[1], with_tools)
    return _checked(source, with_tools, eos if isinstance(eos, str) else "")


def _read(file: Path, otherwise: Any) -> Any:
    if not file.is_file():
        return otherwise
    try:
        return file.read_bytes()[: 4 * MAX_SOURCE_CHARS + 4].decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{file}: cannot be read ({error}); download it again.") from error


def _checked(source: Any, with_tools: Any, eos: str) -> TemplateSource | None:
    if source is None:
        return None
    for text in (source, "" if with_tools is None else with_tools):
        if not isinstance(text, str):
            raise ModelFileError(f"chat template: {type(text).__name__} instead of text; the file is corrupt.")
    return TemplateSource(source, with_tools or "", eos)
