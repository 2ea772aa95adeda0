"""What an operator can say of the monitor of hijacking. The file of canaries is read by `cli`."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

VERSION: Final = "1"
"""Of rules and weights; changes whenever a score could."""


class Mode(StrEnum):
    """OFF, SHADOW (verdicts are recorded and change nothing) or ENFORCE (they count for policies)."""

    OFF = "off"
    SHADOW = "shadow"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True, kw_only=True)
class HijackSettings:
    """`threshold`: from which score on a text raises the alarm. `surprise`: from which score on a call that is unlike
    its agent is told of, `denials`: from how many of its last 50 calls on. `canaries` is a file of texts, one a line,
    that must not appear; with `filters_secrets` they are also taken out of answers."""

    mode: Mode = Mode.SHADOW
    threshold: float = 0.6
    surprise: float = 0.95
    denials: int = 3
    canaries: Path | None = None
    filters_secrets: bool = True
