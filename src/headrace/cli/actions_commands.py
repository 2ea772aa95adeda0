"""What can be typed as `headrace actions`. Imports what does the work only when it is asked for."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import Address, Config, Home, Json, Key
from headrace.core.errors import InvalidRequest


def actions(
    *,
    who: Annotated[str | None, typer.Option(help="Only those of this key, subject or tenant.")] = None,
    action: Annotated[str | None, typer.Option(help='Only those whose name begins so: "DELETE /v1/accounts".')] = None,
    target: Annotated[str | None, typer.Option(help="Only those that were done to this.")] = None,
    outcome: Annotated[str | None, typer.Option(help="begun, done, refused, failed or unknown.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many, newest first.")] = 100,
    after: Annotated[int | None, typer.Option(min=1, help="Those before the one of this number.")] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare the state directory's list with its transparency log instead.")
    ] = False,
    trust: Annotated[
        Path | None, typer.Option("--trust", help="With --verify: trust file that the log's checkpoint must satisfy.")
    ] = None,
    url: Address = None,
    key: Key = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List what administrators did, over HTTP and by commands; or verify that list against the log."""
    given = {"who": who, "action": action, "target": target, "outcome": outcome, "after": after, "limit": limit}
    query = {name: str(value) for name, value in given.items() if value is not None}
    if verify:
        from headrace.cli.actions import run_verify

        if url is not None:
            raise InvalidRequest("--verify: the list is compared in the state directory; leave out --url.")
        run_verify(trust, {"home": home}, config, json=json)
    elif url is not None:
        from headrace.cli.actions import run_list_there
        from headrace.cli.residents import Server

        run_list_there(Server(url, key, config), query, json=json)
    else:
        from headrace.cli.actions import run_list

        run_list(query, {"home": home}, config, json=json)
