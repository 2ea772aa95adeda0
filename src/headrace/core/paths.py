"""The way that a request took through a gateway, and what routes look like that requests take: values and protocols.

Who asked, whom a plan named and why, each attempt, what overseers said, what was set aside and what it cost. Never what
was said: no prompt, no answer, no words of a backend, which may repeat them. Knows no gateway and no wire.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

from headrace.core.trust import Decision, Verdict
from headrace.core.usage import UsageRecord

StepKind = Literal["first", "next", "retry", "fallback", "hedge", "tier", "copy"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A target as one plan saw it; see `core.explanation.Verdict`, whose words these are. `place` None: it was ruled
    out, and `reason` says why. A candidate of a larger `tier` is asked if an answer of a smaller one will not do."""

    target: str
    place: int | None
    reason: str
    scores: tuple[tuple[str, float | None], ...] = ()
    num_tokens: int = 0
    cost_nanos: int = 0
    max_tokens: int | None = None
    tier: int = 0
    is_fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One target that was tried. Times are seconds from the request's start; `first_s` is when the first of its answer
    came. `kind` says why it was its turn: the first, the next after a failure, the same again, of a fallback, beside
    one that is slow (hedge), a tier up, a copy. `outcome` is ok, cancelled or an error's code, `reason` our own words
    for it. `was_asked` False: nothing was sent, as with an open breaker. `is_trial`: its breaker let this one through
    to see whether it is back. `standing` is what stood against the target afterwards."""

    backend: str
    model: str
    kind: StepKind
    began_s: float
    first_s: float | None
    ended_s: float
    outcome: str
    reason: str = ""
    was_asked: bool = True
    is_trial: bool = False
    standing: str = ""
    num_bytes: int = 0
    num_tokens: int = 0
    cost_nanos: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserved:
    """What was set aside before anything was sent: tokens, billionths, and in which budgets (subject, window)."""

    tokens: int
    nanos: int
    budgets: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PathBrief:
    """A request in a line. `number` grows with every request that ends. `exchange_id` is what its client knows it by,
    the `x-request-id` of the answer; several requests may be of one exchange. `reason` is why it went where it did,
    `refusal` why it was refused, in our own words; `record_id` is that of its provenance record,
    `trace_id` that of its trace."""

    number: int
    record: UsageRecord
    reason: str = ""
    refusal: str = ""
    exchange_id: str = ""
    record_id: str | None = None
    trace_id: str | None = None
    is_slow: bool = False

    @property
    def is_failed(self) -> bool:
        """Whether it ended by an error, which its reader's leaving is not."""
        return self.record.outcome not in ("ok", "cancelled")


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestPath:
    """All that is known of one request's way. `source` is the request whose answer was given again."""

    brief: PathBrief
    choices: tuple[Choice, ...] = ()
    steps: tuple[Step, ...] = ()
    decisions: tuple[Decision, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    reserved: Reserved | None = None
    shadow: str | None = None
    hedge_after_s: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathQuery:
    """Which requests: those for which everything given holds. `model` is what was asked for or what answered;
    `backend` one that was tried; `outcome` is ok, cancelled, failed or an error's code; `id` is a request's, that
    of its exchange, or of one that asked through it. `limit` of those before the number `after`, newest first."""

    id: str | None = None
    tenant: str | None = None
    key: str | None = None
    user: str | None = None
    model: str | None = None
    route: str | None = None
    backend: str | None = None
    outcome: str | None = None
    is_slow: bool | None = None
    limit: int = 100
    after: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPage:
    """Requests, newest first. `max_kept` newest ones are kept at most, and as many failed and slow ones beside (0: none
    are kept); `num_kept` are now; a request is slow from `slow_s` on."""

    briefs: tuple[PathBrief, ...]
    has_more: bool
    num_kept: int
    max_kept: int
    slow_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What the newest requests show: how many there were and failed, and seconds that half and 95 of a hundred took at
    most, to the first of an answer and in all; None where nothing was seen."""

    num_requests: int = 0
    num_failed: int = 0
    first_p50_s: float | None = None
    first_p95_s: float | None = None
    whole_p50_s: float | None = None
    whole_p95_s: float | None = None
    cost_nanos: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTarget:
    """A target of a route. `role` says when it gets requests, `share` which part of them a canary or a shadow gets;
    `figures` count attempts."""

    target: str
    role: Literal["candidate", "canary", "shadow"]
    weight: float = 1.0
    tier: int = 0
    share: float | None = None
    figures: Figures = Figures()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteState:
    """A name that requests ask for, and where it leads. `is_named`: the settings name it; others are models that were
    asked for by their own names."""

    name: str
    is_named: bool
    policies: tuple[str, ...] = ()
    targets: tuple[RouteTarget, ...] = ()
    fallbacks: tuple[str, ...] = ()
    verifiers: tuple[str, ...] = ()
    max_attempts: int = 1
    hedge_after_s: float | None = None
    figures: Figures = Figures()


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutesSeen:
    """All of them. Figures are of the requests since `since_s` (Unix time; None: none were kept)."""

    routes: tuple[RouteState, ...]
    since_s: float | None


class RequestPaths(Protocol):
    """Who remembers the last requests."""

    def page(self, query: PathQuery) -> PathPage:
        """Those that a query asks for."""
        ...

    def find(self, request_id: str) -> RequestPath:
        """One of them by its id or by its exchange's; the newest, if there are several. Raises NotFound."""
        ...

    def routes(self) -> RoutesSeen:
        """Every route as it is now, and what was seen of it."""
        ...
