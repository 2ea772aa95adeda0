"""Which settings differ, by the names that they have in a settings file: `queue`, `backends.gpu-1`, `keys.laptop`.

Never what they say. Values in, values out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any, Final

from headrace.cli.config import Settings
from headrace.trust.settings import TrustSettings

# Fields of the gateway's settings that are tables of a file -> their names there. The others are settings of their own.
_GATEWAY: Final = {
    "backends": "backends",
    "routes": "routes",
    "budgets": "budgets",
    "limits": "limits",
    "tenants": "tenants",
    "cache": "answer_cache",
}
_TRUST: Final = {one.name: one.name for one in fields(TrustSettings)}
_PARTS: Final = {"gateway": _GATEWAY, "trust": _TRUST, "prices": {"models": "prices"}}
_NAMED: Final = {"issued": "keys"}


def changed_names(before: Settings, now: Settings) -> tuple[str, ...]:
    """What differs, in alphabetical order."""
    found: set[str] = set()
    for one in fields(Settings):
        old, new = getattr(before, one.name), getattr(now, one.name)
        if (tables := _PARTS.get(one.name)) is None:
            found.update(_differing(_NAMED.get(one.name, one.name), old, new))
            continue
        for field, table in tables.items():
            found.update(_differing(table, getattr(old, field), getattr(new, field)))
    return tuple(sorted(found))


def _differing(name: str, old: Any, new: Any) -> Iterator[str]:
    if old == new:
        return
    entries = _entries(old), _entries(new)
    if entries[0] is None or entries[1] is None:
        yield name
        return
    names = entries[0].keys() | entries[1].keys()
    differing = [one for one in names if entries[0].get(one) != entries[1].get(one)]
    yield from (f"{name}.{one}" for one in differing)
    if not differing:  # their order
        yield name


def _entries(value: Any) -> Mapping[str, Any] | None:
    """By their names, if it has named ones."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple) and all(hasattr(one, "name") for one in value):
        return {one.name: one for one in value}
    return None
