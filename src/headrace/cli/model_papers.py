"""`headrace models sign`, `verify` and `bom`: a model's signature and its bill of materials.

Signs with a key in a file, checks as the server does before it loads, and tells what a model's files say of
themselves. Loads no model.
"""

import json as jsonlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from headrace import __version__
from headrace.cli.config import Settings, compose
from headrace.cli.model_signatures import FILE_SUFFIX, FOLDER_SIGNATURE, SignatureGate, find_signature
from headrace.core.errors import InvalidRequest
from headrace.models.catalog import CATALOG, canonical_name
from headrace.models.digest import DigestMemory, sha256_of
from headrace.models.load import open_checkpoint
from headrace.models.registry import architecture_for
from headrace.models.store import Layout, resolve
from headrace.models.tree import digests_of, list_files
from headrace.trust.records.dsse import IN_TOTO, pae
from headrace.trust.supply.bom import ModelFacts, make_bom
from headrace.trust.supply.check import INERT, Found, find_unsafe
from headrace.trust.supply.settings import Mode, SupplySettings
from headrace.trust.supply.signer import hint_of, read_private_key, sign
from headrace.trust.supply.statement import write_signature, write_statement


def run_sign(name: str, key: Path, flags: Mapping[str, Any], config: Path | None) -> None:
    """Sign a model or an adapter with a private key; the signature is written beside it."""
    settings = compose(flags, os.environ, config).settings
    path = _path(name, settings)
    try:
        private = read_private_key(key.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"key: {key} cannot be read ({error.strerror or error}); correct the path.") from error
    except ValueError as error:
        raise InvalidRequest(f"key: {key} {error}; make one with openssl ecparam -name prime256v1 -genkey.") from error
    # An installed model is its whole folder, whatever else lies there.
    is_installed = path.parent.parent == Layout(settings.home).models
    root = path.parent if path.is_file() and is_installed else path
    output = root / FOLDER_SIGNATURE if root.is_dir() else path.with_name(path.name + FILE_SUFFIX)
    files = [one for one in list_files(root) if one.path != output and one.name.split("/", 1)[0] not in INERT]
    found = [Found(one.name, one.is_link, one.target) for one in files]
    faults = [*find_unsafe(found), *(f"{one.name!r} is a link" for one in files if one.is_link)]
    if faults:
        raise InvalidRequest(f"{root}: is not signed, because {'; '.join(faults)}.")
    statement = write_statement(root.name, digests_of(files, sha256_of), [FOLDER_SIGNATURE, *INERT])
    signature = write_signature(statement, sign(private, pae(IN_TOTO, statement)), hint_of(private.public_key()))
    partial = output.with_name(f"{output.name}.partial")
    partial.write_bytes(signature)
    partial.replace(output)
    typer.echo(f"Signed {len(files)} files of {root} with the key {hint_of(private.public_key())[:16]}: {output}")


def run_verify(name: str, keys: tuple[Path, ...], flags: Mapping[str, Any], config: Path | None, *, json: bool) -> None:
    """Check a model or an adapter as the server would before it loads it. Exits with 1 if something is wrong."""
    settings = compose(flags, os.environ, config).settings
    wanted = settings.trust.model_signatures
    if keys:
        wanted = SupplySettings(mode=Mode.ENFORCE, keys=keys)
    elif wanted.mode is Mode.OFF and not wanted.keys and not wanted.authorities:
        raise InvalidRequest("key: nobody may sign models here; name a public key with --key, or set model_signatures.")
    elif wanted.mode is Mode.OFF:
        wanted = SupplySettings(
            mode=Mode.WARN, keys=wanted.keys, authorities=wanted.authorities, signers=wanted.signers
        )
    checked = SignatureGate(wanted, None).check(_path(name, settings))
    if json:
        said = {
            "path": str(checked.path),
            "signature": None if checked.signature is None else str(checked.signature),
            "signer": checked.signer,
            "root": checked.root,
            "faults": list(checked.faults),
        }
        typer.echo(jsonlib.dumps(said, indent=2))
    elif not checked.faults:
        typer.echo(f"{checked.path}: {len(checked.files)} files as the {checked.signer} signed them; {checked.root}")
    else:
        typer.echo(f"{checked.path}: not as somebody who is trusted signed it:")
        for fault in checked.faults:
            typer.echo(f"  {fault}")
    if checked.faults:
        raise typer.Exit(1)


def run_bom(name: str, output: Path | None, flags: Mapping[str, Any], config: Path | None) -> None:
    """Write a model's bill of materials."""
    settings = compose(flags, os.environ, config).settings
    path = _path(name, settings)
    text = jsonlib.dumps(make_bom(model_facts(path, name, settings)), indent=2) + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, "utf-8")
        typer.echo(f"Wrote {output}")


def model_facts(path: Path, name: str, settings: Settings) -> ModelFacts:
    """What a model's files say of it. Raises ModelFileError."""
    hasher = DigestMemory(Layout(settings.home).packed)
    checkpoint = open_checkpoint(path, hasher)
    architecture = architecture_for(checkpoint)
    plan = architecture.record(architecture.read_config(checkpoint, None))
    known = CATALOG.get(canonical_name(name))
    signer = root = ""
    if find_signature(path) is not None and settings.trust.model_signatures.mode is not Mode.OFF:
        checked = SignatureGate(settings.trust.model_signatures, hasher.folder).check(path)
        if not checked.faults:
            signer, root = checked.signer, checked.root
    return ModelFacts(
        name=canonical_name(name) if known is not None else path.stem if path.is_file() else path.name,
        digest=checkpoint.digest(),
        architecture=architecture.name,
        files=digests_of(list_files(path), hasher),
        version=__version__,
        made_at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        context_length=plan.max_positions,
        licence="" if known is None else known.licence,
        source="" if known is None else known.source,
        signer=signer,
        signed_root=root,
    )


def _path(name: str, settings: Settings) -> Path:
    """A model by name or path, or an adapter by path."""
    path = Path(name).expanduser()
    return path if path.exists() else resolve(name, settings.home)
