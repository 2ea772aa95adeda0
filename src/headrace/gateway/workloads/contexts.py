"""TLS contexts made of SVIDs: what one shows and whom it believes; and one for a server, made anew as the SVID changes.

    what OpenSSL checks     every chain leads to an authority of some trust domain that we know
    what our verifier does  which trust domain's, and whose name (`trust/spiffe/x509_svid.py`): after the handshake and
                            before anything else is sent or believed

Connections that stand go on with what they were opened with. Keys never touch a disk: OpenSSL reads them from memory
that has a descriptor. Knows no issuer.
"""

import contextlib
import os
import ssl
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from headrace.core.errors import HeadraceError
from headrace.core.workload import X509Svid
from headrace.gateway.workloads.source import Material, Source
from headrace.trust.spiffe.bundle import Bundle

_LINE: Final = 64


class ServerContext:
    """For being asked: one context for as long as the server listens, which hands each connection to the newest."""

    def __init__(self, source: Source, bare: Callable[[], ssl.SSLContext], mode: ssl.VerifyMode) -> None:
        """`bare` makes a context without certificates; `mode` says how clients are asked for theirs. Raises Unavailable
        without an SVID."""
        self._source = source
        self._bare = bare
        self._mode = mode
        self._made_of = source.material()
        self._newest = self._make(self._made_of)
        self.context = self._make(self._made_of)
        # Called for every handshake, with or without a name. Without it nothing would be renewed.
        self.context.sni_callback = self._choose

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = self.newest()

    def newest(self) -> ssl.SSLContext:
        """The context of now; if there is no SVID that is valid, the last one, which clients will refuse."""
        material = self._made_of
        with contextlib.suppress(HeadraceError):
            material = self._source.material()
        if material is not self._made_of:
            self._newest = self._make(material)
            self._made_of = material
        return self._newest

    def _make(self, material: Material) -> ssl.SSLContext:
        context = self._bare()
        trust(context, material.bundles)
        show(context, material.svid)
        context.verify_mode = self._mode
        return context


def trust(context: ssl.SSLContext, bundles: Mapping[str, Bundle]) -> None:
    """Believe the authorities of all bundles, also those that another authority signed."""
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    authorities = b"".join(one for bundle in bundles.values() for one in bundle.x509_authorities)
    if authorities:
        context.load_verify_locations(cadata=authorities)


def show(context: ssl.SSLContext, svid: X509Svid) -> None:
    """Be this workload."""
    chain = b"".join(pem("CERTIFICATE", one) for one in svid.certificates)
    with _as_file(chain + pem("PRIVATE KEY", svid.private_key)) as path:
        context.load_cert_chain(path)


def pem(label: str, der: bytes) -> bytes:
    """A value as text (RFC 7468)."""
    text = b64encode(der)
    lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
    return b"\n".join([f"-----BEGIN {label}-----".encode(), *lines, f"-----END {label}-----".encode(), b""])


@contextlib.contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A path under which a library that reads only files finds the bytes: of memory where the system has it."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("svid")
        try:
            os.write(descriptor, data)
            yield f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:  # 0600
        file.write(data)
        file.flush()
        yield file.name
