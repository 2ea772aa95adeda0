"""Asking for a decision beforehand: what an agent or a tool host outside may ask of the policies about itself.

The protocol of who answers. Knows no policies.
"""

from collections.abc import Sequence
from typing import Protocol

from headrace.core.policy import Question
from headrace.core.trust import Decision


class Deciding(Protocol):
    """Decides for callers, who ask about themselves alone."""

    def decide(self, questions: Sequence[Question]) -> tuple[Decision, ...]:
        """One decision for each question, in order; logged. Never waits."""
        ...
