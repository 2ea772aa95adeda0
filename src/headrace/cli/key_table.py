"""A key that a settings file issues, as a value. Knows no file and no secret."""

from dataclasses import dataclass
from datetime import datetime

from headrace.gateway.settings import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTable:
    """A key that the settings file issues: by its hash, or by the place where it is found itself."""

    name: str
    tenant: str = "local"
    scopes: frozenset[str] = frozenset({"generate"})
    sha256: str | None = None
    secret: Secret | None = None
    priority: int = 0
    share: float = 1.0
    user: str | None = None
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    expires: datetime | None = None
    is_disabled: bool = False

    def __post_init__(self) -> None:
        if (self.sha256 is None) == (self.secret is None):
            raise ValueError(
                "needs sha256 or secret, one of them: the hash that `headrace keys list` stores, or where the key is "
                'found: secret = "env:NAME"'
            )
