"""`headrace responses`: erasing what is stored of a tenant, beside a running server or without one.

Finds the state database by the same settings as `serve`. What a server is working on at that moment is stored when it
ends, so erasing a tenant for good begins with taking back its keys.
"""

import json as jsonlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from headrace.cli.config import compose
from headrace.memory.completions import erase as erase_completions
from headrace.memory.database import Database
from headrace.memory.responses import erase
from headrace.models.store import open_home


def run_erase(flags: Mapping[str, Any], config: Path | None, *, tenant: str, json: bool) -> None:
    """Erase everything that is stored of a tenant's responses, conversations and chat completions."""
    settings = compose(flags, os.environ, config).settings
    with Database(open_home(settings.home).database) as database:
        responses, conversations = database.transact(erase, tenant)
        completions = database.transact(erase_completions, tenant)
        database.empty_log()
    if json:
        document = {"tenant": tenant, "responses": responses, "conversations": conversations}
        document |= {"completions": completions}
        typer.echo(jsonlib.dumps(document))
        return
    typer.echo(
        f"Erased {responses} responses, {conversations} conversations and {completions} chat completions of {tenant}"
    )
