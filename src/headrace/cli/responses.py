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
from headrace.cli.recorded import recorded
from headrace.memory.batches import erase as erase_batches
from headrace.memory.caches import erase as erase_caches
from headrace.memory.completions import erase as erase_completions
from headrace.memory.database import Database
from headrace.memory.files import erase as erase_files
from headrace.memory.responses import erase
from headrace.models.store import Layout, open_home


def run_erase(flags: Mapping[str, Any], config: Path | None, *, tenant: str, json: bool) -> None:
    """Erase everything that is stored of a tenant; rows are overwritten where they were, files are unlinked."""
    settings = compose(flags, os.environ, config).settings
    layout = open_home(settings.home)
    with recorded(settings.home, "responses erase", tenant), Database(layout.database) as database:
        erased = erase_stored(database, layout, tenant)
        database.empty_log()
    if json:
        typer.echo(jsonlib.dumps({"tenant": tenant, **erased}))
        return
    typer.echo(
        f"Erased {erased['responses']} responses, {erased['conversations']} conversations, {erased['completions']} "
        f"chat completions, {erased['files']} files, {erased['batches']} batches and {erased['caches']} caches of "
        f"{tenant}"
    )


def erase_stored(database: Database, layout: Layout, tenant: str) -> dict[str, int]:
    """Erase them; how many of each kind. The database's log is still to be emptied."""
    responses, conversations = database.transact(erase, tenant)
    completions = database.transact(erase_completions, tenant)
    batches = database.transact(erase_batches, tenant)
    files = database.transact(erase_files, tenant)
    caches = database.transact(erase_caches, tenant)
    for file_id in files:
        (layout.files / file_id).unlink(missing_ok=True)
    found = {"responses": responses, "conversations": conversations, "completions": completions}
    return found | {"files": len(files), "batches": batches, "caches": caches}
