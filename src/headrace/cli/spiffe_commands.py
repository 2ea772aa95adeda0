"""What can be typed behind `headrace identity`. Imports what does the work only when it is asked for."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import Config, Home, Json

identity_app = typer.Typer(
    help="Identities of workloads: issue them, and see who gets which.", no_args_is_help=True, rich_markup_mode=None
)

Socket = Annotated[
    str | None,
    typer.Option(help="Workload API to ask. [default: spiffe.socket, spiffe.serve, or SPIFFE_ENDPOINT_SOCKET]"),
]


@identity_app.command("serve")
def identity_serve(*, home: Home = None, config: Config = None) -> None:
    """Issue identities over the socket of the settings, without a gateway. Ctrl-C stops it."""
    from headrace.cli.spiffe_programs import run_serve

    run_serve({"home": home}, config)


@identity_app.command("show")
def identity_show(
    *,
    socket: Socket = None,
    audience: Annotated[str | None, typer.Option(help="Fetch a JWT-SVID for it, too, and print it.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Ask a Workload API who this program is, and print what it gives; never the private key."""
    from headrace.cli.spiffe_programs import run_show

    run_show(socket, audience, config, json=json)


@identity_app.command("mint")
def identity_mint(
    spiffe_id: Annotated[str, typer.Argument(help="SPIFFE ID of the trust domain that is issued here.")],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Folder for svid.pem, svid.key (0600) and bundle.pem of an X.509-SVID.")
    ] = None,
    audience: Annotated[
        list[str] | None, typer.Option(help="Print a JWT-SVID for it instead; may be repeated.")
    ] = None,
    ttl: Annotated[float | None, typer.Option(help="Seconds that it is valid. [default: as for others]")] = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Issue an identity by hand, from the keys in the state directory: for a machine without an issuer."""
    from headrace.cli.spiffe_programs import Minting, run_mint

    run_mint(Minting(spiffe_id, out, tuple(audience or ()), ttl), {"home": home}, config)


@identity_app.command("bundle")
def identity_bundle(*, home: Home = None, config: Config = None) -> None:
    """Print the trust domain's bundle (SPIFFE's JWK set), for the settings of others: spiffe.federated."""
    from headrace.cli.spiffe_programs import run_bundle

    run_bundle({"home": home}, config)


@identity_app.command("entries")
def identity_entries(
    *,
    pid: Annotated[int | None, typer.Option(help="Only those that fit this process of now.")] = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """List which programs get which identity."""
    from headrace.cli.spiffe_programs import run_entries

    run_entries(pid, config, json=json)
