"""What an operator can say of a gateway, as values: backends, routes, budgets, limits, tenants, the answer cache.

Read from a file by `cli`, which tells file and line of what is wrong; `check` there says what does not go together.
Knows no files, and no secrets: a `Secret` is a place where one is found, and reads as that place.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from headrace.core.ledger import Prices
from headrace.core.request import Task
from headrace.core.shape import Need
from headrace.trust.spiffe.ids import IdPattern

ENGINE: Final = "local"
"""The name of the backend that is this process's own engine."""


@dataclass(frozen=True, slots=True)
class Secret:
    """Where a secret is found: `env:NAME` or `file:PATH`. The text itself is read by `cli` and never kept in a value
    that is printed."""

    place: str


class Dialect(StrEnum):
    """The protocols that remote backends speak."""

    CHAT = "chat"  # OpenAI's Chat Completions, Completions and Embeddings, and whoever speaks them too
    RESPONSES = "responses"
    MESSAGES = "messages"
    GEMINI = "gemini"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds: to connect; from sending to the first event of a stream, and to the beginning of an answer that comes
    whole, of which nothing is seen while it is made; between two pieces of an answer."""

    connect_s: float = 5.0
    first_event_s: float = 120.0
    whole_s: float = 600.0
    idle_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Active checks: `path` is asked every `every_s` with a timeout; a backend that fails `fall` in a row is out until
    `rise` in a row succeed. None: only requests tell. `warm_up_s`: how long a backend that comes back takes to get its
    full share."""

    path: str | None = None
    every_s: float = 10.0
    timeout_s: float = 3.0
    fall: int = 3
    rise: int = 2
    warm_up_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerSettings:
    """A breaker opens when of the last `window` attempts, `min_attempts` at least, the share that failed is
    `failure_share`; after `open_s` (doubled each time it fails again, up to `max_open_s`) one attempt tries it."""

    window: int = 20
    min_attempts: int = 5
    failure_share: float = 0.5
    open_s: float = 5.0
    max_open_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """One model of a backend. `needs` are what it can do; `max_output_tokens` bounds what an answer can cost;
    `media_tokens` what one image or sound may count. `created` is for lists, Unix time."""

    context_length: int = 128_000
    max_output_tokens: int | None = None
    media_tokens: int = 4_000
    can: frozenset[Need] = frozenset({Need.TOOLS, Need.SCHEMA, Need.LOGPROBS, Need.REASONING})
    tasks: frozenset[Task] = frozenset({Task.GENERATE, Task.COUNT})
    prices: Prices | None = None
    created: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendSettings:
    """One backend. `kind` names a row of the catalog; `url` ends before the protocol's own path. `clearance` are the
    labels that it may see; `region` and `retention` ("none", "30d", ...) are what tenant rules ask. `max_concurrency`:
    requests at once, None without bound. `headers` are sent with every request. A model that is not in `models` may be
    asked for if `is_open`.

    Of its TLS: `ca_file` are authorities that its certificate must be of, None the system's; `client_certificate` with
    `client_key`, or with `identity` "spiffe" our X.509-SVID, is what it is shown; `spiffe_id` is who it must be.
    `audience`: it is shown a JWT-SVID for that with every request."""

    name: str
    kind: str
    dialect: Dialect | None = None  # None: the engine
    url: str = ""
    secret: Secret | None = None
    models: Mapping[str, ModelSettings] = field(default_factory=dict)
    is_open: bool = False
    clearance: frozenset[str] = frozenset()
    region: str = ""
    retention: str = ""
    max_concurrency: int | None = None
    timeouts: Timeouts = Timeouts()
    health: Health = Health()
    breaker: BreakerSettings = BreakerSettings()
    headers: Mapping[str, str] = field(default_factory=dict)
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    identity: str = ""
    audience: str = ""
    spiffe_id: IdPattern | None = None

    @property
    def has_own_tls(self) -> bool:
        """Whether its TLS is not what everybody's is."""
        return bool(self.ca_file or self.client_certificate or self.identity or self.spiffe_id)


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One model of one backend, written `backend/model`."""

    backend: str
    model: str

    def __str__(self) -> str:
        return f"{self.backend}/{self.model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSettings:
    """A target of a route. `weight` is its share under the policy `weighted`; `tier` its place from cheap to able under
    `complexity`, 0 first."""

    target: Target
    weight: float = 1.0
    tier: int = 0


class Policy(StrEnum):
    """How a route orders its candidates. Filters (capability, clearance, health, budget) always hold, and are no
    policies; those named are applied in turn, each ordering what the one before it left equal."""

    WEIGHTED = "weighted"
    LEAST_LOADED = "least_loaded"
    LOWEST_LATENCY = "lowest_latency"
    LOWEST_COST = "lowest_cost"
    CACHE_AFFINITY = "cache_affinity"
    COMPLEXITY = "complexity"
    ORDERED = "ordered"  # as they stand in the file


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """How a failed attempt goes on, before the first event only. `max_attempts` counts all; `on` are codes of errors;
    retries are at most `budget_share` of the requests of the last 10 s, plus `budget_floor` a second."""

    max_attempts: int = 3
    on: frozenset[str] = frozenset(
        {"upstream_fault", "upstream_timeout", "overloaded", "unavailable", "engine_fault", "rate_limit_exceeded"}
    )
    backoff_s: float = 0.1
    max_backoff_s: float = 2.0
    budget_share: float = 0.2
    budget_floor: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Escalation:
    """For the policy `complexity`: a request begins at the first tier whose `max_difficulty` (0 to 1, one entry a tier
    but the last) is not below its own, and goes a tier up when `verifier` says no to the answer: "json" (it parses),
    "schema" (it fits the form), "finished" (not cut off), "min_logprob:X" (mean log-probability above X)."""

    max_difficulty: tuple[float, ...] = (0.5,)
    verifiers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """What a client's model name leads to. `fallbacks` are names of routes or targets that are tried when no candidate
    is left; `canary` gets `canary_share` of the requests (sticky by session or user); `shadow` gets a copy of
    `shadow_share` of them, whose answers nobody sees. `hedge_after_s`: a second candidate is asked too when the first
    said nothing for that long. `affinity_load_cap`: a warm candidate may have so many times the mean load."""

    name: str
    candidates: tuple[CandidateSettings, ...]
    policies: tuple[Policy, ...] = (Policy.LEAST_LOADED,)
    fallbacks: tuple[str, ...] = ()
    retry: RetrySettings = RetrySettings()
    hedge_after_s: float | None = None
    canary: Target | None = None
    canary_share: float = 0.0
    shadow: Target | None = None
    shadow_share: float = 0.0
    escalation: Escalation = Escalation()
    affinity_load_cap: float = 1.5
    max_queue: int = 1024


class Window(StrEnum):
    """Over what a budget or limit counts: calendar time in UTC, weeks from Monday; TOTAL never begins anew."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose: `kind` is all, tenant, key, user, tag or route; `name` is one of them, or `*` for each of them alone.
    Written `key:laptop`, `tenant:*`, `all`. Users are of a tenant: `user:anna/bob`."""

    kind: str
    name: str = ""

    def __str__(self) -> str:
        return self.kind if self.kind == "all" else f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """What a subject may spend in each window: `money` in the price list's unit, `tokens` of input and output."""

    name: str
    subject: Subject
    window: Window
    money: float | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitSettings:
    """What a subject may do: requests and tokens a minute, requests at once."""

    name: str
    subject: Subject
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantRule:
    """What holds for every request of a tenant: labels that it carries, and what backends must be."""

    tenant: str
    labels: frozenset[str] = frozenset()
    regions: frozenset[str] = frozenset()  # empty: any
    retentions: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()  # names that may be asked for; empty: any


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheSettings:
    """Answers that are given again. `semantic_threshold` None: only the same request; else the cosine above which
    another's answer may be given. `price_share`: what a given answer costs of what it would have."""

    is_on: bool = False
    ttl_s: float = 3600.0
    max_bytes: int = 64 * 2**20
    semantic_threshold: float | None = None
    semantic_model: str = "all-minilm-l6-v2"
    price_share: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewaySettings:
    """All of it. `default_max_tokens` bounds an answer where a budget holds and neither the request nor the model's
    entry does. `usage_days`: how long single records are kept; sums stay. `kept_requests`: of how many of the newest it
    can be told which way they went, 0: of none; `slow_request_s`: one that takes so long is kept longer."""

    backends: Mapping[str, BackendSettings] = field(default_factory=dict)
    routes: Mapping[str, RouteSettings] = field(default_factory=dict)
    budgets: tuple[BudgetSettings, ...] = ()
    limits: tuple[LimitSettings, ...] = ()
    tenants: Mapping[str, TenantRule] = field(default_factory=dict)
    cache: CacheSettings = CacheSettings()
    default_max_tokens: int = 4096
    usage_days: int = 90
    max_in_flight: int = 2048
    kept_requests: int = 1000
    slow_request_s: float = 10.0
