"""What can be typed behind `headrace keys`. Imports what does the work only when it is asked for."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from headrace.cli.options import AccountsKey, Address, Config, Home, Json
from headrace.core.request import SCOPES

keys_app = typer.Typer(help="Issue and take back API keys.", no_args_is_help=True, rich_markup_mode=None)

KeyName = Annotated[str, typer.Argument(help="The key's name.")]


@keys_app.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="What to call the key.")],
    *,
    tenant: Annotated[str, typer.Option(help="Whose caches and limits it uses.")] = "local",
    scope: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(SCOPES[:-1])} or {SCOPES[-1]}; may be repeated.")
    ] = None,
    priority: Annotated[int, typer.Option(help="The most urgent that its requests may be; larger goes first.")] = 0,
    share: Annotated[float, typer.Option(help="Its tenant's weight beside others of the same priority.")] = 1.0,
    user: Annotated[str | None, typer.Option(help="Whom of the tenant its requests are for.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="What its spending counts under beside; repeatable.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="What its requests hold, as restricted; repeatable.")] = None,
    route: Annotated[list[str] | None, typer.Option(help="A model that it may ask for; repeatable. None: any.")] = None,
    expires: Annotated[
        datetime | None, typer.Option(help="When it ends, UTC.", formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%SZ"])
    ] = None,
    url: Address = None,
    key: AccountsKey = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Issue a key; it is shown this once and stored only as a hash."""
    from headrace.cli.issue import run_add
    from headrace.cli.keys import KeyRights

    rights = KeyRights(
        tenant=tenant,
        scopes=tuple(scope or ["generate"]),
        priority=priority,
        share=share,
        user=user,
        tags=tuple(tag or ()),
        labels=frozenset(label or ()),
        routes=frozenset(route or ()),
        expires=None if expires is None else expires.replace(tzinfo=UTC),
    )
    if url is not None:
        from headrace.cli import running_issue
        from headrace.cli.residents import Server

        running_issue.run_add(Server(url, key, config, "accounts"), name, rights, json=json)
        return
    run_add(name, rights, {"home": home}, config, json=json)


@keys_app.command("list")
def keys_list(
    *, url: Address = None, key: AccountsKey = None, home: Home = None, config: Config = None, json: Json = False
) -> None:
    """List the keys by name, never the keys themselves."""
    if url is not None:
        from headrace.cli import running_issue
        from headrace.cli.residents import Server

        running_issue.run_list(Server(url, key, config, "accounts"), json=json)
        return
    from headrace.cli.issue import run_list

    run_list({"home": home}, config, json=json)


@keys_app.command("remove")
def keys_remove(
    name: KeyName, *, url: Address = None, key: AccountsKey = None, home: Home = None, config: Config = None
) -> None:
    """Take a key back. Without --url, SIGHUP tells a running server."""
    if url is not None:
        from headrace.cli import running_issue
        from headrace.cli.residents import Server

        server = Server(url, key, config, "accounts")
        running_issue.run_remove(server, name)
        return
    from headrace.cli.issue import run_remove

    run_remove(name, {"home": home}, config)


@keys_app.command("disable")
def keys_disable(
    name: KeyName, *, url: Address = None, key: AccountsKey = None, home: Home = None, config: Config = None
) -> None:
    """Have a key not be valid until it is enabled again. Without --url, SIGHUP tells a running server."""
    if url is not None:
        from headrace.cli import running_issue
        from headrace.cli.residents import Server

        server = Server(url, key, config, "accounts")
        running_issue.run_disable(server, name, is_disabled=True)
        return
    from headrace.cli.issue import run_disable

    run_disable(name, {"home": home}, config, is_disabled=True)


@keys_app.command("enable")
def keys_enable(
    name: KeyName, *, url: Address = None, key: AccountsKey = None, home: Home = None, config: Config = None
) -> None:
    """Have a disabled key be valid again. Without --url, SIGHUP tells a running server."""
    if url is not None:
        from headrace.cli import running_issue
        from headrace.cli.residents import Server

        server = Server(url, key, config, "accounts")
        running_issue.run_disable(server, name, is_disabled=False)
        return
    from headrace.cli.issue import run_disable

    run_disable(name, {"home": home}, config, is_disabled=False)
