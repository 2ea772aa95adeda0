"""SVIDs of the issuer in this process, for this process: nobody has to be attested. Knows no socket."""

from collections.abc import Mapping

from headrace.core.clock import Clock
from headrace.core.errors import Unavailable
from headrace.core.workload import JwtSvid
from headrace.gateway.workloads.source import MAX_AUDIENCES, Material, is_half_over
from headrace.trust.spiffe.bundle import Bundle
from headrace.trust.spiffe.ids import InvalidSvid, SpiffeId
from headrace.trust.spiffe.issuer import Issuer


class IssuedSource:
    """A `Source`."""

    def __init__(self, issuer: Issuer, spiffe_id: SpiffeId, clock: Clock) -> None:
        self._issuer = issuer
        self._id = spiffe_id
        self._clock = clock
        self._material: Material | None = None
        self._tokens: dict[str, JwtSvid] = {}

    def material(self) -> Material:
        """See `Source`. Renewed when half of its time is over, or the keys change."""
        known, bundles = self._material, self._issuer.bundles
        if known is None or known.bundles is not bundles or is_half_over(known.svid, self._clock.unix_s()):
            try:
                known = self._material = Material(self._issuer.mint_x509(self._id), bundles)
            except InvalidSvid as error:  # no key is valid at the time that the clock shows
                raise Unavailable(f"this server has no X.509-SVID: {error}.", retry_after_s=1.0) from error
        return known

    def bundles(self) -> Mapping[str, Bundle]:
        """See `Source`."""
        return self._issuer.bundles

    def token(self, audience: str) -> str:
        """See `Source`."""
        known = self._tokens.get(audience)
        if known is None or is_half_over(known, self._clock.unix_s()):
            if len(self._tokens) >= MAX_AUDIENCES:
                self._tokens.clear()
            try:
                known = self._tokens[audience] = self._issuer.mint_jwt(self._id, (audience,))
            except InvalidSvid as error:
                raise Unavailable(f"this server has no JWT-SVID: {error}.", retry_after_s=1.0) from error
        return known.token
