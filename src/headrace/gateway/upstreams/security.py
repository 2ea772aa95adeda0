"""How connections to one backend are secured: the context that they are opened with, and who must be at the other end.

    ca_file, client_certificate, client_key     files, read once
    identity = "spiffe"                         our X.509-SVID of now
    spiffe_id                                   the other end's X.509-SVID is verified, and its name must fit

What is checked is checked before a byte of a request is sent. Knows no HTTP.
"""

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from headrace.core.certificates import peer_chain
from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError, UpstreamFault
from headrace.gateway.settings import BackendSettings
from headrace.gateway.workloads.contexts import show, trust
from headrace.gateway.workloads.source import Material, Source
from headrace.trust.spiffe.bundle import Bundle
from headrace.trust.spiffe.ids import InvalidSvid
from headrace.trust.spiffe.x509_svid import End, verify_x509_svid

FOREVER: Final = float("inf")


class BackendSecurity:
    """One backend's; a `Security` of `pool.py`."""

    def __init__(self, settings: BackendSettings, source: Source, clock: Clock) -> None:
        """Raises ValueError, which names the setting, for files that cannot be read."""
        self._name = settings.name
        self._settings = settings
        self._source = source
        self._clock = clock
        self._made_of: tuple[Material | None, Mapping[str, Bundle] | None] | None = None
        self._context: ssl.SSLContext | None = None
        self._bare()  # what is wrong with files is told when they are named

    def context(self) -> ssl.SSLContext:
        """With which to open a connection now. Raises UpstreamFault without an SVID of our own where one is shown."""
        try:
            material = self._source.material() if self._settings.identity else None
        except HeadraceError as error:
            raise UpstreamFault(f"backend {self._name!r} cannot be asked: {error.message}") from error
        bundles = self._source.bundles() if self._settings.spiffe_id is not None else None
        if self._context is None or self._made_of is None or not _is_same(self._made_of, (material, bundles)):
            context = self._bare()
            if bundles is not None:
                trust(context, bundles)
            if material is not None:
                show(context, material.svid)
            self._context, self._made_of = context, (material, bundles)
        return self._context

    def admit(self, connection: ssl.SSLObject | None) -> float:
        """For how many seconds the other end is whom we want. Raises UpstreamFault if it is not."""
        wanted = self._settings.spiffe_id
        if wanted is None:
            return FOREVER
        chain = () if connection is None else peer_chain(connection)
        now_s = self._clock.unix_s()
        try:
            found = verify_x509_svid(chain, self._source.bundles(), now_s=now_s, end=End.SERVER)
        except InvalidSvid as error:
            raise UpstreamFault(f"backend {self._name!r} shows no X.509-SVID that is valid: {error}.") from None
        if wanted.match(found.spiffe_id) is None:
            raise UpstreamFault(
                f"backend {self._name!r} is {found.spiffe_id}, and not {wanted}; nothing was sent to it."
            )
        return found.expires_s - now_s

    def _bare(self) -> ssl.SSLContext:
        """All that files say."""
        settings = self._settings
        if settings.spiffe_id is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False  # its SPIFFE ID says who it is
        else:
            context = open_context(settings.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        if settings.client_certificate is not None:
            try:
                context.load_cert_chain(settings.client_certificate, settings.client_key, password=lambda: "")
            except (OSError, ssl.SSLError) as error:
                raise ValueError(
                    f"client_certificate: {settings.client_certificate} and {settings.client_key} are no certificate "
                    f"with its key ({_reason(error)}); both are PEM, the key unencrypted"
                ) from error
        return context


def open_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """How backends are recognised by the system's authorities, or those of a file. Raises ValueError."""
    try:
        return ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"ca_file: {ca_file} holds no certificates ({_reason(error)}); name a PEM file") from error


def _is_same(one: tuple[object, object], other: tuple[object, object]) -> bool:
    return one[0] is other[0] and one[1] is other[1]


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not PEM").lower().replace("_", " ")
    return error.strerror or str(error)
