"""What an operator can set: one table of settings, composed from a TOML file, the environment and flags, in that order.

Everything that is wrong with a file is found at once, and told with line, key, value and remedy; an unknown key names
the nearest known one. Values that are left to "auto" (None) are resolved by their owners, for example
`engine/config.py`. Reads no secrets: those are `secret_text.py`'s.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from headrace.cli.gateway_checks import check_gateway
from headrace.cli.key_table import KeyTable
from headrace.cli.kinds import WRONG, Kind, Problem, Report, Spot, WrongSettings, parse_bytes, unknown
from headrace.cli.plain_settings import DEFAULTS, LOG_LEVELS, NO_MODEL, PARSERS
from headrace.cli.spiffe_checks import check_spiffe
from headrace.cli.toml_lines import Lines
from headrace.cli.toml_writer import write_tables, write_value
from headrace.cli.trace_table import TraceTable
from headrace.core.errors import InvalidRequest
from headrace.core.ledger import PriceList
from headrace.gateway.settings import CacheSettings, GatewaySettings
from headrace.models.store import default_home
from headrace.server.config import ConsoleSettings, Cors, Tls
from headrace.trust.settings import TrustSettings

__all__ = ["LOG_LEVELS", "PARSERS", "TABLE_NAMES", "Resolved", "Settings", "compose", "parse_bytes"]

CONFIG_FILE = "headrace.toml"
PREFIX = "HEADRACE_"
# Variables of the same prefix that are read elsewhere and are no settings of the server.
OTHER_VARIABLES = {"HEADRACE_CONFIG", "HEADRACE_KERNELS", "HEADRACE_TEST_MODEL", "HEADRACE_SANITIZE"}
OTHER_VARIABLES |= {"HEADRACE_API_KEY"}

TRUST_TABLES: Final = tuple(one.name for one in fields(TrustSettings))
TABLE_NAMES: Final = frozenset(
    {"prices", "backends", "routes", "budgets", "limits", "tenants", "answer_cache", "keys", "tls", "cors", "console"}
).union(("traces",), TRUST_TABLES)
"""What only a file can say, see `file_tables.py`, which takes a moment to import. `keys` may also be the path of a keys
file, which is a plain setting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything `headrace serve` needs to know. None stands for "auto"."""

    model: str
    guests: tuple[str, ...]
    host: str
    port: int
    threads: int | None
    pin_threads: str
    memory: int | None
    model_ttl: float
    kv_memory: int | None
    kv_type: str
    disk_cache: str
    disk_cache_bytes: int
    disk_cache_days: int
    disk_cache_key: Path | None
    responses_days: int
    responses_bytes: int
    file_bytes: int
    file_quota: int
    batch_lines: int
    max_batch_tokens: int
    max_sequences: int
    context: int | None
    adapters: Path | None
    adapter_memory: int
    queue: int
    max_gap: float
    aging: float
    cache_min_tokens: int
    speculation: str
    request_timeout: float
    system: str | None
    keys: Path | None
    home: Path
    log_level: str
    log_format: str
    trusted_proxies: tuple[str, ...]
    allowed_hosts: tuple[str, ...]
    log_clients: bool
    default_max_tokens: int
    usage_days: int
    max_in_flight: int
    kept_requests: int
    slow_request: float
    prices: PriceList
    gateway: GatewaySettings
    issued: tuple[KeyTable, ...]
    tls: Tls | None
    cors: Cors | None
    console: ConsoleSettings
    traces: TraceTable
    trust: TrustSettings

    @property
    def has_engine(self) -> bool:
        """Whether this process runs models itself."""
        return self.model != NO_MODEL


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings with the place each value came from: default, a file, a variable or a flag. `report` holds warnings, and
    takes what else turns out to be wrong with the file."""

    settings: Settings
    origins: Mapping[str, str]
    report: Report

    def toml(self) -> str:
        """The settings as a TOML document that could be used as a configuration file; what is not set is a comment.
        Secrets are the places where they are found."""
        lines: list[str] = []
        for name in PARSERS:
            value = getattr(self.settings, name)
            if value is None:
                if name != "keys" or not self.settings.issued:
                    lines.append(f"# {name} is not set")
            else:
                shown = write_value(value if isinstance(value, int | float | tuple) else str(value))
                lines.append(f"{name} = {shown}  # {self.origins[name]}")
        settings, gateway = self.settings, self.settings.gateway
        tables = {
            "prices": settings.prices.models,
            "backends": gateway.backends,
            "routes": gateway.routes,
            "budgets": gateway.budgets,
            "limits": gateway.limits,
            "tenants": gateway.tenants,
            "answer_cache": gateway.cache if gateway.cache != CacheSettings() else None,
            "keys": settings.issued,
            "tls": settings.tls,
            "cors": settings.cors,
            "console": settings.console if settings.console != ConsoleSettings() else None,
            "traces": settings.traces if settings.traces != TraceTable() else None,
        }
        unset = TrustSettings()
        for name in TRUST_TABLES:
            value = getattr(settings.trust, name)
            tables[name] = None if value == getattr(unset, name) else value
        lines.extend(write_tables(tables, self.report.lines))
        return "\n".join(lines) + "\n"


def compose(flags: Mapping[str, Any], environ: Mapping[str, str], config: Path | None = None) -> Resolved:
    """Settings from defaults, then the TOML file, then `environ`, then those `flags` that are not None.

    `config` names the file; else $HEADRACE_CONFIG does; else ./headrace.toml is read if it is there.
    Raises InvalidRequest.
    """
    named_file = config or (Path(environ["HEADRACE_CONFIG"]) if environ.get("HEADRACE_CONFIG") else None)
    report, document = _read_file(named_file)
    spot = Spot(report)
    values: dict[str, Any] = {**DEFAULTS, "home": default_home(environ)}
    origins = dict.fromkeys(values, "default")
    tables = _read_document(document, values, spot)
    origins.update(dict.fromkeys(document.keys() & PARSERS.keys(), f"from {report.file}"))
    layers = [
        ("from the environment", _from_environ(environ)),
        ("from the command line", {name: value for name, value in flags.items() if value is not None}),
    ]
    for origin, layer in layers:
        for name, value in layer.items():
            try:
                values[name] = PARSERS[name](value)
            except ValueError as error:
                raise InvalidRequest(f"{name}: {value!r} ({origin}) {error}.", param=name) from error
            origins[name] = origin
    if origins["model"] == "default" and any(one.dialect for one in tables.get("backends", {}).values()):
        values["model"], origins["model"] = NO_MODEL, "default: there are backends"
    settings = _settings(values, tables)
    if not report.problems:  # what is missing because it could not be read would be told twice
        served = None if settings.has_engine else ()
        check_gateway(settings.gateway, spot, served=served)
        check_spiffe(settings, spot)
    report.end()
    return Resolved(settings, origins, report)


def _settings(values: Mapping[str, Any], tables: Mapping[str, Any]) -> Settings:
    gateway = GatewaySettings(
        backends=tables.get("backends", {}),
        routes=tables.get("routes", {}),
        budgets=tables.get("budgets", ()),
        limits=tables.get("limits", ()),
        tenants=tables.get("tenants", {}),
        cache=tables.get("answer_cache", CacheSettings()),
        default_max_tokens=values["default_max_tokens"],
        usage_days=values["usage_days"],
        max_in_flight=values["max_in_flight"],
        kept_requests=values["kept_requests"],
        slow_request_s=values["slow_request"],
    )
    return Settings(
        **values,
        prices=PriceList(tables.get("prices", {})),
        gateway=gateway,
        issued=tables.get("keys", ()),
        tls=tables.get("tls"),
        cors=tables.get("cors"),
        console=tables.get("console", ConsoleSettings()),
        traces=tables.get("traces", TraceTable()),
        trust=TrustSettings(**{name: tables[name] for name in TRUST_TABLES if name in tables}),
    )


def _read_file(named_file: Path | None) -> tuple[Report, dict[str, Any]]:
    path = named_file or Path(CONFIG_FILE)
    try:
        text = path.read_text("utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError as error:
        if named_file is None:
            return Report(CONFIG_FILE, Lines("")), {}
        raise InvalidRequest(f"config: there is no file {path}; correct --config or HEADRACE_CONFIG.") from error
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"config: {path} cannot be read ({error.reason}); save it as UTF-8.") from error
    except OSError as error:
        raise InvalidRequest(f"config: {path} cannot be read ({error.strerror or error}).") from error
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        # The reader's sentence may have the text of a key, never that of a value.
        sentence = f"is not valid TOML: {error}."
        number = text.count("\n") + 1 if line is None else int(line[1])
        raise WrongSettings([Problem(file=str(path), line=number, key="", sentence=sentence)]) from error
    return Report(str(path), Lines(text)), document


def _read_document(document: Mapping[str, Any], values: dict[str, Any], spot: Spot) -> dict[str, Any]:
    """The tables that could be read; plain settings go into `values`."""
    tables: dict[str, Any] = {}
    kinds: Mapping[str, Kind] = {}
    if not document.keys().isdisjoint(TABLE_NAMES):
        # Imported here because it takes a moment: the catalog of backends knows every protocol.
        from headrace.cli.file_tables import TABLES

        kinds = TABLES
    for name, value in document.items():
        at = spot.at(name)
        if name in TABLE_NAMES and not (name in PARSERS and isinstance(value, str)):
            if (table := kinds[name].read(value, at)) is not WRONG:
                tables[name] = table
        elif name in PARSERS:
            try:
                values[name] = PARSERS[name](value)
            except ValueError as error:
                at.say(f"{value!r} {error}")
        else:
            at.say(unknown(name, sorted({*PARSERS, *TABLE_NAMES})))
    return tables


def _from_environ(environ: Mapping[str, str]) -> dict[str, str]:
    found = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable in OTHER_VARIABLES or value == "":
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name in TABLE_NAMES and name not in PARSERS:
            raise InvalidRequest(f"{variable} (the environment): {name} is a table; write it in the settings file.")
        if name not in PARSERS or variable != PREFIX + name.upper():
            known = sorted(OTHER_VARIABLES | {PREFIX + one.upper() for one in PARSERS})
            raise InvalidRequest(f"{variable} (the environment) {unknown(variable, known)}")
        found[name] = value
    return found
