"""Answers signed for whoever asked (RFC 9421): which status and body, to which request of whom.

    "@status" "content-digest", and of the request "@method" "@target-uri", its digest and its signature if it had some

The signature base is written here, because a library's costs more than an answer may: one Ed25519 signature is made,
over lines that are few and known. Judges values: the time comes in. Knows no sockets and no files.
"""

import base64
import re
from collections.abc import Mapping
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

LABEL: Final = b"headrace"
TAG: Final = "llm-resp"
_LINE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_OF_REQUEST: Final = ("content-digest", "signature")


class AnswerSigner:
    """Signs whole answers with the key that callers know as `keyid`."""

    def __init__(self, key: Ed25519PrivateKey, keyid: str) -> None:
        self._key = key
        self._keyid = keyid

    def sign(
        self,
        asked: tuple[str, str, Mapping[bytes, bytes]],
        status: int,
        digest: bytes,
        now_s: float,
    ) -> list[tuple[bytes, bytes]]:
        """The headers of a signature over an answer with this `content-digest`. `asked` are method, URL and headers of
        the request. Nothing for a request that cannot be written in a signature base (section 2.5)."""
        method, url, headers = asked
        lines = [
            ('"@status"', str(status)),
            ('"content-digest"', digest.decode("ascii")),
            ('"@method";req', method),
            ('"@target-uri";req', url),
        ]
        shown = ((name, headers.get(name.encode())) for name in _OF_REQUEST)
        lines += [(f'"{name}";req', value.decode("latin-1").strip(" \t")) for name, value in shown if value is not None]
        if not all(_LINE.fullmatch(value) for _, value in lines):
            return []
        covered = " ".join(name for name, _ in lines)
        said = f'({covered});created={int(now_s)};keyid="{self._keyid}";tag="{TAG}"'
        text = "\n".join([*(f"{name}: {value}" for name, value in lines), f'"@signature-params": {said}'])
        made = base64.b64encode(self._key.sign(text.encode("ascii")))
        return [(b"signature-input", b"%b=%b" % (LABEL, said.encode())), (b"signature", b"%b=:%b:" % (LABEL, made))]


def read_answer_key(pem: bytes) -> Ed25519PrivateKey:
    """Raises ValueError, whose sentence goes on from the file's name."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("is no private key in PEM, unencrypted") from error
    if isinstance(key, Ed25519PrivateKey):
        return key
    raise ValueError("is not of Ed25519; make one with `openssl genpkey -algorithm ed25519`")
