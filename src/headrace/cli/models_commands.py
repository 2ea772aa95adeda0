"""What can be typed behind `headrace models`. Imports what does the work only when it is asked for."""

from typing import Annotated

import typer

from headrace.cli.options import Config, Home, Json, Key, ServedName, Url

models_app = typer.Typer(
    help="List models; see and change which of them a running server has in memory.", rich_markup_mode=None
)


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, *, home: Home = None, config: Config = None, json: Json = False) -> None:
    """List the models that are installed, and those that can be pulled by name; or ask a running server."""
    if context.invoked_subcommand is not None:
        return
    from headrace.cli.pull import run_models

    run_models({"home": home}, config, json=json)


@models_app.command("ps")
def models_ps(*, url: Url = None, key: Key = None, config: Config = None, json: Json = False) -> None:
    """Show which models a running server has in memory, and what they hold."""
    from headrace.cli.residents import Server, run_ps

    run_ps(Server(url, key, config), json=json)


@models_app.command("load")
def models_load(
    name: ServedName, *, url: Url = None, key: Key = None, config: Config = None, json: Json = False
) -> None:
    """Have a running server load a model that it serves, before somebody asks for it."""
    from headrace.cli.residents import Server, run_load

    run_load(Server(url, key, config), name, json=json)


@models_app.command("unload")
def models_unload(
    name: ServedName,
    *,
    wait: Annotated[bool, typer.Option(help="Wait for the requests that use it, or refuse.")] = True,
    url: Url = None,
    key: Key = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Have a running server unload a model; requests that use it end as they would."""
    from headrace.cli.residents import Server, run_unload

    run_unload(Server(url, key, config), name, waits=wait, json=json)
