"""LiteLLM's proxy configuration as a settings file of ours: what means the same is written, the rest is listed.

    model_list        -> backends (one for each provider, address and key), their models, a route for each model_name
    router_settings   -> policies, retries, fallbacks, how long a breaker stays open
    litellm_settings  -> answer cache, budget
    general_settings  -> a key, if the master key is a variable's

Every field that is not carried over is a comment at the end. A key that stands in the file itself is not written
anywhere. Source: LiteLLM's documentation of `config.yaml`, read in November 2026. Reads one text and writes one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from headrace.cli.kinds import quoted, shown_path
from headrace.core.errors import InvalidRequest
from headrace.gateway.upstreams.catalog import CATALOG

KINDS: Final[Mapping[str, str]] = {
    **{name: name for name in CATALOG},
    "together_ai": "together",
    "fireworks_ai": "fireworks",
    "cohere_chat": "cohere",
    "hosted_vllm": "vllm",
    "ollama_chat": "ollama",
    "lm_studio": "lmstudio",
    "custom_openai": "openai-compatible",
    "openai_like": "openai-compatible",
    "litellm_proxy": "openai-compatible",
    "text-completion-openai": "openai",
}
"""What LiteLLM calls a provider, before a model's name."""

_BY_NAME: Final = (
    (("gpt-", "o1", "o3", "o4", "chatgpt-", "text-embedding-"), "openai"),
    (("claude-",), "anthropic"),
    (("gemini-",), "gemini"),
)
_POLICIES: Final = {
    "simple-shuffle": ("weighted", ""),
    "least-busy": ("least_loaded", ""),
    "latency-based-routing": ("lowest_latency", ""),
    "cost-based-routing": ("lowest_cost", ""),
    "usage-based-routing": ("least_loaded", "it counts requests under way instead of those of the last minute"),
    "usage-based-routing-v2": ("least_loaded", "it counts requests under way instead of those of the last minute"),
}
_TASKS: Final = {
    "embedding": ("embed", "count"),
    "rerank": ("score", "count"),
    "chat": ("generate", "count"),
    "completion": ("generate", "count"),
    "responses": ("generate", "count"),
}
_CAN: Final = {
    "supports_function_calling": "tools",
    "supports_response_schema": "schema",
    "supports_vision": "vision",
    "supports_audio_input": "audio",
    "supports_reasoning": "reasoning",
}
_WINDOWS: Final = {
    "1m": "minute",
    "1h": "hour",
    "1d": "day",
    "24h": "day",
    "7d": "week",
    "30d": "month",
    "1mo": "month",
}
_PRICES: Final = {
    "input_cost_per_token": "input",
    "output_cost_per_token": "output",
    "cache_read_input_token_cost": "cache_read",
    "cache_creation_input_token_cost": "cache_write",
}


@dataclass(slots=True)
class _Backend:
    name: str
    kind: str
    url: str
    secret: str
    models: dict[str, dict[str, str]] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    is_open: bool = False


@dataclass(slots=True)
class _Candidate:
    target: str
    weight: float | None
    rpm: int | None
    tpm: int | None


class _Fields:
    """One mapping of the file: what was taken out of it, and what is left."""

    def __init__(self, value: Any, where: str) -> None:
        if value is not None and not isinstance(value, dict):
            raise InvalidRequest(f"{where}: is no mapping; LiteLLM's files have one there.")
        self._left: dict[str, Any] = dict(value or {})
        self._where = where

    def take(self, name: str, default: Any = None) -> Any:
        value = self._left.pop(name, default)
        return default if value is None else value

    def left(self) -> list[str]:
        return [f"{self._where}.{name}" for name in self._left]


def import_litellm(text: str, file: str) -> str:
    """Our settings file. Raises InvalidRequest for what is no configuration of LiteLLM's."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = file if mark is None else f"{file}:{mark.line + 1}"
        raise InvalidRequest(
            f"{place}: is not valid YAML ({getattr(error, 'problem', None) or 'unreadable'})."
        ) from None
    if not isinstance(document, dict) or not isinstance(document.get("model_list"), list):
        raise InvalidRequest(f"{file}: has no model_list; give the configuration file of LiteLLM's proxy.")
    return _Import(document, file).run()


class _Import:
    def __init__(self, document: dict[str, Any], file: str) -> None:
        self._file = file
        self._whole = _Fields(document, "")
        self._backends: dict[tuple[str, str, str], _Backend] = {}
        self._routes: dict[str, list[_Candidate]] = {}
        self._notes: list[str] = []
        self._lines: list[str] = []

    def run(self) -> str:
        for index, entry in enumerate(self._whole.take("model_list")):
            self._model(entry, f"model_list[{index + 1}]")
        router = _Fields(self._whole.take("router_settings"), "router_settings")
        settings = _Fields(self._whole.take("litellm_settings"), "litellm_settings")
        general = _Fields(self._whole.take("general_settings"), "general_settings")
        self._aliases(router)
        retry_lines, breaker = self._retries(router, settings)
        fallbacks = self._fallbacks(router, settings)
        policy = self._policy(router)
        for backend in self._backends.values():
            self._write_backend(backend, breaker)
        for name, candidates in self._routes.items():
            self._write_route(name, candidates, policy, fallbacks.get(name, ()), retry_lines)
        self._write_limits()
        self._write_cache(settings)
        self._write_budget(settings)
        self._write_key(general)
        for fields in (router, settings, general, self._whole):
            self._notes += [f"{name.lstrip('.')} has no counterpart" for name in fields.left()]
        head = [f"# Written by `headrace config import-litellm` from {self._file}."]
        notes = ["", "# Not carried over:", *(f"# - {' '.join(note.split())}" for note in self._notes)]
        return "\n".join([*head, *self._lines, *(notes if self._notes else [])]) + "\n"

    # Reading

    def _model(self, entry: Any, where: str) -> None:
        fields = _Fields(entry, where)
        name = str(fields.take("model_name", ""))
        params = _Fields(fields.take("litellm_params"), f"{where}.litellm_params")
        info = _Fields(fields.take("model_info"), f"{where}.model_info")
        asked = str(params.take("model", ""))
        backend, model = self._backend(asked, params, f"{where} ({name} -> {asked})")
        if backend is None or not name:
            return
        if "*" in name or "*" in model:
            backend.is_open = True
            self._notes.append(f"{where}: {name} became {backend.name}.open; clients name its models")
        else:
            backend.models.setdefault(model, {}).update(self._about(params, info))
            rpm, tpm = _whole(params.take("rpm")), _whole(params.take("tpm"))
            weight = params.take("weight", rpm or tpm)
            candidate = _Candidate(f"{backend.name}/{model}", _number(weight), rpm, tpm)
            known = self._routes.setdefault(name, [])
            if candidate.target not in {one.target for one in known}:
                known.append(candidate)
        self._times(params, backend)
        for left in (params, info, fields):
            self._notes += [f"{one} has no counterpart" for one in left.left() if not one.endswith("model_info.id")]

    def _backend(self, asked: str, params: _Fields, where: str) -> tuple[_Backend | None, str]:
        provider, slash, model = asked.partition("/")
        url = str(params.take("api_base", params.take("base_url", "")))
        kind = KINDS.get(provider) if slash else None
        if kind is None:
            model = asked
            near = next((kind for starts, kind in _BY_NAME if asked.startswith(starts)), None)
            # A name alone is OpenAI's protocol wherever it is; what stands before a slash and is not known may be any.
            kind = KINDS.get(str(params.take("custom_llm_provider", "")))
            kind = kind or (None if slash else "openai-compatible" if url else near)
        if kind is None:
            self._notes.append(f"{where}: its provider is none that is known here")
            return None, model
        if kind == "openai" and url and not url.startswith("https://api.openai.com"):
            kind = "openai-compatible"
        if kind == "ollama" and url and not url.rstrip("/").endswith("/v1"):
            url = url.rstrip("/") + "/v1"
        if url.startswith("os.environ/"):
            self._notes.append(f"{where}: its address is in a variable; write it into the file")
            return None, model
        row = CATALOG[kind]
        if not url and not row.url:
            self._notes.append(f"{where}: has no api_base")
            return None, model
        key = (kind, "" if url.rstrip("/") == row.url_of(row.dialect) else url, self._secret(params, kind, where))
        if key not in self._backends:
            self._backends[key] = _Backend(self._name(kind), *key)
        return self._backends[key], model

    def _secret(self, params: _Fields, kind: str, where: str) -> str:
        given = params.take("api_key", "")
        variable = CATALOG[kind].key_variable
        if isinstance(given, str) and given.startswith("os.environ/"):
            return f"env:{given.removeprefix('os.environ/')}"
        if given and str(given).lower() not in {"none", "empty", "dummy", "anything"}:
            variable = variable or f"{kind.upper().replace('-', '_').replace('.', '_')}_API_KEY"
            self._notes.append(f"{where}: its key stands in the file; put it into the variable {variable}")
        return f"env:{variable}" if variable else ""

    def _name(self, kind: str) -> str:
        names = {one.name for one in self._backends.values()}
        plain = kind.replace(".", "-")
        return next(
            name for number in range(1, 10**6) if (name := plain if number == 1 else f"{plain}-{number}") not in names
        )

    def _about(self, params: _Fields, info: _Fields) -> dict[str, str]:
        about: dict[str, str] = {}
        prices = {ours: _number(params.take(theirs, info.take(theirs))) for theirs, ours in _PRICES.items()}
        if prices["input"] is not None and prices["output"] is not None:
            told = (f"{name} = {round(price * 1e6, 9)!r}" for name, price in prices.items() if price is not None)
            about["prices"] = "{" + ", ".join(told) + "}"
        for theirs, ours in (("max_input_tokens", "context_length"), ("max_output_tokens", "max_output_tokens")):
            number = _whole(info.take(theirs, params.take(theirs)))
            about |= {ours: str(number)} if number else {}
        mode = str(info.take("mode", ""))
        if mode in _TASKS:
            about["tasks"] = _list(_TASKS[mode])
        told_needs = {ours: info.take(theirs) for theirs, ours in _CAN.items()}
        if any(value is not None for value in told_needs.values()):
            usual = {"tools", "schema", "logprobs", "reasoning"} - {
                one for one, on in told_needs.items() if on is False
            }
            about["can"] = _list(sorted(usual | {one for one, on in told_needs.items() if on}))
        return about

    def _times(self, params: _Fields, backend: _Backend) -> None:
        whole, first = _number(params.take("timeout")), _number(params.take("stream_timeout"))
        if (time_s := first or whole) is not None:
            backend.settings["timeouts"] = f"{{first_event = {time_s!r}, whole = {whole or 600.0!r}}}"
        if (most := _whole(params.take("max_parallel_requests"))) is not None:
            backend.settings["max_concurrency"] = str(most)

    def _aliases(self, router: _Fields) -> None:
        for alias, meant in dict(router.take("model_group_alias", {})).items():
            name = meant.get("model") if isinstance(meant, dict) else meant
            if name in self._routes:
                self._routes[str(alias)] = self._routes[name]
            else:
                self._notes.append(f"router_settings.model_group_alias.{alias}: {name} is no route")

    def _policy(self, router: _Fields) -> str:
        strategy = str(router.take("routing_strategy", "simple-shuffle"))
        policy, note = _POLICIES.get(strategy, ("least_loaded", "it is not known here; least_loaded was taken"))
        if note:
            self._notes.append(f"router_settings.routing_strategy {strategy}: {note}")
        return policy

    def _retries(self, router: _Fields, settings: _Fields) -> tuple[list[str], str]:
        number = _whole(router.take("num_retries", settings.take("num_retries")))
        wait_s = _number(router.take("retry_after"))
        lines = [] if number is None else [f"max_attempts = {min(20, number + 1)}"]
        lines += [] if wait_s is None else [f"backoff = {wait_s!r}", f"max_backoff = {max(2.0, wait_s)!r}"]
        time_s = _number(router.take("timeout", settings.take("request_timeout")))
        for backend in self._backends.values():
            if time_s is not None:
                backend.settings.setdefault("timeouts", f"{{first_event = {time_s!r}, whole = {time_s!r}}}")
        cooldown_s = _number(router.take("cooldown_time"))
        if (fails := router.take("allowed_fails", settings.take("allowed_fails"))) is not None:
            self._notes.append(f"allowed_fails {fails}: a breaker counts shares of attempts, see a backend's `breaker`")
        return lines, "" if not cooldown_s else f"{{open = {cooldown_s!r}, max_open = {max(120.0, cooldown_s)!r}}}"

    def _fallbacks(self, router: _Fields, settings: _Fields) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for fields in (settings, router):
            for entry in fields.take("fallbacks", []):
                for name, others in dict(entry).items():
                    found.setdefault(str(name), []).extend(map(str, others))
            for other in fields.take("default_fallbacks", []):
                for name in self._routes:
                    found.setdefault(name, []).append(str(other))
            for name in ("context_window_fallbacks", "content_policy_fallbacks"):
                if fields.take(name):
                    self._notes.append(
                        f"{name}: models whose context is too short are left out by themselves; others are not"
                    )
        return self._straight(found)

    def _straight(self, found: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Those that are of routes and to routes, but for what would close a circle, which LiteLLM cuts as it runs."""
        kept: dict[str, list[str]] = {}
        for name, others in found.items():
            for other in dict.fromkeys(others):
                if missing := next((one for one in (name, other) if one not in self._routes), None):
                    self._notes.append(f"fallback {name} -> {other}: there is no route {missing}")
                elif _leads(other, name, kept):
                    self._notes.append(f"fallback {name} -> {other}: goes round in a circle")
                else:
                    kept.setdefault(name, []).append(other)
        return kept

    # Writing

    def _table(self, header: str, lines: Iterable[str]) -> None:
        self._lines += ["", header, *lines]

    def _write_backend(self, backend: _Backend, breaker: str) -> None:
        lines = [f"kind = {quoted(backend.kind)}"]
        lines += [f"url = {quoted(backend.url)}"] if backend.url else []
        lines += [f"secret = {quoted(backend.secret)}"] if backend.secret else []
        lines += ["open = true"] if backend.is_open else []
        lines += [f"{name} = {value}" for name, value in backend.settings.items()]
        lines += [f"breaker = {breaker}"] if breaker else []
        path = ("backends", backend.name)
        self._table(f"[{shown_path(path)}]", lines)
        for model, about in backend.models.items():
            header = f"[{shown_path((*path, 'models', model))}]"
            self._table(header, [f"{name} = {value}" for name, value in about.items()])

    def _write_route(
        self, name: str, candidates: list[_Candidate], policy: str, fallbacks: Iterable[str], retry: list[str]
    ) -> None:
        shown = []
        for one in candidates:
            target = quoted(one.target)
            has_weight = policy == "weighted" and one.weight is not None
            shown.append(f"{{target = {target}, weight = {one.weight!r}}}" if has_weight else target)
        lines = [f"candidates = [{', '.join(shown)}]", f"policies = [{quoted(policy)}]"]
        lines += [f"fallbacks = {_list(fallbacks)}"] if fallbacks else []
        self._table(f"[{shown_path(('routes', name))}]", lines)
        if retry:
            self._table(f"[{shown_path(('routes', name, 'retry'))}]", retry)

    def _write_limits(self) -> None:
        for name, candidates in self._routes.items():
            lines = []
            for limit, numbers in (
                ("requests_per_minute", [one.rpm for one in candidates]),
                ("tokens_per_minute", [one.tpm for one in candidates]),
            ):
                told = [number for number in numbers if number is not None]
                if told and len(told) == len(numbers):
                    lines.append(f"{limit} = {sum(told)}")
                elif told:
                    self._notes.append(f"{limit} of {name}: not all of its deployments have one")
            if not lines:
                continue
            if any(map(str.isspace, name)):
                self._notes.append(f"the limits of {name}: its name has a space")
            else:
                # The deployments' together: those of single ones are not kept apart.
                self._table("[[limits]]", [f"subject = {quoted(f'route:{name}')}", *lines])

    def _write_cache(self, settings: _Fields) -> None:
        is_on, params = (
            settings.take("cache", False),
            _Fields(settings.take("cache_params"), "litellm_settings.cache_params"),
        )
        if not is_on:
            return
        lines = []
        if (ttl_s := _number(params.take("ttl"))) is not None:
            lines.append(f"ttl = {ttl_s!r}")
        if (threshold := _number(params.take("similarity_threshold"))) is not None:
            self._notes.append(
                f"similarity_threshold: a model of this process compares questions; write guests = "
                f'["all-minilm-l6-v2"], and in [answer_cache] semantic_threshold = {threshold!r}'
            )
        params.take("type")
        self._table("[answer_cache]", lines)
        self._notes += [f"{name} has no counterpart: answers are kept in this process" for name in params.left()]

    def _write_budget(self, settings: _Fields) -> None:
        money, duration = _number(settings.take("max_budget")), str(settings.take("budget_duration", ""))
        if money is None:
            return
        window = _WINDOWS.get(duration, "total")
        unpriced = [
            f"{backend.name}/{model}"
            for backend in self._backends.values()
            for model, about in backend.models.items()
            if "prices" not in about
        ] + [backend.name for backend in self._backends.values() if backend.is_open]
        if duration and duration not in _WINDOWS:
            self._notes.append(f"budget_duration {duration}: windows are of the calendar; it became {window}")
        lines = ["[[budgets]]", 'subject = "all"', f'window = "{window}"', f"money = {money!r}"]
        if unpriced:
            self._notes.append(f"max_budget: it cannot hold before {', '.join(unpriced)} have prices; then write:")
            self._notes += lines
        else:
            self._table(lines[0], lines[1:])

    def _write_key(self, general: _Fields) -> None:
        master = general.take("master_key")
        if isinstance(master, str) and master.startswith("os.environ/"):
            secret = quoted(f"env:{master.removeprefix('os.environ/')}")
            scopes = 'scopes = ["generate", "metrics", "admin"]'
            self._table("[[keys]]", ['name = "master"', scopes, f"secret = {secret}"])
        elif master is not None:
            self._notes.append("general_settings.master_key stands in the file; `headrace keys add NAME --scope admin`")


def _leads(start: str, end: str, ways: Mapping[str, list[str]]) -> bool:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name == end:
            return True
        if name not in seen:
            seen.add(name)
            waiting += ways.get(name, [])
    return False


def _whole(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None


def _list(names: Iterable[str]) -> str:
    return "[" + ", ".join(map(quoted, names)) + "]"
