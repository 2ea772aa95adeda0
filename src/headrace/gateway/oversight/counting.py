"""Counts what every other overseer said of a request, once it is settled: the first of them, so that it is told of
requests that a later one refuses. Judges nothing, and reads no answer.
"""

from collections.abc import Callable, Sequence

from headrace.core.events import Event
from headrace.core.request import Request
from headrace.core.trust import Decision, Verdict
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Case
from headrace.gateway.settings import Target

Count = Callable[[Sequence[Decision], Sequence[Verdict]], None]


class CountingOverseer:
    """Tells `count` the decisions and verdicts of each request."""

    reads_answers = False

    def __init__(self, count: Count) -> None:
        self._count = count

    def begin(self, case: Case) -> "Counting":
        """Every request."""
        return Counting(case, self._count)


class Counting:
    """One for each request."""

    __slots__ = ("_case", "_count")
    reads_answer = False

    def __init__(self, case: Case, count: Count) -> None:
        self._case = case
        self._count = count

    def allows(self, _: Target) -> bool:
        """Everybody may be asked."""
        return True

    def prepare(self, request: Request, _: Target) -> Request:
        """Unchanged."""
        return request

    def hear(self, event: Event) -> Sequence[Event]:
        """Unchanged."""
        return (event,)

    def add(self, _: bytes) -> None:
        """Nothing of an answer is looked at."""

    def end(self, _: UsageRecord) -> None:
        """All is said."""
        if self._case.decisions or self._case.verdicts:
            self._count(self._case.decisions, self._case.verdicts)
