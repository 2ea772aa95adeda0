"""What can be typed behind `headrace monitors`: what the monitors of a running server have against accounts, and taking
it back. Imports what does the work only when it is asked for."""

from typing import Annotated

import typer

from headrace.cli.options import Config, Json, Key, Url

monitors_app = typer.Typer(
    help="See what monitors have against accounts, and take it back.", no_args_is_help=True, rich_markup_mode=None
)


@monitors_app.command("show")
def monitors_show(*, url: Url = None, key: Key = None, config: Config = None, json: Json = False) -> None:
    """List the accounts that are flagged, and why."""
    from headrace.cli.monitors import run_show
    from headrace.cli.residents import Server

    run_show(Server(url, key, config), json=json)


@monitors_app.command("reset")
def monitors_reset(
    account: Annotated[str, typer.Argument(help="The account, as `headrace monitors show` names it.")],
    *,
    url: Url = None,
    key: Key = None,
    config: Config = None,
) -> None:
    """Take an account's flags back and count it anew; who did so is recorded."""
    from headrace.cli.monitors import run_reset
    from headrace.cli.residents import Server

    run_reset(Server(url, key, config), account)
