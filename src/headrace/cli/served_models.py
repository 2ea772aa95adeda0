"""Which models the engine serves, under what names, and where they are. Reads folders, loads nothing."""

from pathlib import Path

from headrace.cli.config import Settings
from headrace.core.errors import InvalidRequest
from headrace.models.catalog import ALIASES, canonical_name
from headrace.models.store import Layout, installed_names, resolve


def served_name(settings: Settings) -> str:
    """What the first model is called in requests."""
    return _served_name(settings.model, settings)


def served_paths(settings: Settings) -> dict[str, Path]:
    """All models by the names that they are served under, and where they are. Raises NotFound, or InvalidRequest if two
    have one name."""
    found: dict[str, Path] = {}
    if not settings.has_engine:
        return found
    for wanted in (settings.model, *settings.guests):
        path = resolve(wanted, settings.home)
        name = _served_name(wanted, settings)
        if name in found:
            raise InvalidRequest(f"guests: {wanted} is served under the name {name} already; name each model once.")
        found[name] = path
    return found


def _served_name(wanted: str, settings: Settings) -> str:
    """The name it is installed under, or that of its file or folder."""
    name = canonical_name(wanted)
    if name in installed_names(Layout(settings.home).home):
        return name
    path = resolve(wanted, settings.home)
    return path.stem if path.is_file() else path.name


def served_names(settings: Settings) -> frozenset[str]:
    """Every name of a served model, aliases too. Raises as `served_paths`."""
    names = served_paths(settings)
    return frozenset(names) | {alias for alias, name in ALIASES.items() if name in names}
