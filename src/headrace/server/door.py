"""The door: by what names this server may be called, which sites' pages may call it, and who stands behind a proxy.

    name (`host`)      without keys only this machine's and `allowed_hosts`; with keys every one, unless some are set
    page (`origin`)    without keys only this machine's own and those of `cors`; with keys a browser holds back the
                       rest, because it is told which origins may read an answer, each in full, never what was sent
    proxy              a client's address is the proxy's word where the connection is from one of `trusted_proxies`,
                       and nobody else's

A reload puts another door in its place. Costs nothing where nothing is set. Knows no keys and no routes.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from headrace.core.errors import Forbidden
from headrace.server.config import ServerConfig, is_loopback
from headrace.server.exchange import Exchange
from headrace.server.routes import Found

# Without credentials (cookies), which we never ask for, `*` stands for all headers but authorization (Fetch, 3.3.5).
_ALLOW_HEADERS: Final = b"*, authorization"
# `*` would do for scripts, but old browsers take it for a name.
_EXPOSE_HEADERS: Final = (
    b"*, x-request-id, request-id, retry-after, x-should-retry, x-headrace-route, x-headrace-backend, x-headrace-cost"
    b", x-headrace-record, link, content-digest"
)
_MAX_HOPS: Final = 32
_FOR: Final = re.compile(r'for=(?:"([^"]*)"|([^;,"\s]*))', re.IGNORECASE)

_SCHEMES: Final = {"ws": "http", "wss": "https"}  # RFC 6455, section 4.1: a handshake is a request of HTTP

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Door:
    """What a server's configuration says about callers before they show a key."""

    def __init__(self, config: ServerConfig) -> None:
        self._hosts = frozenset(name.lower().rstrip(".") for name in config.allowed_hosts)
        self._networks = tuple(ipaddress.ip_network(one) for one in config.trusted_proxies)
        self.logs_clients = config.logs_clients
        self.has_pages = config.cors is not None
        self._origins: dict[bytes, bytes] = {}
        self._max_age = b"0"
        if config.cors is not None:
            self._origins = {origin.encode(): origin.encode() for origin in config.cors.origins}
            self._max_age = str(int(config.cors.max_age_s)).encode()

    def note_client(self, exchange: Exchange) -> None:
        """Write down who calls."""
        exchange.record.client = self._client(exchange)

    def check(self, exchange: Exchange, *, has_keys: bool) -> None:
        """Raise Forbidden for a name or a page that may not call."""
        if has_keys and not self._hosts:
            return
        host = exchange.headers.get(b"host", b"").decode("latin-1")
        if not self._is_own(f"//{host}"):
            remedy = "allowed_hosts names those that are" if has_keys else "without a keys file only those are answered"
            raise Forbidden(
                f"host: {host[:100]!r} is not a name of this machine; {remedy}.", param="host", code="host_not_allowed"
            )
        origin = exchange.headers.get(b"origin")
        if has_keys or origin is None or origin in self._origins:
            return
        if not self._is_own(origin.decode("latin-1")):
            raise Forbidden(
                "origin: pages of other sites may not call a server that has no keys file.",
                param="origin",
                code="origin_not_allowed",
            )

    def is_own_host(self, host: str) -> bool:
        """Whether a `host` header is a name that this server is called by."""
        return self._is_own(f"//{host}")

    def scheme(self, exchange: Exchange) -> str:
        """`http` or `https`, as the client called: a trusted proxy says so, else the connection."""
        scheme: str = exchange.scope.get("scheme", "http")
        own = _SCHEMES.get(scheme, scheme)
        peer = exchange.scope.get("client")
        if peer is None or not self._networks or not self._is_trusted(peer[0]):
            return own
        # The last word is that of the proxy nearest to us; what stands further left was sent by others.
        told = exchange.headers.get(b"x-forwarded-proto", b"").decode("latin-1").rpartition(",")[2].strip().lower()
        return _SCHEMES.get(told, told) if told in ("http", "https", *_SCHEMES) else own

    async def answer_page(self, exchange: Exchange, found: Found | None) -> bool:
        """Tell a browser whether a page may read the answer; True if it only asked for that (a preflight)."""
        if exchange.is_socket:
            return False
        # The answer differs by who asks, so that a cache must not give one page's to another.
        exchange.add_header(b"vary", b"origin")
        allowed = self._origins.get(exchange.headers.get(b"origin", b""))
        is_preflight = exchange.record.method == "OPTIONS" and b"access-control-request-method" in exchange.headers
        if allowed is not None:
            exchange.add_header(b"access-control-allow-origin", allowed)
            if not is_preflight:
                exchange.add_header(b"access-control-expose-headers", _EXPOSE_HEADERS)
        if not is_preflight:
            return False
        if allowed is None:
            raise Forbidden(
                "origin: pages of this site may not call here; its origin is not in cors.origins.",
                param="origin",
                code="origin_not_allowed",
            )
        methods = ", ".join(found.methods) if found is not None else "GET, POST"
        exchange.add_header(b"access-control-allow-methods", methods.encode())
        exchange.add_header(b"access-control-allow-headers", _ALLOW_HEADERS)
        exchange.add_header(b"access-control-max-age", self._max_age)
        await exchange.respond_empty()
        return True

    def _is_own(self, url: str) -> bool:
        try:
            name = (urlsplit(url).hostname or "").rstrip(".")
        except ValueError:
            return False
        return name in self._hosts or is_loopback(name)

    def _client(self, exchange: Exchange) -> str | None:
        peer = exchange.scope.get("client")
        if peer is None:
            return None
        address: str = peer[0]
        if not self._is_trusted(address):
            return address
        headers: list[tuple[bytes, bytes]] = exchange.scope["headers"]
        lists = [
            _forwarded_for(value for name, value in headers if name == b"x-forwarded-for"),
            _forwarded(value for name, value in headers if name == b"forwarded"),
        ]
        told = {self._behind(address, hops) for hops in lists if hops}
        # A proxy writes one of the two headers and may pass on what its client made up for the other.
        return told.pop() if len(told) == 1 else address

    def _behind(self, peer: str, hops: list[str]) -> str:
        """The last address that a trusted proxy vouches for. What stands further left was sent by the client."""
        last = peer
        for hop in reversed(hops[-_MAX_HOPS:]):
            found = _read_address(hop)
            if found is None:
                return last
            last = str(found)
            if not self._is_trusted(last):
                return last
        return last

    def _is_trusted(self, address: str) -> bool:
        found = _read_address(address)
        return found is not None and any(found in network for network in self._networks)


def _forwarded_for(values: Iterable[bytes]) -> list[str]:
    """All headers of the name are one list, in order (RFC 9110, section 5.3)."""
    return [hop.strip() for value in values for hop in value.decode("latin-1").split(",")]


def _forwarded(values: Iterable[bytes]) -> list[str]:
    """RFC 7239, section 4: the `for` of each element; an element without one hides who it was."""
    hops = []
    for value in values:
        for element in value.decode("latin-1").split(","):
            found = _FOR.search(element)
            hops.append("" if found is None else found[1] or found[2] or "")
    return hops


def _read_address(text: str) -> _Address | None:
    """An address as either header writes it: 192.0.2.1, 192.0.2.1:4711, 2001:db8::1, [2001:db8::1]:4711."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address
