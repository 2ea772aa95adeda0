"""Asking for a decision beforehand: what an agent or a tool host outside may ask of the policies about itself, and what
an operator sees of those in force.

Values, and the protocol of who answers. Knows no policy language.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from headrace.core.policy import Question
from headrace.core.trust import Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPolicy:
    """One policy. `id` is what decisions call it, `place` where it is written, `reason` what callers are told."""

    id: str
    place: str
    is_forbid: bool
    reason: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PoliciesInForce:
    """All policies, in the order in which they were read. `mode` is off, shadow or enforce."""

    mode: str
    policies: tuple[ShownPolicy, ...] = ()


class Deciding(Protocol):
    """Decides for callers, who ask about themselves alone."""

    def decide(self, questions: Sequence[Question]) -> tuple[Decision, ...]:
        """One decision for each question, in order; logged. Never waits."""
        ...

    def policies(self) -> PoliciesInForce:
        """What is in force now."""
        ...
