"""The page of all settings, written from the same tables that read them. Knows no file."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from headrace.cli.file_tables import TABLES
from headrace.cli.key_table import KeyTable
from headrace.cli.kinds import Kind, file_name
from headrace.cli.plain_settings import DEFAULTS, PARSERS
from headrace.cli.setting_texts import TEXTS
from headrace.cli.toml_writer import write_value
from headrace.cli.trace_table import TraceTable
from headrace.gateway.settings import (
    BreakerSettings,
    CacheSettings,
    Escalation,
    Health,
    ModelSettings,
    RetrySettings,
    RouteSettings,
    Timeouts,
)
from headrace.server.config import ConsoleSettings, Cors, Tls
from headrace.trust.flow.settings import FlowSettings, ToolRule
from headrace.trust.identity.settings import AnswerSettings, IdentitySettings, IssuerSettings, SignerSettings
from headrace.trust.log.settings import LogSettings
from headrace.trust.monitors.hijack.settings import HijackSettings
from headrace.trust.monitors.theft.settings import TheftSettings
from headrace.trust.records.settings import RecordsSettings
from headrace.trust.spiffe.ids import IdPattern, SpiffeId
from headrace.trust.spiffe.rhythm import Rhythm
from headrace.trust.spiffe.settings import EntrySettings, SpiffeSettings, WorkloadSettings
from headrace.trust.supply.settings import SupplySettings

ROOT: Final = Path(__file__).resolve().parent.parent
PAGE: Final = ROOT / "docs" / "reference" / "settings.md"

_HEADER: Final = """\
# Settings

Written from the tables that read `headrace.toml`, by `make fix`; `make check` compares. Times are seconds, or texts
such as `"100ms"`, `"5s"`, `"2m"`; sizes are bytes, or texts such as `"512MiB"`. The [guide](../guides/gateway.md)
tells how they go together, `headrace config schema` says the same to editors.

## Plain settings

They stand at the top of the file; each may also be a variable, `HEADRACE_` and its name in capitals, and most are
options of `headrace serve`.

| setting | default | |
|---|---|---|
"""
_DEFAULTS: Final[Mapping[str, Any]] = {
    "backends.NAME.timeouts": Timeouts(),
    "backends.NAME.health": Health(),
    "backends.NAME.breaker": BreakerSettings(),
    "backends.NAME.models.NAME": ModelSettings(),
    "routes.NAME": RouteSettings(name="", candidates=()),
    "routes.NAME.retry": RetrySettings(),
    "routes.NAME.escalation": Escalation(),
    "answer_cache": CacheSettings(is_on=True),
    "keys": KeyTable(name="", sha256=""),
    "tls": Tls(certificate=Path(), key=Path()),
    "console": ConsoleSettings(),
    "traces": TraceTable(),
    "cors": Cors(origins=()),
    "log": LogSettings(),
    "records": RecordsSettings(),
    "model_signatures": SupplySettings(),
    "spiffe": SpiffeSettings(),
    "spiffe.rhythm": Rhythm(),
    "spiffe.entries": EntrySettings(id=SpiffeId("", "")),
    "spiffe.workloads.NAME": WorkloadSettings(pattern=IdPattern("", ()), tenant=""),
    "theft": TheftSettings(),
    "identity": IdentitySettings(),
    "answer_signatures": AnswerSettings(key=Path()),
    "identity.issuers.NAME": IssuerSettings(name="", issuer="https://", audience=frozenset({"a"}), tenant="a"),
    "identity.signers.NAME": SignerSettings(name="", key=Path(), tenant="a"),
    "hijack": HijackSettings(),
    "flow": FlowSettings(),
    "tools.NAME": ToolRule(name=""),
}


def generated() -> dict[Path, str]:
    """The page with its text."""
    return {PAGE: settings_page()}


def settings_page() -> str:
    """The page as text."""
    lines = [_HEADER.rstrip("\n")]
    lines += [_row(name, _shown(DEFAULTS.get(name)), name, plain.schema) for name, plain in PARSERS.items()]
    for name, kind in TABLES.items():
        is_list = kind.schema.get("type") == "array"
        is_named = "*" in kind.fields and not is_list
        header = f"[[{name}]]" if is_list else f"[{name}.NAME]" if is_named else f"[{name}]"
        text = "keys that this file issues" if name == "keys" else TEXTS[name]
        lines += ["", f"## {header}", "", f"{text[0].upper()}{text[1:]}.", ""]
        lines += ["| setting | default | |", "|---|---|---|"]
        lines += _rows(kind, name, f"{name}.NAME." if is_named else f"{name}.")
    return "\n".join(lines) + "\n"


def _rows(kind: Kind, path: str, before: str) -> Iterator[str]:
    for name, inner in kind.fields.items():
        if name != "*":
            here = f"{path}.{name}"
            yield _row(here.removeprefix(before), _default_of(path, name), here, inner.schema)
            yield from _rows(inner, here, before)
        else:
            is_list = kind.schema.get("type") == "array" or "items" in str(kind.schema.get("anyOf", ""))[:60]
            yield from _rows(inner, path if is_list and not _is_models(path) else f"{path}.NAME", before)


def _is_models(path: str) -> bool:
    """Of a backend: a list of names, or tables by name; what is described are the tables."""
    return path.endswith(".models")


def _row(shown: str, default: str, path: str, schema: Mapping[str, Any]) -> str:
    words = list(_words(schema))
    choices = f": {', '.join(f'`{word}`' for word in words)}" if words else ""
    return f"| `{shown}` | {default} | {TEXTS.get(path, '')}{choices} |"


def _words(schema: Mapping[str, Any]) -> Iterator[str]:
    """What alone may stand there."""
    yield from schema.get("enum", ())
    if "enum" in (items := schema.get("items", {})):
        yield from items["enum"]
    elif schema.get("anyOf"):
        yield from _words(schema["anyOf"][0])


def _default_of(path: str, name: str) -> str:
    defaults = _DEFAULTS.get(path)
    for one in () if defaults is None else fields(defaults):
        if file_name(one.name) == name and not isinstance(getattr(defaults, one.name), Path):
            value = getattr(defaults, one.name)
            return "" if is_dataclass(value) else _shown(value)
    return ""


def _shown(value: Any) -> str:
    if value is None or value in ((), "") or (isinstance(value, frozenset | Mapping) and not value):
        return ""
    return f"`{write_value(value)}`"
