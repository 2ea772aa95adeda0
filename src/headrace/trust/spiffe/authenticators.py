"""Who a workload is to this server: an SVID of the connection or the request, and what the operator says of its name.

    certificate or token -> its ID, verified -> the first pattern that fits -> a principal

Deny by default: an ID that no pattern fits is refused, also beside a key that would do. An expired certificate ends
with its time, though its connection goes on; what was verified once is not verified again while the bundles are the
same. Reads no clock: a request says when it came.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from typing import Final

from headrace.core.errors import Unauthenticated
from headrace.core.identity import Identity, Shown
from headrace.core.request import Principal
from headrace.trust.identity.jose import is_compact
from headrace.trust.spiffe.bundle import Bundle
from headrace.trust.spiffe.ids import InvalidSvid, SpiffeId
from headrace.trust.spiffe.jwt_svid import claimed_trust_domain, verify_jwt_svid
from headrace.trust.spiffe.settings import WorkloadSettings
from headrace.trust.spiffe.x509_svid import verify_x509_svid

MAX_KNOWN: Final = 4096
"""Certificates, and as many tokens, that are remembered as good."""

Bundles = Callable[[], Mapping[str, Bundle]]
"""The bundles in force by trust domain: the same object until they change."""


class Workloads:
    """Which names are taken, as what."""

    def __init__(self, settings: Sequence[WorkloadSettings]) -> None:
        self._settings = tuple(settings)

    def replace(self, settings: Sequence[WorkloadSettings]) -> None:
        """Take others from now on."""
        self._settings = tuple(settings)

    def principal(self, spiffe_id: SpiffeId) -> Principal:
        """Whom an ID stands for. Raises Unauthenticated if nobody said so."""
        for one in self._settings:
            stars = one.pattern.match(spiffe_id)
            if stars is None:
                continue
            agent = one.agent
            if agent == "*":
                agent = stars[-1] if stars else spiffe_id.path.rpartition("/")[2]
            return Principal(
                tenant=one.tenant,
                agent=agent,
                scopes=one.scopes,
                priority=one.priority,
                share=one.share,
                tags=one.tags,
                labels=one.labels,
                routes=one.routes,
                subject=str(spiffe_id),
                workload=str(spiffe_id),
            )
        raise Unauthenticated(
            f"{spiffe_id} is no workload that this server serves; its operator names those in [spiffe.workloads].",
            code="unknown_workload",
        )


class _Known:
    """What was verified with the bundles in force."""

    def __init__(self) -> None:
        self._bundles: Mapping[str, Bundle] | None = None
        self._found: OrderedDict[Hashable, Identity] = OrderedDict()

    def clear(self) -> None:
        self._found.clear()

    def find(self, shown: Hashable, bundles: Mapping[str, Bundle]) -> Identity | None:
        if self._bundles is not bundles:
            self._bundles = bundles
            self._found.clear()
        return self._found.get(shown)

    def add(self, shown: Hashable, identity: Identity) -> None:
        self._found[shown] = identity
        if len(self._found) > MAX_KNOWN:
            self._found.popitem(last=False)


class X509Workloads:
    """An `Authenticator`: the certificates of the connection. `is_needed`: nobody calls without an SVID, of either
    kind."""

    def __init__(self, workloads: Workloads, bundles: Bundles, *, is_needed: bool = False) -> None:
        self._workloads = workloads
        self._bundles = bundles
        self._is_needed = is_needed
        self._known = _Known()

    def forget(self) -> None:
        """Look again at what was known: what it means has changed."""
        self._known.clear()

    def authenticate(self, shown: Shown) -> Identity | None:
        """See `Authenticator`."""
        if not shown.certificates:
            has_token = shown.token is not None and is_compact(shown.token)
            if self._is_needed and not (has_token and claimed_trust_domain(shown.token or "") in self._bundles()):
                raise Unauthenticated(
                    "only workloads with an SVID are served: connect with an X.509-SVID, or show a JWT-SVID for this "
                    "server as 'Authorization: Bearer ...'.",
                    code="svid_required",
                )
            return None
        bundles = self._bundles()
        known = self._known.find(shown.certificates, bundles)
        if known is None or shown.came_unix_s >= known.expires_s:
            try:
                svid = verify_x509_svid(shown.certificates, bundles, now_s=shown.came_unix_s)
            except InvalidSvid as error:
                raise Unauthenticated(f"the certificate is no SVID that is valid here: {error}.") from None
            known = Identity(self._workloads.principal(svid.spiffe_id), str(svid.spiffe_id), svid.expires_s)
            self._known.add(shown.certificates, known)
        return known


class JwtWorkloads:
    """An `Authenticator`: a token whose subject is an ID of a trust domain that is known. `audiences` are this server's
    names."""

    def __init__(self, workloads: Workloads, bundles: Bundles, audiences: Callable[[], Collection[str]]) -> None:
        self._workloads = workloads
        self._bundles = bundles
        self._audiences = audiences
        self._known = _Known()

    def forget(self) -> None:
        """Look again at what was known: what it means has changed."""
        self._known.clear()

    def authenticate(self, shown: Shown) -> Identity | None:
        """See `Authenticator`."""
        token = shown.token
        if token is None or shown.scheme != "bearer" or not is_compact(token):
            return None
        bundles = self._bundles()
        known = self._known.find(token, bundles)
        if known is not None and shown.came_unix_s < known.expires_s:
            return known
        if claimed_trust_domain(token) not in bundles:
            return None  # a user's token, or nobody's
        try:
            svid = verify_jwt_svid(token, bundles, audiences=self._audiences(), now_s=shown.came_unix_s)
        except InvalidSvid as error:
            raise Unauthenticated(f"the JWT-SVID is not valid here: {error}.", code="invalid_token") from None
        principal = self._workloads.principal(svid.spiffe_id)
        known = Identity(principal, str(svid.spiffe_id), svid.expires_s, is_token=True)
        self._known.add(token, known)
        return known
