"""What can be typed behind `headrace models`. Imports what does the work only when it is asked for."""

from pathlib import Path
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


@models_app.command("sign")
def models_sign(
    name: Annotated[str, typer.Argument(help="Name of an installed model, or path of a model or adapter.")],
    *,
    key: Annotated[Path, typer.Option(help="PEM file of a private key on P-256, P-384 or P-521.")],
    home: Home = None,
    config: Config = None,
) -> None:
    """Sign a model's files (OpenSSF Model Signing); the signature is written beside them."""
    from headrace.cli.model_papers import run_sign

    run_sign(name, key, {"home": home}, config)


@models_app.command("verify")
def models_verify(
    name: Annotated[str, typer.Argument(help="Name of an installed model, or path of a model or adapter.")],
    *,
    key: Annotated[
        list[Path] | None, typer.Option(help="PEM file of a public key that may sign; unset: those of the settings.")
    ] = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Check that a model's files are what somebody who is trusted signed; exits with 1 if not."""
    from headrace.cli.model_papers import run_verify

    run_verify(name, tuple(key or ()), {"home": home}, config, json=json)


@models_app.command("bom")
def models_bom(
    name: Annotated[str, typer.Argument(help="Name of an installed model, or path of one.")],
    *,
    output: Annotated[Path | None, typer.Option(help="File to write; unset: the terminal.")] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Write a model's bill of materials (CycloneDX 1.7, JSON)."""
    from headrace.cli.model_papers import run_bom

    run_bom(name, output, {"home": home}, config)
