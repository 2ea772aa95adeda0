"""`headrace keys`: issuing, listing and taking back API keys. The file itself is `keys.py`'s."""

import json as jsonlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from headrace.cli.config import compose
from headrace.cli.keys import KeyRights, add_key, disable_key, load_keys, remove_key
from headrace.cli.recorded import recorded
from headrace.models.store import Layout, open_home


def run_add(name: str, rights: KeyRights, flags: Mapping[str, Any], config: Path | None, *, json: bool) -> None:
    """Issue a key and print it."""
    path = keys_path(flags, config)
    with recorded(_home(flags, config), "keys add", name, jsonlib.loads(jsonlib.dumps(asdict(rights), default=plain))):
        key = add_key(path, name, rights, datetime.now(UTC))
    if json:
        typer.echo(jsonlib.dumps({"name": name, **asdict(rights), "key": key}, default=plain))
        return
    typer.echo(f"Key {name} of tenant {rights.tenant}; it is not shown again:\n", err=True)
    typer.echo(key)


def run_list(flags: Mapping[str, Any], config: Path | None, *, json: bool) -> None:
    """Print names, tenants, scopes, priorities and shares."""
    path = keys_path(flags, config)
    entries = load_keys(path) if path.exists() else []
    if json:
        typer.echo(jsonlib.dumps([asdict(entry) for entry in entries], indent=2, default=plain))
        return
    if not entries:
        typer.echo(f"No keys in {path}; `headrace keys add NAME` issues one.")
    for entry in entries:
        scopes = ",".join(sorted(entry.scopes))
        rights = f"{scopes:<24} {entry.priority:>4} {entry.share:>6g}"
        state = "  disabled" if entry.is_disabled else ""
        state += f"  until {entry.expires:%Y-%m-%d}" if entry.expires is not None else ""
        typer.echo(f"{entry.name:<20} {entry.tenant:<20} {rights} {entry.created:%Y-%m-%d}{state}")


def plain(value: Any) -> Any:
    """What JSON has no word for: sets as sorted lists, moments as text."""
    return value.isoformat() if isinstance(value, datetime) else sorted(value)


def run_disable(name: str, flags: Mapping[str, Any], config: Path | None, *, is_disabled: bool) -> None:
    """Have a key not be valid for now, or valid again."""
    path = keys_path(flags, config)
    with recorded(_home(flags, config), f"keys {'disable' if is_disabled else 'enable'}", name):
        disable_key(path, name, is_disabled=is_disabled)
    typer.echo(f"{'Disabled' if is_disabled else 'Enabled'} {name}. SIGHUP tells a running server.")


def run_remove(name: str, flags: Mapping[str, Any], config: Path | None) -> None:
    """Take a key back; with a tenant's last one go its pages on disk."""
    path = keys_path(flags, config)
    tenants = {entry.name: entry.tenant for entry in load_keys(path)} if path.exists() else {}
    with recorded(_home(flags, config), "keys remove", name):
        remove_key(path, name)
    typer.echo(f"Removed {name}.")
    tenant = tenants.pop(name)
    if tenant not in tenants.values():
        # Imported here because they take a moment, and only this needs them.
        from headrace.cli.cache import erase_pages

        pages, _ = erase_pages(compose(flags, os.environ, config).settings, tenant)
        if pages:
            typer.echo(f"It was the last key of tenant {tenant}: {pages} pages of its prompts were erased from disk.")


def _home(flags: Mapping[str, Any], config: Path | None) -> Path:
    return compose(flags, os.environ, config).settings.home


def keys_path(flags: Mapping[str, Any], config: Path | None) -> Path:
    """The keys file that is configured, else the one in the state directory, which is created."""
    settings = compose(flags, os.environ, config).settings
    if settings.keys is not None:
        return settings.keys
    open_home(settings.home)
    return Layout(settings.home).keys
