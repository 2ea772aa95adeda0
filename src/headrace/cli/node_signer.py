"""The node's key, wherever it is: a file that is made at first start, a file, a vault or a KMS, by its URI.

Every one of them signs through securesystemslib, which knows them all; what a key says of itself is held against its
public half once, when it is opened.
"""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer._crypto_signer import CryptoSigner
from securesystemslib.signer._key import SSlibKey
from securesystemslib.signer._signer import Signer as AnySigner

from headrace.core.errors import InvalidRequest, Unavailable
from headrace.memory.key_files import read_or_make
from headrace.models.store import Layout
from headrace.trust.records.node_key import NodeKey
from headrace.trust.records.settings import RecordsSettings

_PROBE = b"headrace node key probe"


class NodeSignerOf:
    """Implements `trust.records.keys.NodeSigner` by one of securesystemslib's."""

    def __init__(self, signer: AnySigner, spki: bytes, place: str) -> None:
        self._signer = signer
        self._spki = spki
        self._place = place

    @property
    def spki(self) -> bytes:
        """Its public half, DER."""
        return self._spki

    def sign(self, message: bytes) -> bytes:
        """A signature. Raises Unavailable."""
        try:
            return bytes.fromhex(self._signer.sign(message).signature)
        except Exception as error:  # each library of a vault or a KMS raises its own
            raise Unavailable(
                f"the node's key at {self._place} cannot sign ({type(error).__name__}: {error}); see that it is "
                "reachable and that this node may use it.",
                code="key_unavailable",
            ) from error


def open_node_signer(settings: RecordsSettings, layout: Layout) -> NodeSignerOf:
    """The node's key, ready to sign. May wait for a vault. Raises InvalidRequest and Unavailable."""
    place = settings.node_key
    if place is None:
        path = layout.signing_keys / "node.pem"
        signer = _file_signer(read_or_make(path, _make), str(path))
    elif settings.key_scheme in (None, "file2"):
        path = named_file(place)
        signer = _file_signer(read_or_make(path, _make), str(path))
    else:
        assert settings.node_public is not None
        signer = _remote_signer(place, settings.node_public)
    if not NodeKey(settings.node, signer.spki).verify(signer.sign(_PROBE), _PROBE):
        raise InvalidRequest(
            f"records.node_key: the key at {place} does not sign as its public half verifies; correct node_public, or "
            "use a key for Ed25519, ECDSA over P-256, P-384 or P-521, or RSA-PSS with SHA-256.",
            param="node_key",
        )
    return signer


def named_file(place: str) -> Path:
    """The file that `node_key` names. One that is not there is not made: a slip of the pen, or a disk that is not
    mounted, would become another node, whose records nobody's trust file believes. Raises InvalidRequest."""
    path = Path(place.removeprefix("file2:")).expanduser()
    if not path.exists():
        raise InvalidRequest(
            f"records.node_key: there is no file {path}; make one (openssl genpkey -algorithm ed25519 -out {path}), or "
            "leave node_key out, and one is made in the state directory.",
            param="node_key",
        )
    return path


def _make() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _file_signer(pem: bytes, place: str) -> NodeSignerOf:
    try:
        private = load_pem_private_key(pem, None)
        signer = CryptoSigner(private)  # refuses what it does not know
    except Exception as error:  # as many kinds as there are broken files
        raise InvalidRequest(
            f"records.node_key: {place} is no private key in PEM without a password ({error}).", param="node_key"
        ) from error
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return NodeSignerOf(signer, spki, place)


def _remote_signer(uri: str, public: Path) -> NodeSignerOf:
    try:
        key = load_pem_public_key(public.read_bytes())
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"records.node_public: {public} is no public key in PEM ({error}).", param="node_public"
        ) from error
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        known = SSlibKey.from_crypto(key)
        signer = AnySigner.from_priv_key_uri(uri, known)
    except Exception as error:  # each library of a vault or a KMS raises its own, or is not installed
        raise Unavailable(
            f"the node's key at {uri} cannot be used ({type(error).__name__}: {error}); install what securesystemslib "
            "needs for it, and give this process access.",
            code="key_unavailable",
        ) from error
    return NodeSignerOf(signer, spki, uri)
