"""TLS for the server's socket: a context from files, and newer files into a context in use.

Knows no sockets: uvicorn is given the context. Ciphers are Python's own choice, which follows OpenSSL's.
"""

import ssl
from pathlib import Path
from typing import Final

from headrace.core.errors import InvalidRequest
from headrace.server.config import Tls

VERIFY_MODES: Final = {None: ssl.CERT_NONE, "wanted": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
"""How a context asks clients, by `Tls.asks_clients`."""

_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def open_tls(tls: Tls) -> ssl.SSLContext:
    """A context for accepting connections. Raises InvalidRequest, whose `param` is the field of the file's name."""
    context = bare_context(tls)
    _load(context, tls)
    if tls.client_ca is not None:
        _check_readable("client_ca", tls.client_ca)
        try:
            context.load_verify_locations(cafile=str(tls.client_ca))
        except ssl.SSLError as error:
            raise InvalidRequest(
                f"{tls.client_ca} holds no certificates ({_reason(error)}); name a PEM file of authorities.",
                param="client_ca",
            ) from error
        context.verify_mode = VERIFY_MODES[tls.asks_clients]
    return context


def bare_context(tls: Tls) -> ssl.SSLContext:
    """A context for accepting connections that knows no certificate yet, and nobody's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.minimum_version]
    context.set_alpn_protocols(["http/1.1"])
    if tls.asks_clients is not None:
        # A ticket has the client's certificate without its chain, which nobody could verify when it comes back. What
        # TLS 1.2 resumes of this process's memory has the chain.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
    return context


def renew_tls(context: ssl.SSLContext, tls: Tls) -> None:
    """Take the certificate and key that the files hold now: connections from now on get them, running ones go on. If
    they do not fit, nothing changes and InvalidRequest is raised, as by `open_tls`."""
    open_tls(tls)
    _load(context, tls)


def _load(context: ssl.SSLContext, tls: Tls) -> None:
    assert tls.certificate is not None and tls.key is not None
    _check_readable("certificate", tls.certificate)
    _check_readable("key", tls.key)
    try:
        context.load_cert_chain(tls.certificate, tls.key, password=_no_password)
    except ssl.SSLError as error:
        raise InvalidRequest(
            f"{tls.certificate} and {tls.key} are no certificate with its key ({_reason(error)}); both are PEM, the "
            "key unencrypted.",
            param="certificate",
        ) from error


def _no_password() -> str:
    # Asked on a terminal otherwise, which a server has none of.
    return ""


def _check_readable(field: str, path: Path) -> None:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        raise InvalidRequest(
            f"{path} cannot be read ({error.strerror or error}); make it readable by the server.", param=field
        ) from error


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or "not PEM").lower().replace("_", " ")
