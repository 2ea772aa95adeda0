"""Settings as TOML: values and tables with the names of a settings file, each with the line that it came from.

The opposite of `gateway_tables.py` and its like, made from the values' own types. Secrets are places, so nothing here
needs to be hidden. Knows no file.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum, IntEnum
from typing import Any, Final

from headrace.cli.kinds import file_name, quoted, shown_path
from headrace.cli.toml_lines import Lines, Path
from headrace.gateway.settings import CandidateSettings, Secret, Subject, Target
from headrace.trust.spiffe.ids import IdPattern, SpiffeId

# What a table's own key says already.
_OWN_NAMES: Final = {
    **dict.fromkeys(("BackendSettings", "RouteSettings", "IssuerSettings", "SignerSettings", "ToolRule"), "name"),
    "TenantRule": "tenant",
    "WorkloadSettings": "pattern",
}

# Values of several parts that a file has as one text.
_PLAIN: Final = (Secret, Target, Subject, CandidateSettings, IdPattern, SpiffeId)


def write_value(value: Any) -> str:
    """One value on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, IntEnum):
        return quoted(value.name.lower())
    if isinstance(value, Enum):
        return quoted(str(value.value))
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Secret):
        return quoted(value.place)
    if isinstance(value, Target | Subject) or not isinstance(value, list | tuple | frozenset | Mapping):
        return write_candidate(value) if isinstance(value, CandidateSettings) else quoted(str(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{quoted(key)} = {write_value(one)}" for key, one in value.items()) + "}"
    listed = sorted(value, key=str) if isinstance(value, frozenset) else value
    return "[" + ", ".join(map(write_value, listed)) + "]"


def write_candidate(candidate: CandidateSettings) -> str:
    """As a name alone if that says it all."""
    if candidate == CandidateSettings(target=candidate.target):
        return quoted(str(candidate.target))
    target = quoted(str(candidate.target))
    return f"{{target = {target}, weight = {candidate.weight!r}, tier = {candidate.tier}}}"


def write_tables(tables: Mapping[str, Any], lines: Lines) -> Iterator[str]:
    """Each table under its name; `lines` tell where a value came from, and what is not there is a default."""
    for name, value in tables.items():
        yield from _write(value, (name,), lines)


def _write(value: Any, path: Path, lines: Lines) -> Iterator[str]:
    if value is None:
        return
    if is_dataclass(value) and not isinstance(value, type):
        yield from _write_table(value, path, lines)
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _write(inner, (*path, name), lines)
    elif isinstance(value, Sequence):
        for index, inner in enumerate(value):
            yield from _write(inner, (*path, index), lines)


def _write_table(value: Any, path: Path, lines: Lines) -> Iterator[str]:
    plain: list[tuple[Path, Any]] = []
    deeper: list[tuple[Path, Any]] = []
    for field in fields(value):
        inner = getattr(value, field.name)
        if inner is None or _OWN_NAMES.get(type(value).__name__) == field.name or _is_unset(inner):
            continue
        at = (*path, file_name(field.name))
        (deeper if _is_table(inner) else plain).append((at, inner))
    header = shown_path(tuple(name for name in path if isinstance(name, str)))
    yield ""
    yield f"[[{header}]]" if isinstance(path[-1], int) else f"[{header}]"
    for at, inner in plain:
        line = lines.paths().get(at)
        origin = "default" if line is None else f"line {line}"
        yield f"{shown_path(at[-1:])} = {write_value(inner)}  # {origin}"
    for at, inner in deeper:
        yield from _write(inner, at, lines)


def _is_unset(value: Any) -> bool:
    return isinstance(value, str) and not value


def _is_table(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_is_table, value.values()))
    if isinstance(value, tuple):
        return any(map(_is_table, value))
    return is_dataclass(value) and not isinstance(value, _PLAIN)
