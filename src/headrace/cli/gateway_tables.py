"""The tables of a settings file that describe a gateway: a table of fields for each class of `gateway/settings.py`.

Names are those of the classes' fields, without units. Reads values and refuses what is wrong by itself; what does not
go together is `gateway_checks.py`'s. Knows no files, no environment and no secrets: it reads where a secret is.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from headrace.cli.kinds import (
    SIZE,
    TEXT,
    TRUTH,
    WRONG,
    Kind,
    Spot,
    WrongKey,
    hidden,
    integer,
    leaf,
    named,
    number,
    one_of,
    seconds,
    several,
    table,
    word,
)
from headrace.core.ledger import Prices
from headrace.core.request import Task
from headrace.core.shape import Need
from headrace.gateway.settings import (
    ENGINE,
    BackendSettings,
    BreakerSettings,
    BudgetSettings,
    CacheSettings,
    CandidateSettings,
    Dialect,
    Escalation,
    Health,
    LimitSettings,
    ModelSettings,
    Policy,
    RetrySettings,
    RouteSettings,
    Secret,
    Subject,
    Target,
    TenantRule,
    Timeouts,
    Window,
)
from headrace.gateway.upstreams.address import read_url
from headrace.gateway.upstreams.catalog import CATALOG
from headrace.trust.spiffe.ids import IdPattern, parse_pattern

ENGINE_KIND: Final = "engine"
# Words of a header's name that say that its value is a credential.
_CREDENTIALS: Final = {"authorization", "auth", "key", "apikey", "token", "secret", "cookie", "password", "credential"}
_HOP_BY_HOP: Final = {"host", "connection", "content-length", "transfer-encoding", "te", "trailer", "upgrade"}
_ERRORS: Final = [
    "upstream_fault",
    "upstream_timeout",
    "overloaded",
    "unavailable",
    "engine_fault",
    "rate_limit_exceeded",
    "deadline_exceeded",
    "context_length_exceeded",
]


def read_secret_place(value: Any) -> Secret:
    """`env:NAME` or `file:PATH`. Raises ValueError, which never repeats the value: it may be the secret itself."""
    kind, mark, place = value.partition(":") if isinstance(value, str) else ("", "", "")
    if kind not in {"env", "file"} or not mark or not place.strip() or (kind == "env" and not _is_variable(place)):
        raise ValueError(
            'names no place of a secret; write "env:NAME" for a variable or "file:/path" for a file, and never the '
            "secret itself"
        )
    return Secret(value)


def _is_variable(name: str) -> bool:
    return name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()


def _subject(text: str) -> Subject:
    kind, _, name = text.partition(":")
    return Subject(kind, name)


def _target(text: str) -> Target:
    backend, _, model = text.partition("/")
    return Target(backend, model)


def _headers(value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise ValueError('is not a table of headers; write headers = {"x-team" = "search"}')  # noqa: TRY004
    found = {}
    for name, text in value.items():
        lower = name.lower()
        if not name or not all(one.isascii() and (one.isalnum() or one in "!#$%&'*+-.^_`|~") for one in name):
            raise ValueError(f"has {name!r}, which is no name of a header")
        if lower in _HOP_BY_HOP:
            raise ValueError(f"has {name}, which belongs to the connection; take it out")
        if _CREDENTIALS & set(lower.replace("_", "-").split("-")):
            raise ValueError(f'has {name}, which looks like a credential; use secret = "env:NAME" instead')
        if not isinstance(text, str) or not text.isascii() or any(ord(one) < 0x20 or ord(one) == 0x7F for one in text):
            raise ValueError(f"has {name} with a value that is not one line of ASCII")
        found[lower] = text
    return MappingProxyType(found)


def _url(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("the value is no URL; give one like https://host:port/v1")  # noqa: TRY004
    return str(read_url(value))


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("is no path of a file")
    return Path(value).expanduser()


def _pattern(value: Any) -> IdPattern:
    if not isinstance(value, str):
        raise ValueError('the value is no text; write "spiffe://example.org/engine/*"')  # noqa: TRY004
    return parse_pattern(value)


PATH: Final = leaf(_path, {"type": "string", "minLength": 1})
URL: Final = leaf(_url, {"type": "string", "pattern": "^https?://[^@?#\\s]+$"}, show=None)
HEADERS: Final = leaf(_headers, {"type": "object", "additionalProperties": {"type": "string"}}, show=hidden)
SECRET: Final = leaf(
    read_secret_place, {"type": "string", "pattern": "^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"}, show=hidden
)
LABEL: Final = word(
    r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", str, "is no label; use letters, digits, dots, dashes, underscores"
)
NAME: Final = word(r"\S(?:.{0,198}\S)?", str, "is no name; give 1 to 200 characters without space around")
LABELS: Final = several(LABEL, frozenset)
SUBJECT_NAME: Final = word(
    r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}", str, "is not 1 to 64 letters, digits, dots, dashes, underscores or @"
)
NAMES: Final = several(NAME, frozenset)
TARGET: Final = word(r"[^/\s]+/\S+", _target, 'is no target; write "backend/model"')
SUBJECT: Final = word(
    r"all|(?:tenant|key|user|tag|route):\S+",
    _subject,
    'names nobody; write "all", or tenant, key, user, tag or route with a name: "tenant:anna", "key:*"',
)
PRICES: Final = table(
    Prices,
    {one.name: number(0, 1e9) for one in fields(Prices)},
    needs=("input", "output"),
    tells="Of a million tokens.",
)


MODEL: Final = table(
    ModelSettings,
    {
        "context_length": integer(1, 2**31),
        "max_output_tokens": integer(1, 2**31),
        "media_tokens": integer(0, 2**31),
        "can": several(one_of(Need, Need, "need"), frozenset),
        "tasks": several(one_of(Task, Task, "task"), frozenset),
        "prices": PRICES,
        "created": integer(0),
    },
)
TIMEOUTS: Final = table(
    Timeouts, {"connect_s": seconds(), "first_event_s": seconds(), "whole_s": seconds(), "idle_s": seconds()}
)
HEALTH: Final = table(
    Health,
    {
        "path": word(r"/[!-~]*", str, "is no path; it begins with a slash and has no spaces"),
        "every_s": seconds(0.1),
        "timeout_s": seconds(),
        "fall": integer(1, 1000),
        "rise": integer(1, 1000),
        "warm_up_s": seconds(0),
    },
)
BREAKER: Final = table(
    BreakerSettings,
    {
        "window": integer(1, 10_000),
        "min_attempts": integer(1, 10_000),
        "failure_share": number(0, 1, is_low_in=False),
        "open_s": seconds(),
        "max_open_s": seconds(),
    },
)
RETRY: Final = table(
    RetrySettings,
    {
        "max_attempts": integer(1, 20),
        "on": several(one_of(_ERRORS, str, "error that is tried again"), frozenset),
        "backoff_s": seconds(0),
        "max_backoff_s": seconds(0),
        "budget_share": number(0, 10),
        "budget_floor": number(0, 1e6),
    },
)
ESCALATION: Final = table(
    Escalation,
    {
        "max_difficulty": several(number(0, 1), or_one=True),
        "verifiers": several(
            word(
                r"json|schema|finished|min_logprob:-\d+(?:\.\d+)?",
                str,
                "is no verifier; known are json, schema, finished, and min_logprob:X with X below 0",
            )
        ),
    },
)
CACHE: Final = table(
    lambda *, is_on=True, **given: CacheSettings(is_on=is_on, **given),
    {
        "is_on": TRUTH,
        "ttl_s": seconds(1, 365 * 86_400.0),
        "max_bytes": SIZE,
        "semantic_threshold": number(0, 1, is_low_in=False),
        "semantic_model": TEXT,
        "price_share": number(0, 1),
    },
)


_NOT_OF_THE_ENGINE: Final = {
    "url": "it has no address",
    "secret": "it asks for no key",
    "dialect": "it takes every one",
    "headers": "nothing is sent",
    "models": "name those that are served by model and guests",
    "is_open": "name the models that are served by model and guests",
    "clearance": "nothing leaves the process, so it may see everything",
    "region": "nothing leaves the process, so no rule asks for it",
    "retention": "nothing leaves the process, so no rule asks for it",
    "timeouts": "request_timeout bounds its answers",
    **dict.fromkeys(
        ("ca_file", "client_certificate", "client_key", "identity", "audience", "spiffe_id"), "nothing is connected"
    ),
}


def _backend(*, name: str, kind: str, models: Any = None, **given: Any) -> BackendSettings:
    is_engine = kind == ENGINE_KIND
    if is_engine and name != ENGINE:
        raise WrongKey("kind", f"{kind!r} is the kind of the backend {ENGINE} and of no other; name it so")
    if name == ENGINE and not is_engine:
        raise WrongKey(
            "kind", f"{kind!r} is not that of {ENGINE}, this process's own engine; name the backend otherwise"
        )
    if is_engine:
        for parameter in (one for one in _NOT_OF_THE_ENGINE if one in given or (one == "models" and models)):
            raise WrongKey(parameter, f"is not for the engine in this process: {_NOT_OF_THE_ENGINE[parameter]}")
        return BackendSettings(name=name, kind=kind, **given)
    row = CATALOG[kind]
    given.setdefault("dialect", row.dialect)
    given.setdefault("url", row.url_of(given["dialect"]))
    if not given["url"]:
        raise WrongKey(
            "url", f'is missing; a backend of kind {kind} has no address of its own: url = "http://host:port/v1"'
        )
    if row.has_secret and "secret" not in given:
        raise WrongKey(
            "secret", f'is missing; {kind} asks for a key: secret = "env:{row.key_variable}" or "file:/path"'
        )
    _check_tls(given)
    if not models and not given.get("is_open"):
        raise WrongKey("models", f'is missing; name them: models = ["NAME"], or [backends.{name}.models."NAME"]')
    if "health" in given and given["health"].path is None:
        given["health"] = replace(given["health"], path=row.health_path)
    return BackendSettings(name=name, kind=kind, models=models or {}, **given)


def _check_tls(given: Mapping[str, Any]) -> None:
    """What of a backend's TLS does not go together."""
    needing = [one for one in ("ca_file", "client_certificate", "identity", "spiffe_id") if one in given]
    if needing and not given["url"].startswith("https:"):
        raise WrongKey(needing[0], f"is of TLS, and {given['url']} has none; write https://")
    if ("client_certificate" in given) != ("client_key" in given):
        raise WrongKey(
            "client_key" if "client_certificate" in given else "client_certificate",
            "is missing; a certificate and its key belong together",
        )
    if "client_certificate" in given and "identity" in given:
        raise WrongKey("client_certificate", "is there beside identity; show one of them")
    if "ca_file" in given and "spiffe_id" in given:
        raise WrongKey("ca_file", "is there beside spiffe_id, whose authorities are the trust domains'; take it out")
    if "secret" in given and "audience" in given:
        raise WrongKey("audience", "is there beside secret, and a request has one authorization; take one of them out")


def _read_models(value: Any, spot: Spot) -> Any:
    """Tables by name, or a list of names of models of which nothing more is said."""
    if not isinstance(value, list):
        return _MODELS.read(value, spot)
    names = several(NAME).read(value, spot)
    if names is WRONG:
        return WRONG
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        return spot.say(f"{twice[0]!r} is there twice; name each model once.")
    return dict.fromkeys(names, ModelSettings())


_MODELS: Final = named(MODEL)
MODELS: Final = Kind(
    read=_read_models,
    schema={"anyOf": [_MODELS.schema, {"type": "array", "items": NAME.schema, "uniqueItems": True}]},
    fields=_MODELS.fields,
)
BACKEND: Final = table(
    _backend,
    {
        "kind": one_of([ENGINE_KIND, *CATALOG], str, "kind of backend"),
        "dialect": one_of(Dialect, Dialect),
        "url": URL,
        "secret": SECRET,
        "models": MODELS,
        "is_open": TRUTH,
        "clearance": LABELS,
        "region": LABEL,
        "retention": LABEL,
        "max_concurrency": integer(1, 1_000_000),
        "timeouts": TIMEOUTS,
        "health": HEALTH,
        "breaker": BREAKER,
        "ca_file": PATH,
        "client_certificate": PATH,
        "client_key": PATH,
        "identity": one_of(("spiffe",)),
        "audience": NAME,
        "spiffe_id": leaf(_pattern, {"type": "string", "pattern": "^spiffe://[^/]+/.+$"}, show=None),
        "headers": HEADERS,
    },
    is_named=True,
    needs=("kind",),
)


_CANDIDATE: Final = table(
    CandidateSettings,
    {"target": TARGET, "weight": number(0, 1e9), "tier": integer(0, 100)},
    needs=("target",),
)


def _read_candidate(value: Any, spot: Spot) -> Any:
    if isinstance(value, dict):
        return _CANDIDATE.read(value, spot)
    target = TARGET.read(value, spot)
    return WRONG if target is WRONG else CandidateSettings(target=target)


def _route(*, name: str, candidates: tuple[CandidateSettings, ...], **given: Any) -> RouteSettings:
    if not candidates:
        raise WrongKey("candidates", 'names none; write candidates = ["backend/model"]')
    for shared in ("canary", "shadow"):
        if given.get(shared) is not None and f"{shared}_share" not in given:
            raise WrongKey(shared, f"has no share; write {shared}_share = 0.05, a number from 0 to 1")
        if given.get(f"{shared}_share") and shared not in given:
            raise WrongKey(f"{shared}_share", f'is of nobody; write {shared} = "backend/model"')
    return RouteSettings(name=name, candidates=candidates, **given)


CANDIDATE: Final = Kind(
    read=_read_candidate, schema={"anyOf": [TARGET.schema, _CANDIDATE.schema]}, fields=_CANDIDATE.fields
)
ROUTE: Final = table(
    _route,
    {
        "candidates": several(CANDIDATE),
        "policies": several(one_of(Policy, Policy, "policy"), or_one=True),
        "fallbacks": several(NAME),
        "retry": RETRY,
        "hedge_after_s": seconds(),
        "canary": TARGET,
        "canary_share": number(0, 1),
        "shadow": TARGET,
        "shadow_share": number(0, 1),
        "escalation": ESCALATION,
        "affinity_load_cap": number(1, 1000),
        "max_queue": integer(0, 1_000_000),
    },
    is_named=True,
    needs=("candidates",),
)


def _budget(*, name: str | None = None, subject: Subject, window: Window, **given: Any) -> BudgetSettings:
    if not given:
        raise ValueError("has neither money nor tokens, so it holds nobody back; give one of them or both")
    return BudgetSettings(name=name or f"{subject} a {window}", subject=subject, window=window, **given)


def _limit(*, name: str | None = None, subject: Subject, **given: Any) -> LimitSettings:
    if not given:
        raise ValueError("limits nothing; give requests_per_minute, tokens_per_minute or concurrency")
    return LimitSettings(name=name or str(subject), subject=subject, **given)


BUDGET: Final = table(
    _budget,
    {
        "name": NAME,
        "subject": SUBJECT,
        "window": one_of(Window, Window, "window"),
        "money": number(0, 1e9),
        "tokens": integer(0),
    },
    needs=("subject", "window"),
)
LIMIT: Final = table(
    _limit,
    {
        "name": NAME,
        "subject": SUBJECT,
        "requests_per_minute": integer(1, 10**9),
        "tokens_per_minute": integer(1, 10**12),
        "concurrency": integer(1, 10**6),
    },
    needs=("subject",),
)
TENANT: Final = table(
    lambda *, name, **given: TenantRule(tenant=name, **given),
    {"labels": LABELS, "regions": LABELS, "retentions": LABELS, "routes": NAMES},
    is_named=True,
)
