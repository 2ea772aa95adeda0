"""What can be typed about accounts and the state directory: `headrace budgets`, `usage`, `erase` and `backup`. Imports
what does the work only when it is asked for."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import AccountsKey, Address, Config, Home, Json

budgets_app = typer.Typer(help="What may be spent, and what is.", no_args_is_help=True, rich_markup_mode=None)

BudgetName = Annotated[str, typer.Argument(help="The budget's name.")]
Tenant = Annotated[str, typer.Option(help="Whose.")]


@budgets_app.command("list")
def budgets_list(
    *, url: Address = None, key: AccountsKey = None, home: Home = None, config: Config = None, json: Json = False
) -> None:
    """Show every budget: what is spent, reserved and left in the window that goes on now."""
    from headrace.cli.accounts import run_budgets
    from headrace.cli.books import open_books

    run_budgets(open_books(url, key, {"home": home}, config), json=json)


@budgets_app.command("set")
def budgets_set(
    name: BudgetName,
    *,
    subject: Annotated[str, typer.Option(help="all, or tenant:, key:, user:TENANT/, tag: or route: and NAME or *.")],
    window: Annotated[str, typer.Option(help="minute, hour, day, week, month or total; in UTC.")],
    money: Annotated[float | None, typer.Option(help="What may be spent, in the price list's unit.")] = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens of input and output that may be used.")] = None,
    url: Address = None,
    key: AccountsKey = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Add a budget, or change the one of that name. Without --url, SIGHUP tells a running server."""
    from headrace.cli.accounts import run_set
    from headrace.cli.books import open_books

    rule = {"name": name, "subject": subject, "window": window, "money": money, "tokens": tokens}
    run_set(open_books(url, key, {"home": home}, config), rule, json=json)


@budgets_app.command("remove")
def budgets_remove(
    name: BudgetName,
    *,
    url: Address = None,
    key: AccountsKey = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Take a budget back. Without --url, SIGHUP tells a running server."""
    from headrace.cli.accounts import run_remove
    from headrace.cli.books import open_books

    run_remove(open_books(url, key, {"home": home}, config), name, json=json)


def usage(
    *,
    by: Annotated[
        str | None, typer.Option(help="Sums by some of tenant, key, user, tag, route, model, backend, day: key,day.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="From this date or time on, UTC: 2026-11-01.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this date or time.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    only_key: Annotated[str | None, typer.Option("--of-key", help="Only of the key of this name.")] = None,
    user: Annotated[str | None, typer.Option(help="Only of this user.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only with this tag.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model of a backend.")] = None,
    limit: Annotated[int, typer.Option(help="Records on a page.")] = 100,
    after: Annotated[int | None, typer.Option(help="The number of the last record of the page before.")] = None,
    url: Address = None,
    key: AccountsKey = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Show what was used: single requests, newest first, or sums by group."""
    from headrace.cli.accounts import run_usage
    from headrace.cli.books import open_books

    given = {"by": by, "since": since, "until": until, "tenant": tenant, "key": only_key, "user": user, "tag": tag}
    given |= {"model": model, "limit": str(limit), "after": None if after is None else str(after)}
    query = {name: value for name, value in given.items() if value is not None}
    run_usage(open_books(url, key, {"home": home}, config), query, json=json)


def erase(*, tenant: Tenant, home: Home = None, config: Config = None, json: Json = False) -> None:
    """Erase a tenant: keys, usage, responses, conversations, completions, files, batches, caches and disk pages."""
    from headrace.cli.state import run_erase

    run_erase({"home": home}, config, tenant=tenant, json=json)


def backup(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    *,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Copy the state directory's memory, also of a running server: database, files, keys and journals."""
    from headrace.cli.state import run_backup

    run_backup(folder, {"home": home}, config, json=json)
