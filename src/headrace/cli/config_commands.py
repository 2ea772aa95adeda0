"""What can be typed behind `headrace config`. Imports what does the work only when it is asked for."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import Json

config_app = typer.Typer(
    help="Check, show and describe the settings file.", no_args_is_help=True, rich_markup_mode=None
)

File = Annotated[Path | None, typer.Argument(help="TOML file with settings. [default: ./headrace.toml if it is there]")]


@config_app.command("check")
def config_check(file: File = None, *, json: Json = False) -> None:
    """Say everything that is wrong with a settings file, with lines; look at secrets, certificates and models, too."""
    from headrace.cli.config_files import run_check

    run_check(file, json=json)


@config_app.command("show")
def config_show(file: File = None) -> None:
    """Print the settings in force and where each comes from; secrets are the places where they are found."""
    from headrace.cli.config_files import run_show

    run_show(file)


@config_app.command("schema")
def config_schema() -> None:
    """Print the JSON schema of the settings file, for editors."""
    from headrace.cli.config_files import run_schema

    run_schema()


@config_app.command("import-litellm")
def config_import_litellm(
    file: Annotated[Path, typer.Argument(help="Configuration file of LiteLLM's proxy, YAML.")],
) -> None:
    """Print what a configuration of LiteLLM's proxy says as a settings file; what has no counterpart is listed."""
    from headrace.cli.config_files import run_import_litellm

    run_import_litellm(file)
