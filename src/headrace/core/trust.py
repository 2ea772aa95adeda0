"""What judges say of a request and its answer: labels, decisions, verdicts, and the case that they are gathered in.

Values only. Knows no policies, no monitors and no records: those are `trust`'s, and `gateway` asks them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final


class Integrity(IntEnum):
    """Who could have written a text, by how far they are trusted; a join takes the least."""

    UNKNOWN = 0  # nobody knows: a web page, a file, a memory without a source
    TOOL = 1  # a named tool's result
    USER = 2  # the authenticated caller
    OPERATOR = 3  # who runs the system: system and developer turns, settings


class Confidentiality(IntEnum):
    """Who may learn of a text; a join takes the narrowest."""

    PUBLIC = 0
    TENANT = 1
    SECRET = 2


@dataclass(frozen=True, slots=True)
class Label:
    """Of one part, or of parts together. `sources` name who wrote it: `operator`, `user`, `tool:NAME`, `unknown`."""

    integrity: Integrity
    confidentiality: Confidentiality = Confidentiality.TENANT
    sources: frozenset[str] = frozenset()

    def join(self, other: "Label") -> "Label":
        """The label of two parts read together: no more trusted than either, no more public than either."""
        return Label(
            min(self.integrity, other.integrity),
            max(self.confidentiality, other.confidentiality),
            self.sources | other.sources,
        )


TRUSTED: Final = Label(Integrity.OPERATOR, Confidentiality.PUBLIC)
"""What joins with everything and changes nothing."""


class Effect(IntEnum):
    """What calling a tool can do, by how much it matters; a read whose address a caller chooses is an EGRESS."""

    READ = 0
    WRITE = 1
    EGRESS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What a policy said: `action` is request, route, tool or a service's; `policies` are the ids of those that decided
    (none: nothing permitted it). `is_enforced`: False where a policy is only watched, and the answer was not what
    happened."""

    action: str
    resource: str
    is_allowed: bool
    policies: tuple[str, ...] = ()
    reason: str = ""
    is_enforced: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a monitor said. `score` lies in [0, 1], `version` names rules and thresholds without telling them; `action`
    is note, label, throttle or refuse; `is_shadow`: it was only watched."""

    monitor: str
    version: str
    score: float
    action: str = "note"
    reason: str = ""
    is_shadow: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """A tool that an answer calls. `manifest` is the digest of its declaration, `arguments` are its JSON text, which
    records only commit to. `decision` None: nobody had to decide. `endorsements` are the ids of those without which it
    would have been denied."""

    call_id: str
    name: str
    manifest: str
    arguments: str
    effect: Effect
    decision: Decision | None = None
    endorsements: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """On whose authority an agent acts: an attenuated token, verified. `chain` names who handed it on, first to last;
    what is None is not bounded by it. `revocation_ids` are those of its blocks."""

    chain: tuple[str, ...]
    revocation_ids: tuple[str, ...] = ()
    models: frozenset[str] | None = None
    tools: frozenset[str] | None = None
    effects: frozenset[Effect] | None = None
    labels: frozenset[str] | None = None
    max_cost_nanos: int | None = None
    max_calls: int | None = None
    expires_s: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def depth(self) -> int:
        """How often it was handed on."""
        return max(0, len(self.chain) - 1)

    @property
    def holder(self) -> str:
        """Whose it is now."""
        return self.chain[-1] if self.chain else ""

    @property
    def root(self) -> str:
        """Who granted it first."""
        return self.chain[0] if self.chain else ""
