"""Which keys are in force: those of the keys file, and those that the settings file issues. Knows no server."""

from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from headrace.cli.config import Settings
from headrace.cli.keys import KeyEntry, load_keys
from headrace.cli.secret_text import SecretText
from headrace.core.errors import InvalidRequest
from headrace.gateway.settings import Secret
from headrace.models.store import Layout

_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""A settings file does not say when it issued a key."""


def keys_in_force(settings: Settings) -> Path | None:
    """The keys file that the server must obey: the named one, else the state directory's if there is one."""
    own = Layout(settings.home).keys
    return settings.keys or (own if own.exists() else None)


class KeySource:
    """The keys of the keys file and of the settings file together. Change `settings` and `secrets`, then load again."""

    def __init__(self, settings: Settings, secrets: Mapping[Secret, SecretText]) -> None:
        self.settings = settings
        self.secrets = secrets

    @property
    def has_keys(self) -> bool:
        """Whether callers have to show one."""
        return bool(self.settings.issued) or keys_in_force(self.settings) is not None

    def load(self) -> list[KeyEntry]:
        """Raises InvalidRequest and NotFound."""
        path = keys_in_force(self.settings)
        entries = [] if path is None else load_keys(path)
        own = [self._entry(index) for index in range(len(self.settings.issued))]
        for column in ("name", "sha256"):
            known = {getattr(entry, column) for entry in entries}
            for entry in own:
                if getattr(entry, column) in known:
                    raise InvalidRequest(
                        f"keys: {entry.name} of the settings file has a {column} that another key has; change one."
                    )
                known.add(getattr(entry, column))
        return [*entries, *own]

    def _entry(self, index: int) -> KeyEntry:
        table = self.settings.issued[index]
        values: dict[str, Any] = {one.name: getattr(table, one.name) for one in fields(table)}
        if table.secret is not None:
            values["sha256"] = self.secrets[table.secret].sha256()
        known = {one.name for one in fields(KeyEntry)}
        return KeyEntry(**{"created": _LONG_AGO} | {name: value for name, value in values.items() if name in known})
