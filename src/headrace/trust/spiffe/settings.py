"""What an operator can say of workload identity, as values: where it comes from, who gets which name, what names mean.

Read from a file by `cli`. Knows no files and no sockets: paths are paths.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from headrace.core.workload import Attested
from headrace.trust.spiffe.ids import IdPattern, SpiffeId
from headrace.trust.spiffe.rhythm import Rhythm

MAX_X509_TTL_S: Final = 24 * 3600.0
MAX_JWT_TTL_S: Final = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EntrySettings:
    """A name, and the processes that get it: those of which everything that is said here is true. At least one thing
    is. `exe` is the path of the program, `sha256` of its bytes. `x509_ttl_s` and `jwt_ttl_s` None: the issuer's."""

    id: SpiffeId
    uid: int | None = None
    gid: int | None = None
    exe: str | None = None
    sha256: str | None = None
    hint: str = ""
    x509_ttl_s: float | None = None
    jwt_ttl_s: float | None = None

    def fits(self, attested: Attested) -> bool:
        """Whether a process gets the name."""
        return (
            (self.uid is None or self.uid == attested.uid)
            and (self.gid is None or self.gid == attested.gid)
            and (self.exe is None or self.exe == attested.exe)
            and (self.sha256 is None or self.sha256 == attested.sha256)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSettings:
    """What workloads of a pattern may do here. `agent`: what each is called; `*` for what the pattern's last star
    stands for. The rest is what a key of `[[keys]]` has."""

    pattern: IdPattern
    tenant: str
    agent: str | None = None
    scopes: frozenset[str] = frozenset({"generate"})
    priority: int = 0
    share: float = 1.0
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiffeSettings:
    """Nothing: no workload identity. Either `trust_domain` (this program issues) or `socket` (another does, SPIRE for
    example: `unix:///path`).

    `id` is this server's own name: issued here, or chosen among those that the socket gives. `serve` is where the
    Workload API is spoken to others. `audiences` are what tokens for this server must name; none: its own ID.
    `federated` are files of other trust domains' bundles. `workloads` are by their patterns as written, of which the
    first that fits counts. `is_required`: no hop to or from another machine without an SVID at its other end."""

    trust_domain: str | None = None
    socket: str | None = None
    id: SpiffeId | None = None
    serve: Path | None = None
    audiences: tuple[str, ...] = ()
    x509_ttl_s: float = 3600.0
    jwt_ttl_s: float = 300.0
    rhythm: Rhythm = field(default_factory=Rhythm)
    entries: tuple[EntrySettings, ...] = ()
    federated: Mapping[str, Path] = field(default_factory=dict)
    workloads: Mapping[str, WorkloadSettings] = field(default_factory=dict)
    is_required: bool = False

    @property
    def is_on(self) -> bool:
        """Whether there is any."""
        return self.trust_domain is not None or self.socket is not None

    @property
    def tenants(self) -> frozenset[str]:
        """Those that callers with SVIDs are of."""
        return frozenset(one.tenant for one in self.workloads.values())

    @property
    def names_callers(self) -> bool:
        """Whether workloads are known by their SVIDs: then nobody is anonymous."""
        return bool(self.workloads)
