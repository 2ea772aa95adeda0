"""Every limit that a client can push against, in one frozen value, and the rule about who may listen where.

Knows no files and no environment: `cli` composes this.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from headrace.core.errors import InvalidRequest
from headrace.core.ledger import NO_PRICES, PriceList

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Files of a certificate with its chain and of its key, both PEM; or `identity` "spiffe": our own X.509-SVID.
    `minimum_version` is 1.2 or 1.3.

    `clients`: "required" lets in only clients with a certificate, "wanted" also those without one; a certificate that
    no authority signed is let in by neither. Authorities are those of `client_ca`, or with SPIFFE those of its trust
    domains. None: required with `client_ca`, wanted with `identity`, else no client is asked."""

    certificate: Path | None = None
    key: Path | None = None
    minimum_version: str = "1.2"
    client_ca: Path | None = None
    identity: str | None = None
    clients: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("needs certificate and key, both: the files belong together")
        if (self.certificate is None) == (self.identity is None):
            raise ValueError('needs certificate and key, or identity = "spiffe" in their place')
        if self.clients is not None and self.client_ca is None and self.identity is None:
            raise ValueError("has clients and no client_ca, so no certificate of a client could be told from another")
        if self.identity is not None and self.client_ca is not None:
            raise ValueError(
                "has client_ca beside identity: the authorities are those of the trust domains; take it out"
            )

    @property
    def asks_clients(self) -> str | None:
        """Whether clients show a certificate: "required", "wanted" or None."""
        if self.clients is not None:
            return self.clients
        if self.client_ca is not None:
            return "required"
        return None if self.identity is None else "wanted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """Pages of which sites may call from a browser: `origins` as a browser says them, each in full. `max_age_s`: how
    long a browser may remember a preflight's answer."""

    origins: tuple[str, ...]
    max_age_s: float = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsoleSettings:
    """The page at /console. A sign-in lasts `session_hours` at the longest."""

    is_on: bool = True
    session_hours: float = 12.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Where the server listens and what it bears. Every time is in seconds, every size in bytes."""

    host: str = "127.0.0.1"
    port: int = 8000
    # Names that the server answers to beside loopback ones. Without keys it answers to no others: they may be a rebound
    # DNS name in a browser. With keys it answers to every name, unless some are given here.
    allowed_hosts: tuple[str, ...] = ()
    # Networks of proxies whose word is taken for where a request comes from, and whether the access log tells that.
    trusted_proxies: tuple[str, ...] = ()
    logs_clients: bool = False
    tls: Tls | None = None
    cors: Cors | None = None
    max_body_bytes: int = 10 * _MIB
    # All bodies that are being read, together.
    max_buffered_bytes: int = 256 * _MIB
    # The whole form of an upload; what one file may have is the business of who keeps it.
    max_upload_bytes: int = 520 * 10**6
    upload_timeout_s: float = 3600.0
    max_header_bytes: int = 64 * 1024
    max_connections: int = 4096
    max_requests: int = 2048
    header_timeout_s: float = 15.0
    body_timeout_s: float = 30.0
    # A client that takes no byte for this long is dropped.
    write_timeout_s: float = 60.0
    # Time limit of one request, counted from its arrival; None means none.
    request_timeout_s: float | None = 600.0
    # A stream that has said nothing for this long gets a comment, so that no proxy closes it.
    keep_alive_s: float = 5.0
    # How long an idle connection is kept; longer than most clients keep theirs, so that it is they who close.
    idle_timeout_s: float = 75.0
    # The largest message of a WebSocket.
    max_message_bytes: int = 10 * _MIB
    # How often a WebSocket is pinged, and how long an answer may take before it is dropped.
    ping_interval_s: float = 25.0
    ping_timeout_s: float = 20.0
    # What one WebSocket, and all of a tenant's, may remember of responses that were not stored.
    max_lane_bytes: int = 8 * _MIB
    max_tenant_lane_bytes: int = 128 * _MIB
    # How long a WebSocket is kept, and how long before its end its client is told.
    max_socket_age_s: float = 3600.0
    socket_notice_s: float = 300.0
    # How long running answers may go on after the first signal to stop.
    drain_s: float = 30.0
    # Whether answers are recorded, so that their bytes are counted, and whether every stream has its record inside.
    seals_answers: bool = False
    inlines_records: bool = False
    # The page at /console; None: there is none.
    console: ConsoleSettings | None = None
    # What a million tokens of a model cost, for the usage of answers.
    prices: PriceList = NO_PRICES

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port: {self.port} is not in [0, 65535]; 0 lets the system choose.")
        positive = (
            "max_body_bytes max_buffered_bytes max_header_bytes max_connections max_requests header_timeout_s "
            "body_timeout_s write_timeout_s keep_alive_s idle_timeout_s max_message_bytes ping_interval_s "
            "ping_timeout_s max_lane_bytes max_tenant_lane_bytes max_socket_age_s socket_notice_s max_upload_bytes "
            "upload_timeout_s"
        )
        for name in positive.split():
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: {getattr(self, name)!r} is not above 0.")
        if not self.drain_s >= 0:
            raise ValueError(f"drain_s: {self.drain_s!r} is negative; 0 stops running answers at once.")
        if self.request_timeout_s is not None and not self.request_timeout_s > 0:
            raise ValueError(f"request_timeout_s: {self.request_timeout_s!r} is not above 0; None means no limit.")


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(config: ServerConfig, *, has_keys: bool) -> None:
    """Refuse to serve everybody on a network without keys. Raises InvalidRequest."""
    if not has_keys and not is_loopback(config.host):
        raise InvalidRequest(
            f"host: {config.host} can be reached from other machines and there is no keys file, so anybody could use "
            "this server; give a keys file, or listen on 127.0.0.1.",
            param="host",
        )
