"""What can be typed behind `headrace top`. Imports what does the work only when it is asked for."""

from typing import Annotated

import typer

from headrace.cli.options import Config, Json


def top(
    url: Annotated[
        str | None, typer.Argument(help="Address of the server. [default: the one that the settings name]")
    ] = None,
    *,
    key: Annotated[str | None, typer.Option(help="Key of scope observe or admin. [default: HEADRACE_API_KEY]")] = None,
    once: Annotated[bool, typer.Option("--once", help="Print one frame and end.")] = False,
    json: Json = False,
    config: Config = None,
) -> None:
    """Watch a running server: requests, batches, pages, cache hits; Ctrl-C ends it."""
    from headrace.cli.residents import Server
    from headrace.cli.top import run_top

    run_top(Server(url, key, config, "observe"), once=once, json=json)
