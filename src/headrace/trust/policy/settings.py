"""What an operator can say of policies. Read from a file by `cli`, which also reads the files that it names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

SETS: Final = ("default", "agents")
"""Policies that ship with the program, by name of their file in `sets/`."""


class PolicyMode(StrEnum):
    """OFF: nobody asks. SHADOW: what would have been said is logged and told in records, and nothing is refused."""

    OFF = "off"
    SHADOW = "shadow"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectSettings:
    """What an operator knows of a principal: the groups it is in (`principal in Group::"staff"`), and facts of its own
    (`principal.hasTag("department") && principal.getTag("department") == "finance"`)."""

    groups: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicySettings:
    """`files` are read beside the `sets` that ship; `subjects` are by subject, `key:laptop`. `decisions` are remembered
    at most."""

    mode: PolicyMode = PolicyMode.OFF
    sets: tuple[str, ...] = SETS
    files: tuple[Path, ...] = ()
    subjects: Mapping[str, SubjectSettings] = field(default_factory=dict)
    decisions: int = 8192
