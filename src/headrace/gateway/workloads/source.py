"""Where this program's own SVIDs come from, as everybody who needs them sees it.

A source always answers at once with what holds now, and never waits: whoever fetches over a socket does that in the
background (`api_source.py`), and an issuer in this process is asked (`issued_source.py`). Knows no connections.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from headrace.core.errors import Unavailable
from headrace.core.workload import JwtSvid, X509Svid
from headrace.trust.spiffe.bundle import Bundle

MAX_AUDIENCES: Final = 256


@dataclass(frozen=True, slots=True)
class Material:
    """What a connection is opened with: who we are, and whom we believe. Another object after every change."""

    svid: X509Svid
    bundles: Mapping[str, Bundle]


class Source(Protocol):
    """Of SVIDs and bundles."""

    def material(self) -> Material:
        """What holds now. Raises Unavailable if there is none, or none that is valid."""
        ...

    def bundles(self) -> Mapping[str, Bundle]:
        """Whom we believe, by trust domain; empty before anything is known. The same object until it changes."""
        ...

    def token(self, audience: str) -> str:
        """A JWT-SVID for an audience. Raises Unavailable."""
        ...


def is_half_over(svid: X509Svid | JwtSvid, now_s: float) -> bool:
    """Whether it is time for the next; also if it is of a future that a wrong clock saw."""
    return not svid.issued_s <= now_s < (svid.issued_s + svid.expires_s) / 2


class NoSource:
    """Of a program without a name of its own, which may know others' all the same."""

    def __init__(self, bundles: Callable[[], Mapping[str, Bundle]] = dict) -> None:
        self._bundles = bundles

    def material(self) -> Material:
        """Raises Unavailable."""
        raise Unavailable("this server has no workload identity of its own; [spiffe] id gives it one.")

    def bundles(self) -> Mapping[str, Bundle]:
        """See `Source`."""
        return self._bundles()

    def token(self, audience: str) -> str:
        """Raises Unavailable."""
        raise Unavailable("this server has no workload identity of its own; [spiffe] id gives it one.")
