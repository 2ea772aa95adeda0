"""The console: the page that a browser opens, and its sessions.

The page is what `console/build.mjs` made, in a folder beside this file: names with a digest in them, which never change
and are kept by browsers for good, and one `index.html`, which is asked for anew each time and stands for every address
below /console/ that is none of a file. It holds nothing secret and is open; what it shows it asks of the same routes as
every other client. Knows no view.
"""

import asyncio
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from headrace.api.console import SessionAnswer
from headrace.core.errors import HeadraceError, InvalidRequest, NotFound, Unauthenticated
from headrace.core.identity import Identity
from headrace.server.credentials import Credentials, ShownKey
from headrace.server.door import Door
from headrace.server.exchange import Exchange
from headrace.server.keys import LOCAL
from headrace.server.routes import Route
from headrace.server.sessions import HEADER, Proof, Sessions, check_origin
from headrace.server.visits import SIGN_IN, SIGN_OUT, Visits

FOLDER: Final = Path(__file__).parent / "static"
CSP: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_INDEX: Final = "index.html"
_KINDS: Final = {
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".txt": b"text/plain; charset=utf-8",
}
# The better first. Each file was compressed once, when the page was built.
_ENCODINGS: Final = ((b"br", ".br"), (b"gzip", ".gz"))
_WEIGHT: Final = re.compile(rb"^\s*q=0(\.0{0,3})?\s*$")
_GUARDS: Final = (
    (b"content-security-policy", CSP.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
)


@dataclass(slots=True)
class Page:
    """The built files. What one of them holds is read when it is first asked for, and kept."""

    folder: Path
    _digests: dict[str, str] = field(default_factory=dict)
    _stamp: int = 0
    _held: dict[str, bytes] = field(default_factory=dict)

    def look(self) -> None:
        """See whether the page was built since. Raises NotFound if it never was."""
        built = self.folder / "built.json"
        try:
            stamp = built.stat().st_mtime_ns
            if stamp != self._stamp:
                self._digests, self._held, self._stamp = json.loads(built.read_bytes()), {}, stamp
        except FileNotFoundError:
            raise NotFound(
                "the console was not built with this server; in a source tree `make console` builds it, and the wheels "
                "of Headrace have it. Everything else of the server is there.",
                code="console_not_built",
            ) from None

    def digest(self, name: str) -> str | None:
        """Of a file; None if there is none of that name."""
        return self._digests.get(name)

    def read(self, name: str) -> bytes:
        """What a file holds. Raises FileNotFoundError."""
        held = self._held.get(name)
        if held is None:
            held = self._held[name] = (self.folder / name).read_bytes()
        return held


class Console:
    """Its routes."""

    def __init__(
        self, credentials: Credentials, sessions: Sessions | None, door: Callable[[], Door], visits: Visits
    ) -> None:
        """Without `sessions` nobody has to sign in."""
        self._credentials = credentials
        self._sessions = sessions
        self._door = door
        self._visits = visits
        self._page = Page(FOLDER)

    def routes(self) -> list[Route]:
        """Open, all of them: whoever is not signed in yet must get the page."""
        return [
            Route("/console", "GET", None, self._redirect, is_open=True),
            Route("/console/", "GET", None, self._index, is_open=True),
            Route("/console/{path*}", "GET", None, self._index, is_open=True),
            Route("/console/static/{name}", "GET", None, self._file, is_open=True),
            Route("/console/session", "GET", None, self._tell, is_open=True),
            Route("/console/session", "POST", None, self._sign_in, is_open=True),
            Route("/console/session", "DELETE", None, self._sign_out, is_open=True),
        ]

    async def _redirect(self, exchange: Exchange, _: Identity) -> None:
        _guard(exchange)
        exchange.add_header(b"location", b"/console/")
        await exchange.respond(308, b"", b"text/plain")

    async def _index(self, exchange: Exchange, _: Identity) -> None:
        _guard(exchange)
        await asyncio.to_thread(self._page.look)
        await self._give(exchange, _INDEX, b"no-cache")

    async def _file(self, exchange: Exchange, _: Identity) -> None:
        _guard(exchange)
        name = exchange.params["name"]
        if self._page.digest(name) is None:
            await asyncio.to_thread(self._page.look)
        if self._page.digest(name) is None or name == _INDEX:
            raise NotFound(f"{name[:100]!r} is no file of the console; it may be of another version: reload the page.")
        await self._give(exchange, name, b"public, max-age=31536000, immutable")

    async def _give(self, exchange: Exchange, name: str, caching: bytes) -> None:
        coding, suffix = _encoding(exchange.headers.get(b"accept-encoding", b""))
        tag = f'"{self._page.digest(name)}{suffix}"'.encode()
        for header in ((b"cache-control", caching), (b"etag", tag), (b"vary", b"accept-encoding")):
            exchange.add_header(*header)
        kind = _KINDS.get(Path(name).suffix, b"application/octet-stream")
        known = exchange.headers.get(b"if-none-match", b"")
        if tag in [one.strip().removeprefix(b"W/") for one in known.split(b",")]:
            await exchange.respond(304, b"", kind)
            return
        if coding is not None:
            exchange.add_header(b"content-encoding", coding)
        await exchange.respond(200, await asyncio.to_thread(self._page.read, name + suffix), kind)

    async def _tell(self, exchange: Exchange, _: Identity) -> None:
        """Who is signed in: nobody is no error."""
        self._check(exchange)
        try:
            identity = self._credentials.admit(exchange, self._door())
        except Unauthenticated:
            await _answer(exchange, None, None)
            return
        is_session = self._has_session(exchange)
        await _answer(exchange, identity, identity.expires_s if is_session else None)

    async def _sign_in(self, exchange: Exchange, _: Identity) -> None:
        """Trade a key or a token for a cookie."""
        with self._visits.counting():
            identity, until_s = self._begin(exchange)
        if until_s is not None:
            exchange.record.tenant, exchange.record.key = identity.principal.tenant, identity.key
            await self._visits.note(SIGN_IN, exchange, identity)
        await _answer(exchange, identity, until_s)

    def _begin(self, exchange: Exchange) -> tuple[Identity, float | None]:
        """Who signs in, and until when, Unix time; None where nobody has to. Raises HeadraceError."""
        self._check(exchange)
        if exchange.headers.get(HEADER) != b"1":
            raise InvalidRequest(
                "x-headrace-console: a sign-in is the console's own; send the header with the value 1.",
                param="x-headrace-console",
            )
        check_origin(exchange)
        door = self._door()
        identity = self._credentials.admit(exchange, door, takes_sessions=False)
        if self._sessions is None:
            return identity, None
        proof = _proof(exchange, identity, self._credentials.key_of(exchange, identity))
        return identity, self._sessions.begin(exchange, door.scheme(exchange), proof)

    async def _sign_out(self, exchange: Exchange, _: Identity) -> None:
        self._check(exchange)
        if exchange.headers.get(HEADER) != b"1":
            raise InvalidRequest("x-headrace-console: send the header with the value 1.", param="x-headrace-console")
        check_origin(exchange)
        leaving = self._leaving(exchange)
        if self._sessions is not None and self._sessions.end(exchange, self._door().scheme(exchange)):
            if leaving is not None:
                await self._visits.note(SIGN_OUT, exchange, leaving)
            await self._sessions.keep()
        exchange.add_header(b"cache-control", b"no-store")
        await exchange.respond_empty()

    def _leaving(self, exchange: Exchange) -> Identity | None:
        """Who signs out; None for a session that was over before, or where that cannot be told: the cookies go all the
        same."""
        try:
            return self._credentials.admit(exchange, self._door()) if self._has_session(exchange) else None
        except HeadraceError:
            return None

    def _check(self, exchange: Exchange) -> None:
        """What holds before any credential, as for routes that are not open."""
        self._door().check(exchange, has_keys=self._credentials.is_needed)

    def _has_session(self, exchange: Exchange) -> bool:
        recalled = None if self._sessions is None else self._sessions.recall(exchange, self._door().scheme(exchange))
        return recalled is not None


def _guard(exchange: Exchange) -> None:
    """What a browser may do with the answer, be it a file or an error."""
    for header in _GUARDS:
        exchange.add_header(*header)


async def _answer(exchange: Exchange, identity: Identity | None, until_s: float | None) -> None:
    exchange.add_header(b"cache-control", b"no-store")
    if identity is None:
        told = SessionAnswer(object="console.session", needs_sign_in=True)
    else:
        principal = identity.principal
        name = None if identity is LOCAL else identity.key or principal.subject
        scopes = sorted(principal.scopes)
        told = SessionAnswer(
            object="console.session", name=name, tenant=principal.tenant, scopes=scopes, expires=until_s
        )
    await exchange.respond(200, msgspec.json.encode(told))


def _proof(exchange: Exchange, identity: Identity, key: ShownKey | None) -> Proof:
    """What the session will stand for. Raises InvalidRequest for what is good for single requests or programs only."""
    scheme, _, token = exchange.headers.get(b"authorization", b"").decode("latin-1").strip().partition(" ")
    if identity.principal.delegation is not None:
        raise InvalidRequest(
            "authorization: a delegation is for the agent that it was made out to, and is no sign-in; use a key or a "
            "token of your own.",
            param="authorization",
        )
    if scheme.lower() not in ("", "bearer") or b"dpop" in exchange.headers or b"signature" in exchange.headers:
        raise InvalidRequest(
            "authorization: this credential proves each request anew (DPoP, HTTP signatures), which a page that is "
            "signed in cannot; use a key or a token that stands alone.",
            param="authorization",
        )
    if key is not None:
        return Proof(identity.expires_s, digest=key.digest)
    if identity.is_token and token:
        return Proof(identity.expires_s, token=token.strip())
    raise InvalidRequest(
        "authorization: there is nothing to sign in with; send a key or token as 'Authorization: Bearer ...'.",
        param="authorization",
    )


def _encoding(accepted: bytes) -> tuple[bytes | None, str]:
    """RFC 9110, section 12.5.3, as far as there is a choice."""
    wanted: dict[bytes, bool] = {}
    for one in accepted.lower().split(b","):
        name, *parameters = one.split(b";")
        wanted[name.strip()] = not any(_WEIGHT.match(parameter) for parameter in parameters)
    for coding, suffix in _ENCODINGS:
        if wanted.get(coding, wanted.get(b"*", False)):
            return coding, suffix
    return None, ""
