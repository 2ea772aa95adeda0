"""Signed requests (RFC 9421) as a client makes them by hand: the signature base is written here, line by line, so that
nothing of the library that checks it is used."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(b"k" * 32)
ENOUGH = ("@method", "@target-uri", "content-digest")


def pem(key: Any = KEY) -> bytes:
    """The public key, as an operator gets it."""
    data: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return data


def digest(body: bytes) -> str:
    """A `content-digest` (RFC 9530)."""
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def line(component: str, method: str, url: str, headers: Mapping[str, str]) -> str:
    """One line of a signature base (RFC 9421, section 2.5)."""
    parts = urlsplit(url)
    derived = {
        "@method": method,
        "@target-uri": url,
        "@authority": parts.netloc.lower(),
        "@scheme": parts.scheme,
        "@path": parts.path,
        "@query": f"?{parts.query}",
        "@request-target": parts.path + (f"?{parts.query}" if parts.query else ""),
    }
    name = component.split(";", maxsplit=1)[0]
    shown = f'"{name}"' + component[len(name) :]
    return f"{shown}: {derived[name] if name in derived else headers[name]}"


def inputs(components: Sequence[str], **parameters: Any) -> str:
    """A member of `signature-input`; parameters that are None are left out."""
    shown = [f'"{one.split(";")[0]}"' + one[len(one.split(";")[0]) :] for one in components]
    text = f"({' '.join(shown)})"
    for name, value in parameters.items():
        if value is not None:
            text += f";{name}={value}" if isinstance(value, int) else f';{name}="{value}"'
    return text


def sign(
    method: str,
    url: str,
    headers: Mapping[str, str],
    components: Sequence[str] = ENOUGH,
    *,
    label: str = "sig1",
    key: Any = KEY,
    **parameters: Any,
) -> dict[str, str]:
    """The headers of a request with its signature."""
    said = inputs(components, **parameters)
    base = "\n".join([*(line(one, method, url, headers) for one in components), f'"@signature-params": {said}'])
    made = base64.b64encode(key.sign(base.encode())).decode()
    return {**headers, "signature-input": f"{label}={said}", "signature": f"{label}=:{made}:"}
