"""`headrace erase` and `headrace backup`: what is kept of a tenant goes, and what is kept is copied whole.

Beside a running server or without one. Who a tenant was is erased everywhere that this machine keeps it; a settings
file is its owner's, and what it still names is told.
"""

import asyncio
import json as jsonlib
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from headrace.cli.config import Settings, compose
from headrace.cli.key_source import keys_in_force
from headrace.cli.keys import load_keys, save_keys
from headrace.cli.log import log_folder
from headrace.cli.record_erasure import erase_records
from headrace.cli.recorded import recorded
from headrace.cli.responses import erase_stored
from headrace.core.errors import Unavailable
from headrace.gateway.accounts.recovery import take_journal
from headrace.gateway.settings import GatewaySettings
from headrace.memory import actions, endorsements, rules, usage
from headrace.memory.backup import Places, copy_state
from headrace.memory.database import Database
from headrace.memory.key_files import LOG_KEYS
from headrace.memory.store import Store
from headrace.models.store import Layout, open_home


def run_erase(flags: Mapping[str, Any], config: Path | None, *, tenant: str, json: bool) -> None:
    """Erase a tenant."""
    settings = compose(flags, os.environ, config).settings
    with recorded(settings.home, "erase", tenant):
        erased, names = _erase(settings, open_home(settings.home), tenant)
    still = _still_named(settings.gateway, tenant, names, [one.name for one in settings.issued if one.tenant == tenant])
    if json:
        typer.echo(jsonlib.dumps({"tenant": tenant, **erased, "still_named": still}))
        return
    for what, count in erased.items():
        typer.echo(f"{count:>8}  {what.replace('_', ' ')}")
    typer.echo(
        f"Erased {tenant}. A running server lets go of it when it is told of the keys (SIGHUP); what it was working on "
        "is stored when it ends, and what it keeps in memory (answers, prefixes) goes then: erase again afterwards."
    )
    if still:
        typer.echo(f"The settings file still names it, and only you can change that: {', '.join(still)}.")


def _erase(settings: Settings, layout: Layout, tenant: str) -> tuple[dict[str, int], list[str]]:
    """How much of what was erased, and the keys that the tenant had."""
    names = _take_back_keys(settings, tenant)
    asyncio.run(_take_in_journals(layout))
    erased: dict[str, int] = {"keys": len(names)}
    with Database(layout.database) as database:
        erased |= erase_stored(database, layout, tenant)
        found = database.transact(usage.erase, tenant, names)
        erased |= {"usage_records": found.num_records, "usage_days": found.num_days, "budget_sums": found.num_periods}
        erased["rules"] = database.transact(rules.erase, tenant, names)
        erased["actions"] = database.transact(actions.erase, tenant, names)
        database.empty_log()
    if layout.endorsements.exists():
        with Database(layout.endorsements, endorsements.MIGRATIONS) as database:
            erased["endorsements"] = database.transact(endorsements.erase, tenant)
            database.empty_log()
    erased["records"] = erase_records(settings, layout, tenant)
    erased["pages"] = _erase_pages(settings, tenant)
    return erased, names


def run_backup(target: Path, flags: Mapping[str, Any], config: Path | None, *, json: bool) -> None:
    """Copy the database, files, keys and journals."""
    settings = compose(flags, os.environ, config).settings
    source = open_home(settings.home)
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise Unavailable(f"{target} cannot be made ({error.strerror or error}); name another folder.") from error
    old = replace(_places(source, keys_in_force(settings)), log=log_folder(settings.trust.log, source))
    copied = copy_state(old, _places(Layout(target), None))
    if json:
        typer.echo(
            jsonlib.dumps(
                {
                    "folder": str(target),
                    "bytes": copied.num_bytes,
                    "files": copied.num_files,
                    "journals": copied.num_journals,
                    "keys": copied.has_keys,
                    "records": copied.has_records,
                }
            )
        )
        return
    typer.echo(
        f"Copied the database, {copied.num_files} files, {'the' if copied.has_keys else 'no'} keys and "
        f"{copied.num_journals} journals to {target}, {copied.num_bytes / 1e6:.1f} MB. Models and the disk cache are "
        f"not in it. `headrace serve --home {target}` runs on the copy."
    )
    if copied.has_records:
        typer.echo(
            f"Records and their log are in it, but not the log's keys ({source.signing_keys / LOG_KEYS}): with them in "
            "two places the log could fork. Keep them apart; the guide to the log says how to restore it."
        )


def _places(layout: Layout, keys: Path | None) -> Places:
    return Places(
        database=layout.database,
        files=layout.files,
        journals=layout.accounts,
        keys=layout.keys if keys is None else keys,
        provenance=layout.provenance,
        log=layout.log,
        signing_keys=layout.signing_keys,
        delegations=layout.delegations,
        delegation_key=layout.delegation_key,
    )


def _take_back_keys(settings: Settings, tenant: str) -> list[str]:
    """Remove the tenant's keys from the keys file; the names of all that it has, the settings file's among them."""
    path = keys_in_force(settings)
    entries = [] if path is None or not path.exists() else load_keys(path)
    gone = [entry.name for entry in entries if entry.tenant == tenant]
    if gone and path is not None:
        save_keys(path, [entry for entry in entries if entry.tenant != tenant])
    return [*gone, *(one.name for one in settings.issued if one.tenant == tenant)]


async def _take_in_journals(layout: Layout) -> None:
    """What ended processes left belongs to the records that are erased."""
    store = Store(layout.database)
    await store.open()
    try:
        journal, _ = await take_journal(store, layout.accounts, os.write)
        journal.remove()
    finally:
        await store.close()


def _erase_pages(settings: Settings, tenant: str) -> int:
    # Imported here because it takes a moment.
    from headrace.cli.cache import erase_pages

    pages, _ = erase_pages(settings, tenant)
    return pages


def _still_named(gateway: GatewaySettings, tenant: str, keys: list[str], issued: list[str]) -> list[str]:
    subjects = {("tenant", tenant), *(("key", key) for key in keys)}
    found = [f"keys {name}" for name in issued]
    found += [f"tenants.{tenant}"] if tenant in gateway.tenants else []
    for what, listed in (("budget", gateway.budgets), ("limit", gateway.limits)):
        for one in listed:
            kind, name = one.subject.kind, one.subject.name
            if (kind, name) in subjects or (kind == "user" and name.startswith(f"{tenant}/")):
                found.append(f"{what} {one.name}")
    return found
