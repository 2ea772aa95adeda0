"""What `headrace identity` does: issue over a socket, show, mint, print the bundle, list entries.

Prints private keys nowhere; `mint` writes one to a file of its owner's. Knows the environment as the other commands do.
"""

import asyncio
import json as jsonlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import SystemRandom
from typing import Any

import typer

from headrace.cli.config import compose
from headrace.cli.spiffe import open_spiffe
from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest, NotFound
from headrace.gateway.workloads.api_source import ApiSource
from headrace.gateway.workloads.contexts import pem
from headrace.memory.authority_file import AuthorityFile
from headrace.models.store import open_home
from headrace.observe.logs import configure_logs
from headrace.server.attestation import Digests, NotAttested, Peer
from headrace.trust.spiffe.authority import Authorities, bundle_of, read_authorities
from headrace.trust.spiffe.bundle import write_bundle
from headrace.trust.spiffe.ids import InvalidSvid, parse_workload_id
from headrace.trust.spiffe.issuer import Issuer, Terms
from headrace.trust.spiffe.settings import EntrySettings, SpiffeSettings

_ENDPOINT = "SPIFFE_ENDPOINT_SOCKET"


@dataclass(frozen=True, slots=True)
class Minting:
    """What to issue by hand."""

    spiffe_id: str
    out: Path | None
    audience: tuple[str, ...]
    ttl_s: float | None


def run_serve(flags: Mapping[str, Any], config: Path | None) -> None:
    """Issue until a signal says stop."""
    settings = compose(flags, os.environ, config).settings
    spiffe = settings.trust.spiffe
    if spiffe.trust_domain is None or spiffe.serve is None:
        raise InvalidRequest(
            "spiffe: names no trust_domain and serve, the socket to issue at; write both under [spiffe].",
            param="spiffe",
        )
    configure_logs(settings.log_level, form=settings.log_format)
    layout = open_home(settings.home)

    async def main() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        for one in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(one, over.set)
        assert spiffe.serve is not None
        async with open_spiffe(spiffe, layout.identity, SystemClock()):
            address = f"unix://{spiffe.serve.absolute()}"
            typer.echo(
                f"Issuing identities of {spiffe.trust_domain} at {address}\n\n"
                f"  export {_ENDPOINT}={address}\n\nCtrl-C stops it."
            )
            await over.wait()

    asyncio.run(main())


def run_show(socket: str | None, audience: str | None, config: Path | None, *, json: bool) -> None:
    """What a Workload API gives this program."""
    spiffe = compose({}, os.environ, config).settings.trust.spiffe
    address = (
        socket or spiffe.socket or (spiffe.serve and f"unix://{spiffe.serve.absolute()}") or os.environ.get(_ENDPOINT)
    )
    if not address:
        raise InvalidRequest(f"socket: none is named; give --socket, or set {_ENDPOINT}.", param="socket")
    if not address.startswith("unix:"):
        # Taken for the name of another machine, it would be asked for in vain for ten seconds.
        raise InvalidRequest(
            f'socket: {address!r} is no address of a socket; write for example "unix:///run/headrace/agent.sock".',
            param="socket",
        )

    async def main() -> dict[str, Any]:
        source = ApiSource(address, SystemClock(), random=SystemRandom())
        async with source.open():
            material = source.material()
            told: dict[str, Any] = {
                "spiffe_id": material.svid.spiffe_id,
                "expires": _shown(material.svid.expires_s),
                "certificates": len(material.svid.certificates),
                "trusts": sorted(material.bundles),
            }
            if audience is not None:
                await source.want(audience)
                told["jwt_svid"] = source.token(audience)
            return told

    _print(asyncio.run(main()), json=json)


def run_mint(minting: Minting, flags: Mapping[str, Any], config: Path | None) -> None:
    """Issue an identity from the keys on disk."""
    spiffe, authorities = _authorities(flags, config)
    terms = Terms(x509_ttl_s=spiffe.x509_ttl_s, jwt_ttl_s=spiffe.jwt_ttl_s, rhythm=spiffe.rhythm)
    issuer = Issuer(authorities, terms, SystemClock(), SystemRandom())
    try:
        spiffe_id = parse_workload_id(minting.spiffe_id)
        if minting.audience:
            typer.echo(issuer.mint_jwt(spiffe_id, minting.audience, ttl_s=minting.ttl_s).token)
            return
        if minting.out is None:
            raise InvalidRequest("out: is missing; name a folder for an X.509-SVID, or --audience for a JWT-SVID.")
        svid = issuer.mint_x509(spiffe_id, ttl_s=minting.ttl_s)
    except InvalidSvid as error:
        raise InvalidRequest(f"{error}.") from error
    minting.out.mkdir(mode=0o700, parents=True, exist_ok=True)
    chain = b"".join(pem("CERTIFICATE", one) for one in svid.certificates)
    bundle = b"".join(pem("CERTIFICATE", one) for one in issuer.bundle.x509_authorities)
    for name, text, mode in (
        ("svid.pem", chain, 0o644),
        ("svid.key", pem("PRIVATE KEY", svid.private_key), 0o600),
        ("bundle.pem", bundle, 0o644),
    ):
        path = minting.out / name
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(text)
    typer.echo(f"Wrote svid.pem, svid.key and bundle.pem to {minting.out}; valid until {_shown(svid.expires_s)}.")


def run_bundle(flags: Mapping[str, Any], config: Path | None) -> None:
    """The bundle of the keys on disk."""
    spiffe, authorities = _authorities(flags, config)
    hint_s = int(spiffe.rhythm.settle_s / 4) or None
    typer.echo(write_bundle(bundle_of(authorities, refresh_hint_s=hint_s)).decode(), nl=False)


def run_entries(pid: int | None, config: Path | None, *, json: bool) -> None:
    """Which programs get which identity."""
    entries = compose({}, os.environ, config).settings.trust.spiffe.entries
    told: dict[str, Any] = {}
    if pid is not None:
        try:
            peer = Peer.of_pid(pid, Digests())
            try:
                attested = asyncio.run(peer.attest())
            finally:
                peer.close()
        except NotAttested as error:
            raise NotFound(f"pid: {pid}: {error}.", param="pid") from error
        entries = tuple(one for one in entries if one.fits(attested))
        told["process"] = {name: getattr(attested, name) for name in ("pid", "uid", "gid", "exe", "sha256")}
    told["entries"] = [_entry(one) for one in entries]
    if json:
        typer.echo(jsonlib.dumps(told))
        return
    if pid is not None:
        typer.echo(" ".join(f"{name}={value}" for name, value in told["process"].items()))
    for entry in told["entries"]:
        typer.echo(entry.pop("id") + "  " + " ".join(f"{name}={value}" for name, value in entry.items()))
    if not told["entries"]:
        typer.echo("No entry fits." if pid is not None else "There are no entries; write [[spiffe.entries]].")


def _entry(entry: EntrySettings) -> dict[str, Any]:
    given = {name: getattr(entry, name) for name in ("uid", "gid", "exe", "sha256", "hint")}
    return {"id": str(entry.id), **{name: value for name, value in given.items() if value not in (None, "")}}


def _authorities(flags: Mapping[str, Any], config: Path | None) -> tuple[SpiffeSettings, Authorities]:
    """The keys on disk, which a running issuer may change at any time: they are only read."""
    settings = compose(flags, os.environ, config).settings
    file = AuthorityFile(open_home(settings.home).identity)
    text = file.load()
    if text is None:
        raise NotFound(f"{file.path}: there are no keys yet; a server with [spiffe] trust_domain makes them.")
    try:
        return settings.trust.spiffe, read_authorities(text)
    except InvalidSvid as error:
        raise InvalidRequest(f"{file.path}: {error}.") from error


def _shown(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).isoformat().replace("+00:00", "Z")


def _print(told: Mapping[str, Any], *, json: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps(told))
        return
    for name, value in told.items():
        typer.echo(f"{name.replace('_', ' ')}: {', '.join(value) if isinstance(value, list) else value}")
