"""`headrace witness`: a witness of others' logs, as a process of its own."""

import secrets
from pathlib import Path
from typing import Final

import typer

from headrace.cli.log_reading import read_trust_file
from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest
from headrace.gateway.notary.witness_app import WitnessApp
from headrace.memory.key_files import read_or_make
from headrace.memory.witness_state import WitnessState
from headrace.trust.log.fault import LogFault
from headrace.trust.log.keys import VerifierKey
from headrace.trust.log.log_keys import KeySet, make_witness_keys, parse_witness_keys

KEY_FILE: Final = "witness.keys"


def run_keys(folder: Path, name: str | None) -> None:
    """Print the witness's verifier keys, made if there are none."""
    for key in _keys(folder, name).keys:
        typer.echo(key)


def run_witness(folder: Path, name: str | None, trust: Path, host: str, port: int) -> None:
    """Serve until a signal says stop."""
    import uvicorn

    logs: dict[str, list[VerifierKey]] = {}
    for log in read_trust_file(trust).logs:
        logs.setdefault(log.key.name, []).append(log.key)
    if not logs:
        raise InvalidRequest(f"{trust} names no log, so there is nothing to witness; write a line `log VKEY`.")
    keys = _keys(folder, name)
    state = WitnessState(folder / "state")
    try:
        app = WitnessApp(logs, keys, state, SystemClock())
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=5,
            limit_concurrency=256,
        )
        typer.echo(f"The witness {keys.name} of {', '.join(sorted(logs))}, at http://{host}:{port}")
        for key in keys.keys:
            typer.echo(f"  {key}")
        uvicorn.Server(config).run()
    finally:
        state.close()


def _keys(folder: Path, name: str | None) -> KeySet:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / KEY_FILE
    wanted = name or f"headrace.local/witness/{secrets.token_hex(8)}"
    try:
        keys = parse_witness_keys(read_or_make(path, lambda: make_witness_keys(wanted, secrets.token_bytes)))
    except LogFault as error:
        raise InvalidRequest(f"{path}: {error}") from error
    if name is not None and keys.name != name:
        raise InvalidRequest(
            f"--name: the keys in {path} are of {keys.name!r}; a witness keeps its name.", param="name"
        )
    return keys
