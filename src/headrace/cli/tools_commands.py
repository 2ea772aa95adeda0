"""What can be typed behind `headrace tools`. Imports what does the work only when it is asked for."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import Config, Json

tools_app = typer.Typer(help="See what tools are taken for.", no_args_is_help=True, rich_markup_mode=None)


@tools_app.command("digest")
def tools_digest(
    file: Annotated[
        Path, typer.Argument(help="JSON: declarations of tools as a client sends them, or a whole request.")
    ],
    *,
    config: Config = None,
    json: Json = False,
) -> None:
    """Print the digest of each tool's declaration, for its `manifest`, and what it is taken for."""
    from headrace.cli.tools import run_digest

    run_digest(file, config, json=json)
