"""What can be typed about the transparency log: `headrace log` and `headrace witness`. Imports what does the work only
when it is asked for."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import Config, Home, Json

log_app = typer.Typer(
    help="The transparency log: what it has, and that it holds.", no_args_is_help=True, rich_markup_mode=None
)
witness_app = typer.Typer(help="Cosign the checkpoints of other logs.", no_args_is_help=True, rich_markup_mode=None)

Place = Annotated[str | None, typer.Argument(help="Folder or URL of a log. [default: the state directory's]")]
Trust = Annotated[Path | None, typer.Option("--trust", help="Trust file that its checkpoint must satisfy.")]


@log_app.command("show")
def log_show(
    place: Place = None, *, trust: Trust = None, home: Home = None, config: Config = None, json: Json = False
) -> None:
    """Show the newest checkpoint: origin, size, root, and who signed it."""
    from headrace.cli.log_show import run_show

    run_show(place, trust, {"home": home}, config, json=json)


@log_app.command("audit")
def log_audit(
    place: Place = None,
    *,
    trust: Trust = None,
    all_signatures: Annotated[
        bool, typer.Option("--all-signatures", help="Verify every envelope's signature, not one in a hundred.")
    ] = False,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Recompute every hash and the root. In the state directory also compare what is kept with what was logged."""
    from headrace.cli.log_audit import run_audit

    run_audit(place, trust, {"home": home}, config, all_signatures=all_signatures, json=json)


@log_app.command("prove")
def log_prove(
    item: Annotated[str, typer.Argument(help="Index of an entry, or the id of a record in the state directory.")],
    place: Place = None,
    *,
    home: Home = None,
    config: Config = None,
) -> None:
    """Print a .tlog-proof: that the log has an entry, verified offline by whoever has a trust file."""
    from headrace.cli.log_show import run_prove

    run_prove(item, place, {"home": home}, config)


@log_app.command("mirror")
def log_mirror(
    url: Annotated[str, typer.Argument(help="URL of the log, such as https://example.com/log.")],
    folder: Annotated[Path, typer.Argument(help="Folder that the log is kept in.")],
    *,
    trust: Trust = None,
    json: Json = False,
) -> None:
    """Bring a copy of a log up to date, after checking that it has only grown. Keep the copy: it shows a fork."""
    from headrace.cli.log_mirror import run_mirror

    run_mirror(url, folder, trust, json=json)


@log_app.command("trust-file")
def log_trust_file(*, home: Home = None, config: Config = None) -> None:
    """Print the trust file that verifies this node: its log's keys, its own, its witnesses and their quorum."""
    from headrace.cli.log_show import run_trust_file

    run_trust_file({"home": home}, config)


Folder = Annotated[Path, typer.Argument(help="Folder of the witness's keys and of what it remembers.")]
Name = Annotated[str | None, typer.Option("--name", help="Its name for ever, a URL without scheme. [default: made]")]


@witness_app.command("serve")
def witness_serve(
    folder: Folder,
    *,
    trust: Annotated[Path, typer.Option("--trust", help="Trust file whose `log` lines name the logs to witness.")],
    name: Name = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8009,
) -> None:
    """Cosign checkpoints that only grow, over C2SP tlog-witness. Best run by somebody else, on another machine."""
    from headrace.cli.witness import run_witness

    run_witness(folder, name, trust, host, port)


@witness_app.command("key")
def witness_key(folder: Folder, *, name: Name = None) -> None:
    """Print the witness's verifier keys, for settings and trust files; they are made if there are none."""
    from headrace.cli.witness import run_keys

    run_keys(folder, name)
