"""A model's signature as it is written: a Sigstore bundle around a DSSE envelope around an in-toto statement.

Format: OpenSSF Model Signing 1.0 (predicate `https://model_signing/signature/v1.0`, one SHA-256 for each file), in a
Sigstore bundle of media type v0.3 (DSSE 1.0, in-toto Statement v1). Readers are strict: what stands there twice, or
means nothing, is refused. Reads bytes and trusts nobody: `signer.py` says whose they are.
"""

import base64
import binascii
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from headrace.trust.records.dsse import IN_TOTO, pae
from headrace.trust.strict import NotStrict, read_json

BUNDLE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT: Final = "https://in-toto.io/Statement/v1"
PREDICATE: Final = "https://model_signing/signature/v1.0"
MAX_BYTES: Final = 64 * 2**20
"""Of a signature; a file of a model takes some 150 bytes of it."""
MAX_FILES: Final = 100_000
_MATERIAL: Final = "publicKey x509CertificateChain certificate tlogEntries timestampVerificationData"
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


class BadSignature(ValueError):
    """A signature that cannot be read, or is not valid. The sentence says what is wrong."""


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """A signature before anybody has checked it. `hint` is the SHA-256 of the PEM of the key, or empty; `certificates`
    are DER, the signer's first. There is one of both, or neither."""

    payload: bytes
    signature: bytes
    hint: str = ""
    certificates: tuple[bytes, ...] = ()

    @property
    def signed(self) -> bytes:
        """The bytes that the signature is over: DSSE's pre-authentication encoding."""
        return pae(IN_TOTO, self.payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What was signed: files by their names relative to the model's folder, each with the SHA-256 of its bytes. A model
    that is one file has the name `.`. `ignored` are paths that the signature says nothing about; `root` is the SHA-256
    of all digests in order."""

    name: str
    files: Mapping[str, str]
    root: str
    ignored: tuple[str, ...] = ()
    allows_links: bool = False


def read_signature(text: bytes) -> ModelSignature:
    """A bundle's parts. Raises BadSignature."""
    if len(text) > MAX_BYTES:
        raise BadSignature(f"it has {len(text)} bytes, more than {MAX_BYTES}")
    bundle = _object(_json(text), "the bundle", "mediaType verificationMaterial dsseEnvelope")
    if bundle.get("mediaType") != BUNDLE:
        raise BadSignature(f"its mediaType is {bundle.get('mediaType')!r}, not {BUNDLE!r}")
    material = _object(bundle.get("verificationMaterial"), "verificationMaterial", _MATERIAL)
    envelope = _object(bundle.get("dsseEnvelope"), "dsseEnvelope", "payload payloadType signatures")
    if envelope.get("payloadType") != IN_TOTO:
        raise BadSignature(f"its payloadType is {envelope.get('payloadType')!r}, not {IN_TOTO!r}")
    signatures = envelope.get("signatures")
    # Sigstore bundle: an envelope holds exactly one signature.
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise BadSignature("it must hold exactly one signature")
    one = _object(signatures[0], "signatures[0]", "sig keyid")
    return ModelSignature(
        payload=_base64(envelope.get("payload"), "payload"),
        signature=_base64(one.get("sig"), "sig"),
        **_material(material),
    )


def _material(material: Mapping[str, Any]) -> dict[str, Any]:
    key, chain = material.get("publicKey"), material.get("x509CertificateChain")
    if "certificate" in material:
        raise BadSignature(
            "it was made without a key of its own (keyless); such signatures need a public log to be checked, which "
            "this program does not ask. Sign the model with a key or a certificate"
        )
    if (key is None) == (chain is None):
        raise BadSignature("verificationMaterial must have a publicKey or an x509CertificateChain, and one of them")
    if key is not None:
        hint = _object(key, "publicKey", "hint").get("hint", "")
        if not isinstance(hint, str):
            raise BadSignature("publicKey.hint is no text")
        return {"hint": hint}
    given = _object(chain, "x509CertificateChain", "certificates").get("certificates")
    if not isinstance(given, list) or not 1 <= len(given) <= 10:
        raise BadSignature("x509CertificateChain must hold one to ten certificates")
    found = tuple(_base64(_object(each, "a certificate", "rawBytes").get("rawBytes"), "rawBytes") for each in given)
    return {"certificates": found}


def read_manifest(payload: bytes) -> Manifest:
    """What was signed. Raises BadSignature."""
    statement = _object(_json(payload), "the statement")
    if statement.get("_type") != STATEMENT:
        raise BadSignature(f"its statement is of type {statement.get('_type')!r}, not {STATEMENT!r}")
    if statement.get("predicateType") != PREDICATE:
        raise BadSignature(f"its predicateType is {statement.get('predicateType')!r}, not {PREDICATE!r}")
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or len(subjects) != 1:
        raise BadSignature("it must be about exactly one subject")
    subject = _object(subjects[0], "subject[0]")
    root = _object(subject.get("digest"), "subject[0].digest").get("sha256")
    predicate = _object(statement.get("predicate"), "predicate")
    how = _object(predicate.get("serialization"), "serialization")
    if how.get("method") != "files" or how.get("hash_type") != "sha256":
        raise BadSignature(
            f"it lists {how.get('method')!r} hashed with {how.get('hash_type')!r}; sign the model again with one "
            "sha256 for each file"
        )
    files = _files(predicate.get("resources"))
    # OMS 1.0: the subject's digest is over those of the resources, in the order in which they stand.
    if hashlib.sha256(b"".join(map(bytes.fromhex, files.values()))).hexdigest() != root:
        raise BadSignature("its root digest is not that of the files that it lists")
    ignored = how.get("ignore_paths", [])
    if not isinstance(ignored, list) or not all(isinstance(one, str) for one in ignored):
        raise BadSignature("ignore_paths is no list of paths")
    name = subject.get("name")
    return Manifest(
        name=name if isinstance(name, str) else "",
        files=files,
        root=f"sha256:{root}",
        ignored=tuple(ignored),
        allows_links=how.get("allow_symlinks") is True,
    )


def _files(resources: Any) -> dict[str, str]:
    if not isinstance(resources, list) or not 1 <= len(resources) <= MAX_FILES:
        raise BadSignature(f"it must list one to {MAX_FILES} files")
    files: dict[str, str] = {}
    for each in resources:
        one = _object(each, "a resource")
        name, algorithm, digest = one.get("name"), one.get("algorithm"), one.get("digest")
        if not isinstance(name, str) or not is_plain(name):
            raise BadSignature(f"it lists {name!r}, which is no path inside a folder")
        if name in files:
            raise BadSignature(f"it lists {name!r} twice")
        if algorithm != "sha256" or not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise BadSignature(f"the digest of {name!r} is no SHA-256")
        files[name] = digest
    if (pair := colliding(files)) is not None:
        raise BadSignature(f"it lists {pair[0]!r} and {pair[1]!r}, which are one name on some disks")
    return files


def is_plain(name: str) -> bool:
    """Whether a name is a path below a folder, written in the one way that there is for it; `.` is the model itself."""
    if name == ".":
        return True
    if not name or "\\" in name or "\0" in name or name.startswith("/") or not name.isprintable():
        return False
    return all(part not in ("", ".", "..") for part in name.split("/")) and PurePosixPath(name).as_posix() == name


def colliding(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that a disk without case, or one that normalises, takes for one."""
    seen: dict[str, str] = {}
    for name in names:
        folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
        if (other := seen.setdefault(folded, name)) != name:
            return other, name
    return None


def write_signature(payload: bytes, signature: bytes, hint: str) -> bytes:
    """A bundle around a payload that was signed with a key."""
    return json.dumps(
        {
            "mediaType": BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": IN_TOTO,
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
            },
        }
    ).encode()


def write_statement(name: str, files: Mapping[str, str], ignored: Iterable[str]) -> bytes:
    """The payload that says what a model's files are."""
    listed = dict(sorted(files.items()))
    root = hashlib.sha256(b"".join(map(bytes.fromhex, listed.values()))).hexdigest()
    return json.dumps(
        {
            "_type": STATEMENT,
            "subject": [{"name": name, "digest": {"sha256": root}}],
            "predicateType": PREDICATE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": sorted(ignored),
                },
                "resources": [
                    {"name": name, "algorithm": "sha256", "digest": digest} for name, digest in listed.items()
                ],
            },
        }
    ).encode()


def _json(text: bytes) -> Any:
    try:
        return read_json(text)
    except NotStrict as error:
        raise BadSignature(f"it {error}") from error


def _object(value: Any, what: str, fields: str = "") -> Mapping[str, Any]:
    """An object; with `fields` it may have these and no others, as messages of Protocol Buffers in JSON."""
    if not isinstance(value, dict):
        raise BadSignature(f"{what} is no object")
    if fields and (more := value.keys() - set(fields.split())):
        raise BadSignature(f"{what} has a field {min(more)!r}, which means nothing")
    return value


def _base64(value: Any, what: str) -> bytes:
    try:
        found = base64.b64decode(value, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise BadSignature(f"{what} is not base64") from error
    # RFC 4648 3.5: other bits at the end would be another text for the same bytes.
    if not isinstance(value, str) or base64.b64encode(found).decode() != value:
        raise BadSignature(f"{what} is not base64 in its one form")
    return found
