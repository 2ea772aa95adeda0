"""What an operator can say of the monitor of hijacking. Knows no files: canaries are places of secrets, which `cli`
reads."""

from dataclasses import dataclass
from enum import StrEnum
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
    """`threshold`: from which score on a text raises the alarm. `surprise`: from which score on a sequence of calls
    does. `denials`: of one agent within its last 50 calls. `filters_secrets`: canaries are taken out of answers."""

    mode: Mode = Mode.SHADOW
    threshold: float = 0.6
    surprise: float = 0.95
    denials: int = 3
    filters_secrets: bool = True
