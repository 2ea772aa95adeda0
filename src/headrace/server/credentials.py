"""Who calls: what a request shows of its caller, asked of every authenticator in turn and of the keys, joined to one
identity.

    certificate, token, delegation, signature, key -> identities -> one: no wider than any of them

Whoever shows two credentials gets what both allow, and where they name two callers gets nothing. A session of the
console stands for the key or token that it began with, which is judged anew. With keys or with authenticators nobody is
anonymous; without both everybody is the machine's user, and nothing is looked at. Knows no kind of credential.
"""

import asyncio
import math
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote

from headrace.core.certificates import peer_chain
from headrace.core.clock import Clock
from headrace.core.errors import Unauthenticated
from headrace.core.identity import AnswerSigner, Authenticator, Binder, Challenger, Identity, Shown
from headrace.core.request import Principal
from headrace.core.sessions import SessionEnded
from headrace.server.door import Door
from headrace.server.exchange import Exchange
from headrace.server.feed import Scope
from headrace.server.keys import LOCAL, KeyRing, digest_of
from headrace.server.sessions import Recalled, Sessions, is_of_console

TLS_EXTENSION: Final = "headrace.tls"
"""Of a scope: `{"certificates": (der, ...)}`, those that the client's connection was opened with, leaf first."""
BEARER: Final = 'Bearer realm="headrace"'

# Two of these in one request would be two callers, of whom a proxy in front may have checked the other.
_ONCE: Final = (b"authorization", b"x-api-key", b"dpop")


@dataclass(frozen=True, slots=True)
class ShownKey:
    """An API key by the SHA-256 of its text, which a connection need not keep; good until `until_s` at the longest, in
    Unix time, and until the session that it was found by is signed out. Without `digest`: a session of a token."""

    digest: str | None
    until_s: float = math.inf
    session_id: str | None = None


class Credentials:
    """Tells callers apart."""

    def __init__(
        self,
        keys: KeyRing | None,
        authenticators: Sequence[Authenticator],
        clock: Clock,
        sessions: Sessions | None = None,
    ) -> None:
        self._keys = keys
        self._sessions = sessions
        self._authenticators = tuple(authenticators)
        self._clock = clock
        self._binders = tuple(one for one in self._authenticators if isinstance(one, Binder))

    @property
    def is_needed(self) -> bool:
        """Whether callers have to show something."""
        return self._keys is not None or bool(self._authenticators)

    @property
    def _challenges(self) -> tuple[str, ...]:
        """Everything that would do."""
        told = [one.challenges for one in self._authenticators if isinstance(one, Challenger)]
        return tuple(dict.fromkeys((BEARER, *(challenge for some in told for challenge in some))))

    def admit(self, exchange: Exchange, door: Door, *, takes_sessions: bool = True) -> Identity:
        """Who asks. Raises Unauthenticated."""
        if not self.is_needed:
            return LOCAL
        session = self._session(exchange, door) if takes_sessions else None
        if not self._authenticators and session is None:
            assert self._keys is not None
            return self._keys.authenticate(exchange.shown_key())
        shown = show(exchange, door, self._clock)
        found = []
        if session is not None and session.token is not None:
            shown = replace(shown, scheme="bearer", token=session.token)
        elif session is not None:
            found.append(self._key_again(session))
        identity = self._judge(shown, found)
        if session is not None:
            exchange.session_key = (session.digest, session.until_s, session.id)
            identity = replace(identity, expires_s=min(identity.expires_s, session.until_s))
            # Caches on the way keep nothing that came for `authorization` (RFC 9111, section 3.5); of cookies they know
            # nothing.
            exchange.add_header(b"cache-control", b"no-store")
        exchange.body_digest = identity.body_digest
        return identity

    def _judge(self, shown: Shown, found: list[Identity]) -> Identity:
        """The one caller of all that is shown, beside what was `found` already. Raises Unauthenticated."""
        found += [one for asked in self._authenticators if (one := asked.authenticate(shown)) is not None]
        if shown.token is not None and not any(one.is_token for one in found):
            found.append(self._key_of(shown))
        if not found:
            raise Unauthenticated(
                "no credentials given; show a key or token as 'Authorization: Bearer ...'.",
                challenges=self._challenges,
            )
        if self._binders:
            self._check_bound(found)
        identity = found[0] if len(found) == 1 else join(found)
        self._check_time(identity)
        return identity

    def _session(self, exchange: Exchange, door: Door) -> Recalled | None:
        if self._sessions is None or not is_of_console(exchange):  # nearly every request
            return None
        return self._sessions.recall(exchange, door.scheme(exchange))

    def _key_again(self, session: Recalled) -> Identity:
        """Whose key it is that a session began with, now. Raises SessionEnded."""
        if self._keys is None or session.digest is None:
            raise SessionEnded
        try:
            return self._keys.recall(session.digest)
        except Unauthenticated as error:
            raise SessionEnded from error

    def check_again(self, identity: Identity, key: ShownKey | None) -> Identity:
        """Who asks on a connection that was opened by `identity`, with `key` if that was one. Raises Unauthenticated
        for a caller that is none any more."""
        if key is not None:
            session_id = key.session_id
            is_out = self._sessions is not None and session_id is not None and self._sessions.is_out(session_id)
            if is_out or self._clock.unix_s() >= key.until_s:
                raise SessionEnded
        if key is None or key.digest is None:
            self._check_time(identity)
            return identity
        assert self._keys is not None
        now = self._keys.recall(key.digest)
        if not self._authenticators:
            return now
        again = join([now, identity])
        self._check_time(again)
        return again

    def key_of(self, exchange: Exchange, identity: Identity) -> ShownKey | None:
        """The API key that a caller has shown, or its session with the key that it began with; None for neither."""
        if exchange.session_key is not None:
            return ShownKey(*exchange.session_key)
        if self._keys is None or identity.is_token or exchange.headers.keys().isdisjoint(_ONCE[:2]):
            return None
        key = exchange.shown_key()
        return None if key is None else ShownKey(digest_of(key))

    def _key_of(self, shown: Shown) -> Identity:
        """Whose key it is that no authenticator knew."""
        if self._keys is not None and shown.scheme == "bearer":
            try:
                return self._keys.authenticate(shown.token)
            except Unauthenticated as error:
                error.challenges = self._challenges
                raise
        raise Unauthenticated(
            "the credentials are not valid here; check them, or ask whoever runs this server for some.",
            param="authorization",
            challenges=self._challenges,
        )

    def _check_bound(self, found: Sequence[Identity]) -> None:
        """Raise Unauthenticated for one of two proofs that are good only together."""
        subjects = [one.principal.subject for one in found]
        bound = {f"key:{name}" for one in self._binders for name in one.bound_keys}
        if any(subjects.count(one) < 2 for one in bound.intersection(subjects)):
            raise Unauthenticated(
                "the key needs a signature of the request, and the signature its key; show both.", param="signature"
            )

    def _check_time(self, identity: Identity) -> None:
        if self._clock.unix_s() >= identity.expires_s:
            raise Unauthenticated("the credentials have expired; renew them.", challenges=self._challenges)


def client_certificates(transport: asyncio.BaseTransport) -> tuple[bytes, ...]:
    """What a client showed of itself while its TLS was opened; of no interest where clients are not asked."""
    tls = transport.get_extra_info("ssl_object")
    if tls is None or tls.context.verify_mode is ssl.CERT_NONE:
        return ()
    return peer_chain(tls)


def half_life_s(transport: asyncio.BaseTransport) -> float:
    """How long a connection may be kept for what its client showed: half of the time that is left of it."""
    about = transport.get_extra_info("ssl_object").getpeercert()
    return max(0.0, (ssl.cert_time_to_seconds(about["notAfter"]) - time.time()) / 2)


def show(exchange: Exchange, door: Door, clock: Clock) -> Shown:
    """What a request shows. Raises Unauthenticated for what could be read in two ways."""
    scope = exchange.scope
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in headers and name in _ONCE:
            raise Unauthenticated(f"{name.decode()}: is there twice; send one.", param=name.decode())
        headers[name] = headers[name] + b", " + value if name in headers else value
    scheme, token = _authorization(headers)
    host = headers.get(b"host", b"").decode("latin-1")
    return Shown(
        method=exchange.record.method,
        url=url_of(exchange, door),
        headers=headers,
        scheme=scheme,
        token=token,
        certificates=tuple(scope.get("extensions", {}).get(TLS_EXTENSION, {}).get("certificates", ())),
        is_own_url=door.is_own_host(host),
        came_unix_s=clock.unix_s(),
        came_s=clock.monotonic_s(),
    )


def url_of(exchange: Exchange, door: Door) -> str:
    """The request's target as its caller addressed it."""
    host = exchange.headers.get(b"host", b"").decode("latin-1")
    return f"{door.scheme(exchange)}://{host}{_target(exchange.scope)}"


class Signing:
    """Signs answers, each for its exchange."""

    def __init__(self, signer: AnswerSigner, clock: Clock) -> None:
        self._signer = signer
        self._clock = clock
        self.door: Door | None = None

    def __call__(self, exchange: Exchange, status: int, digest: bytes) -> list[tuple[bytes, bytes]]:
        """The headers of a signature over an answer with this status and `content-digest`."""
        assert self.door is not None
        asked = (exchange.record.method, url_of(exchange, self.door), exchange.headers)
        return self._signer.sign(asked, status, digest, self._clock.unix_s())


def join(found: Sequence[Identity]) -> Identity:
    """One identity of several that one caller shows: a user's or key's, the workload's that calls for it, and the
    authority that it acts on. Raises Unauthenticated where they are not of one caller."""
    principals = [one.principal for one in found]
    tenant = _only("tenant", {one.tenant for one in principals})
    workload = _only("workload", {one.workload for one in principals if one.workload is not None})
    digest = _only("body", {one.body_digest for one in found if one.body_digest is not None})
    granted = [one for one in principals if one.delegation is not None]
    callers = [one for one in principals if one.delegation is None and one.subject != one.workload]
    _only("subject", {one.subject for one in callers})
    if len(granted) > 1:
        raise _two("delegation")
    _check_holder(granted, principals)
    # Who speaks is the user or key, else the program, else whoever the delegation was given to.
    callers.sort(key=lambda one: one.key is None)  # of two proofs of one caller the key says whose it is
    speaker = next(iter(callers), next((one for one in principals if one.delegation is None), principals[0]))
    bounds = [one.routes for one in principals if one.routes]
    routes = frozenset.intersection(*bounds) if bounds else frozenset()
    if bounds and not routes:
        raise Unauthenticated("the credentials shown have no model in common that they may ask for; show one of them.")
    principal = replace(
        speaker,
        tenant=tenant or speaker.tenant,
        scopes=frozenset.intersection(*(one.scopes for one in principals)),
        priority=min(one.priority for one in principals),
        tags=tuple(dict.fromkeys(tag for one in principals for tag in one.tags)),
        labels=frozenset[str]().union(*(one.labels for one in principals)),
        routes=routes,
        workload=workload,
        # Who acts for somebody is counted under whose key and user that is, unless it has its own.
        key=speaker.key or (granted[0].key if granted else None),
        user=speaker.user or (granted[0].user if granted else None),
        agent=speaker.agent or (granted[0].agent if granted else None),
        delegation=granted[0].delegation if granted else None,
    )
    return Identity(
        principal,
        next((one.key for one in found if one.principal is speaker), None),
        min(one.expires_s for one in found),
        digest,
        is_token=any(one.is_token for one in found),
    )


def _check_holder(granted: Sequence[Principal], principals: Sequence[Principal]) -> None:
    """Raise Unauthenticated for a delegation that is shown beside credentials of another than its holder (RFC 8693,
    section 4.1: who acts is who the authority was made out to, or nobody)."""
    others = [one for one in principals if one.delegation is None]
    named = {name for one in others for name in (one.subject, one.workload)}
    for one in granted:
        assert one.delegation is not None
        if others and one.delegation.holder not in named:
            raise Unauthenticated("the delegation was not made out to whoever shows it; show your own.")


def _only(what: str, values: set[Any]) -> Any:
    if len(values) > 1:
        raise _two(what)
    return next(iter(values), None)


def _two(what: str) -> Unauthenticated:
    return Unauthenticated(f"the credentials shown do not agree on the {what}; show those of one caller.")


def _authorization(headers: dict[bytes, bytes]) -> tuple[str | None, str | None]:
    """The scheme in lower case and what follows (RFC 9110, section 11.6.2); a key as Anthropic's clients send it is a
    bearer's too."""
    given, plain = headers.get(b"authorization"), headers.get(b"x-api-key")
    shown = None if plain is None else plain.decode("latin-1").strip()
    if given is None:
        return (None, None) if shown is None else ("bearer", shown)
    scheme, _, token = given.decode("latin-1").strip().partition(" ")
    token = token.strip()
    if shown is not None and shown != token:
        raise Unauthenticated("authorization and x-api-key do not agree; send one of them.", param="x-api-key")
    return scheme.lower(), token


def _target(scope: Scope) -> str:
    raw: bytes | None = scope.get("raw_path")
    path = quote(scope["path"]) if raw is None else raw.decode("latin-1")
    query: bytes = scope.get("query_string", b"")
    return f"{path}?{query.decode('latin-1')}" if query else path
