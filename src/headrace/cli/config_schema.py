"""The settings file as a JSON schema (draft 2020-12), made of the same tables that read it. Knows no file."""

from collections.abc import Mapping
from typing import Any, Final

from headrace.cli.file_tables import TABLES
from headrace.cli.plain_settings import DEFAULTS, PARSERS
from headrace.cli.setting_texts import TEXTS

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


def schema() -> dict[str, Any]:
    """What editors check a settings file against. It cannot say what goes together; `headrace config check` does."""
    properties: dict[str, Any] = {}
    for name, plain in PARSERS.items():
        default = DEFAULTS.get(name)
        is_shown = isinstance(default, str | int | float)
        properties[name] = {**plain.schema, "default": default} if is_shown else dict(plain.schema)
    for name, kind in TABLES.items():
        both = [properties[name], kind.schema] if name in properties else None
        properties[name] = {"anyOf": both} if both else kind.schema
    whole = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"$schema": DIALECT, "title": "headrace.toml", **_told(whole, "")}


def _told(part: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A schema with what each setting means."""
    told: dict[str, Any] = dict(part)
    if path in TEXTS:
        told["description"] = TEXTS[path]
    if "properties" in part:
        below = f"{path}." if path else ""
        told["properties"] = {name: _told(one, f"{below}{name}") for name, one in part["properties"].items()}
    if isinstance(part.get("additionalProperties"), dict):
        told["additionalProperties"] = _told(part["additionalProperties"], f"{path}.NAME")
    for key in ("items", "anyOf"):
        if isinstance(part.get(key), dict):
            told[key] = _told(part[key], path)
        elif key in part:
            told[key] = [_told(one, path) for one in part[key]]
    return told
