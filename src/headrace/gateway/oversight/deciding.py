"""Decides for callers outside, as the gate does for requests: the same judge, the same log. Knows no policies."""

from collections.abc import Sequence

from headrace.core.policy import Judge, Question
from headrace.core.trust import Decision


class JudgeDesk:
    """Implements `core.deciding.Deciding`."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge

    def decide(self, questions: Sequence[Question]) -> tuple[Decision, ...]:
        """See `core.deciding.Deciding`."""
        return tuple(map(self._judge.decide, questions))
