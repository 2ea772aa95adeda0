"""Decides for callers outside, as the gate does for requests: the same judge, the same log. Knows no policies."""

from collections.abc import Callable, Sequence

from headrace.core.deciding import PoliciesInForce
from headrace.core.policy import Judge, Question
from headrace.core.trust import Decision


class JudgeDesk:
    """Implements `core.deciding.Deciding`. `show` tells what the judge judges by."""

    def __init__(self, judge: Judge, show: Callable[[], PoliciesInForce]) -> None:
        self._judge = judge
        self._show = show

    def decide(self, questions: Sequence[Question]) -> tuple[Decision, ...]:
        """See `core.deciding.Deciding`."""
        return tuple(map(self._judge.decide, questions))

    def policies(self) -> PoliciesInForce:
        """See `core.deciding.Deciding`."""
        return self._show()
