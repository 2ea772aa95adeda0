"""`headrace cache`: what the prefix cache's disk tier holds, and erasing it, beside a running server or without one.

Finds the directory by the same settings as `serve`. Tenants and models lie there under hashes; names are told where
this machine knows them.
"""

import json as jsonlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from headrace.cli.assembly import disk_root
from headrace.cli.config import Settings, compose
from headrace.cli.key_source import keys_in_force
from headrace.cli.keys import load_keys
from headrace.core.errors import HeadraceError, Unavailable
from headrace.core.request import Principal
from headrace.engine.kv.page_folder import model_folder, tenant_folder
from headrace.engine.kv.page_survey import FolderStats, erase, survey
from headrace.models.digest import DigestMemory
from headrace.models.load import open_checkpoint
from headrace.models.store import Layout, installed_names, resolve


def run_stats(
    flags: Mapping[str, Any], config: Path | None, *, tenant: str | None, model: str | None, json: bool
) -> None:
    """Print pages and bytes by tenant and model."""
    settings = compose(flags, os.environ, config).settings
    root = disk_root(settings)
    found = survey(root, tenant, _digest(settings, model))
    rows = [_row(one, _tenants(settings, tenant), _models(settings, model)) for one in found.folders]
    if json:
        document = {"root": str(root), "enabled": settings.disk_cache != "off", "folders": rows}
        document |= {"foreign": found.num_foreign, "unreadable": found.num_unreadable}
        typer.echo(jsonlib.dumps(document, indent=2))
        return
    state = "off; `headrace serve --disk-cache on` uses it" if settings.disk_cache == "off" else "on"
    typer.echo(f"Disk cache in {root} ({state})")
    for row in rows:
        sealed = ", encrypted" if row["encrypted"] else ""
        typer.echo(
            f"{row['tenant']:<24} {row['model']:<28} {row['pages']:>7} pages {row['bytes'] / 1e6:>10.1f} MB  "
            f"{row['oldest'][:10]} to {row['newest'][:10]}{sealed}"
        )
    pages, size = sum(row["pages"] for row in rows), sum(row["bytes"] for row in rows)
    typer.echo(f"{pages} pages, {size / 1e6:.1f} MB in all")
    if found.num_foreign or found.num_unreadable:
        typer.echo(f"{found.num_foreign} files are no pages of ours, {found.num_unreadable} cannot be read")


def run_clear(
    flags: Mapping[str, Any], config: Path | None, *, tenant: str | None, model: str | None, json: bool
) -> None:
    """Erase pages, of one tenant or model if named."""
    settings = compose(flags, os.environ, config).settings
    root = disk_root(settings)
    pages, size = erase_pages(settings, tenant, model)
    if json:
        typer.echo(jsonlib.dumps({"root": str(root), "pages": pages, "bytes": size}))
        return
    typer.echo(f"Erased {pages} pages, {size / 1e6:.1f} MB, from {root}")


def erase_pages(settings: Settings, tenant: str | None = None, model: str | None = None) -> tuple[int, int]:
    """Erase them where the settings say they are; returns pages and bytes. Raises Unavailable."""
    root = disk_root(settings)
    try:
        return erase(root, tenant, _digest(settings, model))
    except OSError as error:
        raise Unavailable(
            f"{error.filename or root} cannot be erased ({error.strerror or error}); check the folder's permissions.",
            code="disk_cache_unavailable",
        ) from error


def _row(one: FolderStats, tenants: Mapping[str, str], models: Mapping[str, str]) -> dict[str, Any]:
    return {
        "tenant": tenants.get(one.tenant, one.tenant),
        "model": models.get(one.model, one.model),
        "pages": one.num_pages,
        "bytes": one.num_bytes,
        "encrypted": one.num_encrypted,
        "oldest": datetime.fromtimestamp(one.oldest_s, UTC).isoformat(timespec="seconds"),
        "newest": datetime.fromtimestamp(one.newest_s, UTC).isoformat(timespec="seconds"),
    }


def _digest(settings: Settings, model: str | None) -> str | None:
    """A model's digest by its name; a digest stands for itself, also where the model has been removed."""
    if model is None or model.startswith("sha256:"):
        return model
    path = resolve(model, settings.home)
    return open_checkpoint(path, DigestMemory(Layout(settings.home).packed)).digest()


def _tenants(settings: Settings, named: str | None) -> dict[str, str]:
    keys = keys_in_force(settings)
    known = {Principal().tenant, *([named] if named else [])}
    if keys is not None and keys.exists():
        known |= {entry.tenant for entry in load_keys(keys)}
    return {tenant_folder(tenant): tenant for tenant in known}


def _models(settings: Settings, named: str | None) -> dict[str, str]:
    found = {}
    for name in {*installed_names(settings.home), *([named] if named else [])}:
        try:
            digest = _digest(settings, name)
        except HeadraceError:  # a model that is damaged has no pages to be named
            continue
        if digest is not None:
            found[model_folder(digest)] = name
    return found
