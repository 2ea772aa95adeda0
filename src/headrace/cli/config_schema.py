"""The settings file as a JSON schema (draft 2020-12), made of the same tables that read it. Knows no file."""

from typing import Any

from headrace.cli.file_tables import TABLES
from headrace.cli.plain_settings import DEFAULTS, PARSERS

DIALECT = "https://json-schema.org/draft/2020-12/schema"


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
    return {
        "$schema": DIALECT,
        "title": "headrace.toml",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
