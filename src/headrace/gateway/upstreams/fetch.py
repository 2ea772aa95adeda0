"""One document from a URL that somebody else may have chosen: small, soon, and from nowhere inside.

    https, or http on this machine where that is allowed; no user, no fragment; no redirect is followed
    every address that the name resolves to is judged, and the one that was judged is connected to
    a size and a time for all of it

Knows no formats.
"""

import asyncio
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from headrace.core.errors import UpstreamFault, UpstreamTimeout
from headrace.gateway.settings import Timeouts
from headrace.gateway.upstreams.address import Address, check_machine, check_public, read_url
from headrace.gateway.upstreams.http import Head
from headrace.gateway.upstreams.pool import Pool, PoolSettings, open_tls

TIMEOUTS: Final = Timeouts(connect_s=5.0, first_event_s=5.0, whole_s=10.0, idle_s=5.0)
WHOLE_S: Final = 15.0
_LOCAL: Final = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """From where documents may come. `allows_private`: from private networks and this machine, too. `ca_file`: PEM of
    authorities instead of the system's."""

    allows_private: bool = False
    ca_file: str | None = None
    max_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class Place:
    """A URL, checked: where, and what there."""

    address: Address
    target: str


def read_place(url: str, reach: Reach) -> Place:
    """Raises ValueError, whose sentence names the URL and the remedy."""
    plain, _, query = url.partition("?")
    address = read_url(plain)
    if not address.is_tls and not (reach.allows_private and address.host in _LOCAL):
        raise ValueError(f"{str(address)[:200]!r}: is not https; what decides who may call must come from who it is")
    if not reach.allows_private:
        check_public(address.host)
        if address.host in _LOCAL or address.host.endswith(".localhost"):
            raise ValueError(f"{str(address)[:200]!r}: is this machine; private = true allows that")
    path = urlsplit(plain).path or "/"
    return Place(Address(address.is_tls, address.host, address.port), f"{path}?{query}" if query else path)


async def fetch(url: str, reach: Reach) -> bytes:
    """A document. Raises ValueError, UpstreamFault, UpstreamTimeout, OSError (`ca_file`)."""
    place = read_place(url, reach)
    address = place.address
    tls: ssl.SSLContext | None = None
    if address.is_tls:
        tls = await asyncio.to_thread(open_tls, reach.ca_file)
    check = check_machine if reach.allows_private else check_public
    settings = PoolSettings(timeouts=TIMEOUTS, max_connections=1, max_idle=0)
    pool = Pool(address, settings, tls=tls, name=address.authority, check=check)
    head = Head(address, ((b"accept", b"application/json"),)).write("GET", place.target, (), 0)
    try:
        async with asyncio.timeout(WHOLE_S):
            answer = await pool.ask(head, b"", is_whole=False)
            if answer.status != 200:  # a redirect, too: where it leads to was not chosen by the operator
                raise UpstreamFault(f"{address.authority} answered {answer.status} where a document was expected.")
            return await answer.read(reach.max_bytes)
    except TimeoutError:
        raise UpstreamTimeout(f"{address.authority} took longer than {WHOLE_S:g} s for a document.") from None
    finally:
        await pool.close()
