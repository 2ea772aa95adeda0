"""What can be typed behind `headrace keys`. Imports what does the work only when it is asked for."""

from typing import Annotated

import typer

from headrace.cli.options import Config, Home, Json

keys_app = typer.Typer(help="Issue and take back API keys.", no_args_is_help=True, rich_markup_mode=None)


@keys_app.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="What to call the key.")],
    *,
    tenant: Annotated[str, typer.Option(help="Whose caches and limits it uses.")] = "local",
    scope: Annotated[list[str] | None, typer.Option(help="generate, metrics or admin; may be repeated.")] = None,
    priority: Annotated[int, typer.Option(help="The most urgent that its requests may be; larger goes first.")] = 0,
    share: Annotated[float, typer.Option(help="Its tenant's weight beside others of the same priority.")] = 1.0,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Issue a key; it is shown this once and stored only as a hash."""
    from headrace.cli.issue import run_add
    from headrace.cli.keys import KeyRights

    rights = KeyRights(tenant=tenant, scopes=tuple(scope or ["generate"]), priority=priority, share=share)
    run_add(name, rights, {"home": home}, config, json=json)


@keys_app.command("list")
def keys_list(*, home: Home = None, config: Config = None, json: Json = False) -> None:
    """List the keys by name, never the keys themselves."""
    from headrace.cli.issue import run_list

    run_list({"home": home}, config, json=json)


@keys_app.command("remove")
def keys_remove(
    name: Annotated[str, typer.Argument(help="The key's name.")], *, home: Home = None, config: Config = None
) -> None:
    """Take a key back. SIGHUP tells a running server."""
    from headrace.cli.issue import run_remove

    run_remove(name, {"home": home}, config)
