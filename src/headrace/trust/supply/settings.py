"""What an operator can say of where models come from. Knows no files' contents."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Mode(StrEnum):
    """What happens to a model that nobody who is trusted has signed."""

    OFF = "off"  # nothing is looked at
    WARN = "warn"  # it is loaded, and the log says what is wrong with it
    ENFORCE = "enforce"  # it is not loaded


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplySettings:
    """`keys` are PEM files of public keys whose signatures count, `authorities` PEM files of certificates that may have
    issued a signer's; `signers` are the names (e-mail, URI or DNS) that a signer's certificate must have one of."""

    mode: Mode = Mode.OFF
    keys: tuple[Path, ...] = ()
    authorities: tuple[Path, ...] = ()
    signers: frozenset[str] = frozenset()
