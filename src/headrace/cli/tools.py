"""What `headrace tools` prints: declarations from a file, with their digests and what is known or guessed of them."""

import json as jsonlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from headrace.cli.config import compose
from headrace.core.errors import InvalidRequest
from headrace.core.request import Tool
from headrace.trust.flow.tools import ToolBook


def run_digest(file: Path, config: Path | None, *, json: bool) -> None:
    """Each tool of a file. Raises InvalidRequest."""
    book = ToolBook(compose({}, os.environ, config).settings.trust.tools)
    told = []
    for tool in read_tools(file):
        facts = book.facts(tool.name, [tool])
        told.append(
            {
                "name": tool.name,
                "manifest": facts.manifest,
                "is_pinned": facts.is_pinned,
                "is_changed": facts.is_changed,
                "effect": facts.effect.name.lower(),
                "is_guessed": facts.rule.effect is None,
                "arguments": {name: str(kind) for name, kind in facts.arguments.items()},
            }
        )
    if json:
        typer.echo(jsonlib.dumps(told, ensure_ascii=False, indent=2))
        return
    for one in told:
        changed = ", not the one that was approved" if one["is_changed"] else ""
        typer.echo(f"{one['name']}  {one['effect']}{' (guessed)' if one['is_guessed'] else ''}{changed}")
        typer.echo(f'  manifest = "{one["manifest"]}"')


def read_tools(file: Path) -> list[Tool]:
    """Declarations in OpenAI's, Anthropic's or MCP's form: a list, one alone, or under `tools`. Raises
    InvalidRequest."""
    try:
        document = jsonlib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise InvalidRequest(f"{file} cannot be read ({error.strerror or error}); correct the path.") from error
    except ValueError as error:
        raise InvalidRequest(f"{file} is no JSON ({error}); give declarations of tools.") from error
    if isinstance(document, dict):
        document = document.get("tools", [document])
    return list(_tools(document, file))


def _tools(document: Any, file: Path) -> Iterator[Tool]:
    for number, one in enumerate(document if isinstance(document, list) else [None], 1):
        declared = one.get("function", one) if isinstance(one, dict) else None
        if not isinstance(declared, dict) or not isinstance(declared.get("name"), str):
            raise InvalidRequest(f"{file}: number {number} is no declaration of a tool; each needs a name.")
        parameters = declared.get("parameters", declared.get("input_schema", declared.get("inputSchema", {})))
        yield Tool(declared["name"], str(declared.get("description") or ""), parameters or {})
