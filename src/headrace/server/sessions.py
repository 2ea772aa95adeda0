"""Sessions of the console: cookies that stand for the key or token somebody signed in with.

    sign-in: key -> its digest, token -> itself     sealed, with when it ends, into cookies
    call:    cookies -> opened -> the key looked up again, or the token judged again, as if it had been shown

Nothing is remembered but which sessions were signed out, here or at another process of the same state: a restart ends
none, and a key that is revoked, disabled, expired or given other scopes is so at once. Cookies count only where the
console itself sends them: with a header that no form or link of another site can set (and which no other site's script
may, since the door never lets one send cookies), from its own origin as far as the browser says. Knows no seal's
making, no cookie's size, and no route.
"""

import asyncio
import base64
import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec

from headrace.core.clock import Clock
from headrace.core.errors import Forbidden, InvalidRequest, Unauthenticated, Unavailable
from headrace.core.sessions import SessionEnded, SessionSeal, bound_ended
from headrace.server.exchange import Exchange
from headrace.server.session_cookies import clear, join, name_of, put, shown, split

HEADER: Final = b"x-headrace-console"
LOOK_S: Final = 1.0
"""How long after a look for what other processes signed out the next one comes, at the earliest."""
_OTHERS: Final = (b"authorization", b"x-api-key")


@dataclass(frozen=True, slots=True)
class Recalled:
    """What a session stands for: the SHA-256 `digest` of an API key's text, or a token. It ends at `until_s`, Unix
    time."""

    id: str
    until_s: float
    digest: str | None = None
    token: str | None = None


class _Kept(msgspec.Struct, frozen=True, omit_defaults=True):
    """As it is sealed: of a token in base64url, as JWTs are, the bytes between its dots. They compress to a fifth to a
    quarter less than the text would, which every request has to bring along."""

    id: str
    until_s: float
    digest: str | None = None
    token: str | None = None
    parts: list[bytes] | None = None


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
        self._ended: dict[str, float] = {}
        self._looks_s = -math.inf  # when the next look for others' sign-outs is due
        self._trouble: Unavailable | None = None  # of the last one

    def begin(self, exchange: Exchange, scheme: str, proof: Proof) -> float:
        """Have the answer set cookies for it, in the place of those there were; until when they are good, Unix time.
        Raises InvalidRequest for a token that is too long for them."""
        now_s = self._clock.unix_s()
        until_s = min(now_s + self._session_s, proof.expires_s)
        kept = Recalled(self._new_id(), until_s, proof.digest, proof.token)
        cookies = split(name_of(exchange, scheme), self._seal.seal(encode(kept)))
        if cookies is None:
            raise InvalidRequest(
                f"authorization: the token is too long for a sign-in ({len(proof.token or '')} characters, about "
                "18,000 are possible); ask its issuer for one with fewer claims, or sign in with a key.",
                param="authorization",
            )
        put(exchange, scheme, cookies, max(0, int(until_s - now_s)))
        return until_s

    def recall(self, exchange: Exchange, scheme: str) -> Recalled | None:
        """What the session stands for with which a request comes; None for one that does not come from the console, or
        without a session. Raises SessionEnded; Unauthenticated beside another credential, or for a cookie that is there
        twice; Forbidden from a page of another site; Unavailable."""
        name = name_of(exchange, scheme)
        if not is_of_console(exchange) or not (cookies := shown(exchange, name)):
            return None
        check_origin(exchange)
        if any(other in exchange.headers for other in _OTHERS):
            raise Unauthenticated(
                "authorization: the console's session is there, too; send one of them.", param="authorization"
            )
        kept = self._open(join(name, cookies))
        if kept is None or self._clock.unix_s() >= kept.until_s or self.is_out(kept.id):
            raise SessionEnded
        return kept

    def end(self, exchange: Exchange, scheme: str) -> bool:
        """Sign out: the cookies go, and a copy of them is good for nothing. Whether there was a session, which `keep`
        has to write down. Raises as `recall` does where it cannot be told which one; the cookies go all the same."""
        name = name_of(exchange, scheme)
        cookies = shown(exchange, name)
        clear(exchange, scheme, {name, *(one for one, _ in cookies)})
        kept = self._open(join(name, cookies))
        if kept is None:
            return False
        self._ended = bound_ended({**self._ended, kept.id: kept.until_s}, self._clock.unix_s())
        return True

    async def keep(self) -> None:
        """Write down which sessions were signed out, so that a restart and other processes know. Raises Unavailable."""
        async with self._writing:
            await asyncio.to_thread(self._seal.add_ended, self._ended, self._clock.unix_s())

    def is_out(self, session_id: str) -> bool:
        """Whether a session was signed out, here or a moment ago at another process. Raises Unavailable where that
        cannot be told."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._looks_s:
            self._looks_s = now_s + LOOK_S
            self._trouble = self._look()
        if self._trouble is not None:
            raise Unavailable(self._trouble.message, code=self._trouble.code)
        return session_id in self._ended

    def _look(self) -> Unavailable | None:
        """Learn what others signed out; what is known here already stays so, whatever becomes of the list."""
        try:
            found = self._seal.look_ended()
        except Unavailable as error:
            return error
        if found is not None:
            self._ended = bound_ended({**found, **self._ended}, self._clock.unix_s())
        return None

    def _open(self, text: str | None) -> Recalled | None:
        content = None if text is None else self._seal.open(text)
        return None if content is None else decode(content)


def encode(kept: Recalled) -> bytes:
    """What is sealed."""
    token, parts = kept.token, None
    if token is not None:
        texts = token.split(".")
        try:
            found = [base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)) for text in texts]
        except ValueError:
            found = []
        if _token_of(found) == token:  # every character comes back, or it stays as it is
            token, parts = None, found
    return zlib.compress(msgspec.msgpack.encode(_Kept(kept.id, kept.until_s, kept.digest, token, parts)), 9)


def decode(content: bytes) -> Recalled:
    """Reverse `encode`."""
    kept = msgspec.msgpack.decode(zlib.decompress(content), type=_Kept)
    token = kept.token if kept.parts is None else _token_of(kept.parts)
    return Recalled(kept.id, kept.until_s, kept.digest, token)


def _token_of(parts: list[bytes]) -> str:
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


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
