"""Sessions of the console: a cookie that stands for the key or token somebody signed in with.

    sign-in: key -> its digest, token -> itself     sealed, with when it ends, into the cookie
    call:    cookie -> opened -> the key looked up again, or the token judged again, as if it had been shown

Nothing is remembered but which sessions were signed out: a restart ends none, and a key that is revoked, disabled,
expired or given other scopes is so at once. A cookie counts only where the console itself sends it: with a header that
no form or link of another site can set (and which no other site's script may, since the door never lets one send
cookies), from its own origin as far as the browser says. Knows no seal's making, and no route.
"""

import asyncio
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from headrace.core.clock import Clock
from headrace.core.errors import Forbidden, InvalidRequest, Unauthenticated
from headrace.core.sessions import SessionEnded, SessionSeal
from headrace.server.exchange import Exchange

HEADER: Final = b"x-headrace-console"
NAME: Final = "headrace-session"
# Browsers keep no larger cookie: name, value and attributes together (RFC 6265bis, section 5.6).
MAX_COOKIE_BYTES: Final = 4096
_ATTRIBUTE_BYTES: Final = 128
MAX_ENDED: Final = 10_000
_OTHERS: Final = (b"authorization", b"x-api-key")


class Recalled(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a cookie holds: the SHA-256 `digest` of an API key's text, or a token. It ends at `until_s`, Unix time."""

    id: str
    until_s: float
    digest: str | None = None
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """What somebody signs in with: an API key by its digest, or a token; not valid from `expires_s` on, Unix time."""

    expires_s: float
    digest: str | None = None
    token: str | None = None


class Sessions:
    """Begins sessions, and finds again what they stand for."""

    def __init__(self, seal: SessionSeal, session_s: float, clock: Clock, new_id: Callable[[], str]) -> None:
        """No session lasts longer than `session_s` seconds."""
        self._seal = seal
        self._session_s = session_s
        self._clock = clock
        self._new_id = new_id
        self._writing = asyncio.Lock()
        self._known_ended: dict[str, float] | None = None

    def begin(self, exchange: Exchange, scheme: str, proof: Proof) -> float:
        """Have the answer set a cookie for it; until when it is good, Unix time. Raises InvalidRequest for a token
        that no cookie can hold."""
        until_s = min(self._clock.unix_s() + self._session_s, proof.expires_s)
        kept = Recalled(self._new_id(), until_s, proof.digest, proof.token)
        name, value = _name(exchange, scheme), self._seal.seal(zlib.compress(msgspec.json.encode(kept), 9))
        if len(name) + len(value) + _ATTRIBUTE_BYTES > MAX_COOKIE_BYTES:
            raise InvalidRequest(
                f"authorization: the token is too long for a sign-in ({len(proof.token or '')} characters, about "
                "3800 are possible); ask its issuer for one with fewer claims, or sign in with a key.",
                param="authorization",
            )
        seconds = max(0, int(until_s - self._clock.unix_s()))
        exchange.add_header(b"set-cookie", f"{name}={value}; Max-Age={seconds}; {_attributes(scheme)}".encode())
        return until_s

    def recall(self, exchange: Exchange, scheme: str) -> Recalled | None:
        """What the session stands for with which a request comes; None for one that does not come from the console, or
        without a session. Raises SessionEnded; Unauthenticated beside another credential; Forbidden from a page of
        another site."""
        if not is_of_console(exchange) or (text := _cookie(exchange, scheme)) is None:
            return None
        check_origin(exchange)
        if any(name in exchange.headers for name in _OTHERS):
            raise Unauthenticated(
                "authorization: the console's session is there, too; send one of them.", param="authorization"
            )
        kept = self._open(text)
        if kept is None or self._clock.unix_s() >= kept.until_s or self.is_out(kept.id):
            raise SessionEnded
        return kept

    def end(self, exchange: Exchange, scheme: str) -> bool:
        """Sign out: the cookie goes, and a copy of it is good for nothing. Whether there was a session, which `keep`
        has to write down."""
        text = _cookie(exchange, scheme)
        kept = None if text is None else self._open(text)
        name = _name(exchange, scheme)
        exchange.add_header(b"set-cookie", f"{name}=; Max-Age=0; {_attributes(scheme)}".encode())
        if kept is None:
            return False
        ended, now_s = self._ended(), self._clock.unix_s()
        for other in [other for other, until_s in ended.items() if until_s <= now_s]:
            del ended[other]
        while len(ended) >= MAX_ENDED:
            del ended[next(iter(ended))]
        ended[kept.id] = kept.until_s
        return True

    async def keep(self) -> None:
        """Write down which sessions were signed out, so that a restart knows. Raises Unavailable."""
        async with self._writing:
            await asyncio.to_thread(self._seal.save_ended, dict(self._ended()))

    def _ended(self) -> dict[str, float]:
        if self._known_ended is None:
            self._known_ended = self._seal.load_ended()
        return self._known_ended

    def is_out(self, session_id: str) -> bool:
        """Whether a session was signed out."""
        return session_id in self._ended()

    def _open(self, text: str) -> Recalled | None:
        content = self._seal.open(text)
        return None if content is None else msgspec.json.decode(zlib.decompress(content), type=Recalled)


def check_origin(exchange: Exchange) -> None:
    """Raise Forbidden for a request that a browser says another site's page made. A handshake of a WebSocket, which any
    page can begin and give no header to, must say where it comes from."""
    site = exchange.headers.get(b"sec-fetch-site")
    origin = exchange.headers.get(b"origin")
    is_own = origin is not None and _authority(origin) == exchange.headers.get(b"host", b"").decode("latin-1").lower()
    # The scheme is left out: behind a proxy that ends TLS it is not the one that this server sees.
    is_foreign = not is_own if origin is not None or exchange.is_socket else False
    if is_foreign or site not in (None, b"same-origin"):
        raise Forbidden(
            "origin: the console's session is for its own page alone; a proxy in front must pass on the host header as "
            "the browser sent it.",
            param="origin",
            code="origin_not_allowed",
        )


def _authority(origin: bytes) -> str | None:
    try:
        return urlsplit(origin.decode("latin-1")).netloc.lower()
    except ValueError:
        return None


def is_of_console(exchange: Exchange) -> bool:
    """Whether a cookie that comes with it counts."""
    return exchange.is_socket or exchange.headers.get(HEADER) == b"1"


def _name(exchange: Exchange, scheme: str) -> str:
    """A browser keeps one jar for all ports of a host, so that two servers on one machine need two names. `__Host-`:
    set over TLS by this host for itself alone (RFC 6265bis, section 4.1.3.2)."""
    host = exchange.headers.get(b"host", b"").decode("latin-1")
    port = host.rpartition(":")[2]
    name = f"{NAME}-{port}" if port.isascii() and port.isdigit() else NAME
    return f"__Host-{name}" if scheme == "https" else name


def _attributes(scheme: str) -> str:
    return "Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if scheme == "https" else "")


def _cookie(exchange: Exchange, scheme: str) -> str | None:
    given = exchange.headers.get(b"cookie")
    if given is None:
        return None
    wanted = _name(exchange, scheme)
    for pair in given.decode("latin-1").split(";"):
        name, _, value = pair.strip().partition("=")
        if name == wanted and value:
            return value
    return None
