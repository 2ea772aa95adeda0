"""`headrace config`: what is wrong with a settings file, what is in force, and what may stand in one."""

import json as jsonlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

from headrace.cli.config import Resolved, compose
from headrace.cli.kinds import Problem, WrongSettings
from headrace.cli.surroundings import look_around
from headrace.core.errors import InvalidRequest


def run_check(file: Path | None, *, json: bool) -> None:
    """Print what is wrong; exit code 1 if anything is that is not a mere warning."""
    problems: Iterable[Problem]
    try:
        resolved = compose({}, os.environ, file)
        look_around(resolved, os.environ)
    except WrongSettings as error:
        if not json:
            raise
        problems = error.problems
    else:
        problems = resolved.report.problems
        if not json:
            for problem in problems:
                typer.echo(f"warning: {problem}", err=True)
            typer.echo(_summary(resolved))
    if json:
        typer.echo(jsonlib.dumps({"problems": [_as_dict(problem) for problem in problems]}, indent=2))
        if any(not problem.is_warning for problem in problems):
            raise typer.Exit(1)


def run_show(file: Path | None) -> None:
    """Print the settings as a settings file."""
    typer.echo(compose({}, os.environ, file).toml(), nl=False)


def run_schema() -> None:
    """Print what editors check a settings file against."""
    from headrace.cli.config_schema import schema

    typer.echo(jsonlib.dumps(schema(), indent=2))


def run_import_litellm(file: Path) -> None:
    """Print LiteLLM's settings as ours."""
    from headrace.cli.litellm import import_litellm

    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or error if isinstance(error, OSError) else error
        raise InvalidRequest(f"{file} cannot be read ({why}); name LiteLLM's YAML file.") from error
    typer.echo(import_litellm(text, file.name), nl=False)


def _as_dict(problem: Problem) -> dict[str, Any]:
    return {
        "file": problem.file,
        "line": problem.line,
        "key": problem.key,
        "message": problem.sentence,
        "level": "warning" if problem.is_warning else "error",
    }


def _summary(resolved: Resolved) -> str:
    gateway = resolved.settings.gateway
    counts = {
        "backend": len(gateway.backends),
        "route": len(gateway.routes),
        "budget": len(gateway.budgets),
        "limit": len(gateway.limits),
        "tenant": len(gateway.tenants),
        "key": len(resolved.settings.issued),
    }
    told = [f"{number} {name}{'s' if number > 1 else ''}" for name, number in counts.items() if number]
    engine = f"the engine serves {resolved.settings.model}" if resolved.settings.has_engine else "no engine"
    return f"{resolved.report.file} is right: {', '.join([engine, *told])}."
