"""`headrace keys ... --url`: keys of a running server, by its routes; what is changed holds for its next request."""

import json as jsonlib
from datetime import UTC, datetime
from urllib.parse import quote

import typer

from headrace.cli.keys import KeyRights
from headrace.cli.residents import Server

_KEYS = "/v1/accounts/keys"


def run_add(server: Server, name: str, rights: KeyRights, *, json: bool) -> None:
    """Issue a key and print it."""
    given = {
        "name": name,
        "tenant": rights.tenant,
        "scopes": list(rights.scopes),
        "priority": rights.priority,
        "share": rights.share,
        "user": rights.user,
        "tags": list(rights.tags),
        "labels": sorted(rights.labels),
        "routes": sorted(rights.routes),
        "expires": None if rights.expires is None else rights.expires.timestamp(),
    }
    made = server.ask(_KEYS, given)
    if json:
        typer.echo(jsonlib.dumps({**made, "key": made["secret"]}))
        return
    typer.echo(f"Key {name} of tenant {rights.tenant}; it is not shown again:\n", err=True)
    typer.echo(made["secret"])


def run_list(server: Server, *, json: bool) -> None:
    """Print the keys, those of the settings file too."""
    document = server.ask(_KEYS)
    if json:
        typer.echo(jsonlib.dumps(document["data"], indent=2))
        return
    for one in document["data"]:
        state = "  disabled" if one["is_disabled"] else ""
        state += "" if one["expires"] is None else f"  until {datetime.fromtimestamp(one['expires'], UTC):%Y-%m-%d}"
        state += "  (settings file)" if one["is_fixed"] else ""
        rights = f"{','.join(one['scopes']):<24} {one['priority']:>4} {one['share']:>6g}"
        typer.echo(f"{one['name']:<20} {one['tenant']:<20} {rights}{state}")


def run_remove(server: Server, name: str) -> None:
    """Take a key back."""
    server.ask(f"{_KEYS}/{quote(name, safe='')}", method="DELETE")
    typer.echo(f"Removed {name}.")


def run_disable(server: Server, name: str, *, is_disabled: bool) -> None:
    """Have a key not be valid for now, or valid again."""
    server.ask(f"{_KEYS}/{quote(name, safe='')}", {"is_disabled": is_disabled}, method="PATCH")
    typer.echo(f"{'Disabled' if is_disabled else 'Enabled'} {name}.")
