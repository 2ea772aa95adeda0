"""Which decisions a log tells: every denial that is new, and a count of those that repeat it, so that whoever is denied
cannot fill a disk with that.

Decides what is told and when; who writes it is passed in. Knows no clock and no log.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from headrace.core.request import Principal
from headrace.core.trust import Decision

WINDOW_S: Final = 60.0
MAX_KINDS: Final = 256

_Kind = tuple[str, str, str, tuple[str, ...], str]


@dataclass(slots=True)
class _Count:
    fields: Mapping[str, Any]
    num_repeated: int = 0


class DecisionLog:
    """Takes decisions in. `tell(message, fields)` writes a line; `now` are seconds of any clock that does not jump;
    `later(seconds, call)` calls back, None: counts are told when somebody is denied again, or by `flush`."""

    def __init__(
        self,
        tell: Callable[[str, Mapping[str, Any]], None],
        now: Callable[[], float],
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        self._tell = tell
        self._now = now
        self._later = later
        self._counts: dict[_Kind, _Count] = {}
        self._num_others = 0
        self._until_s = float("-inf")

    def add(self, decision: Decision, principal: Principal) -> None:
        """One decision was made. What was allowed is not told: a record of the request says it."""
        if decision.is_allowed:
            return
        now_s = self._now()
        if now_s >= self._until_s:
            self.flush()
            self._until_s = now_s + WINDOW_S
            if self._later is not None:
                self._later(WINDOW_S, self.flush)
        # A reason may have a name that the caller chose; where policies decided, they are the kind.
        why = "" if decision.policies else decision.reason.partition(":")[0]
        kind = (principal.tenant, principal.subject, decision.action, decision.policies, why)
        count = self._counts.get(kind)
        if count is not None:
            count.num_repeated += 1
        elif len(self._counts) >= MAX_KINDS:
            self._num_others += 1
        else:
            fields = _fields(decision, principal)
            self._counts[kind] = _Count(fields)
            self._tell("denied" if decision.is_enforced else "would be denied", fields)

    def flush(self) -> None:
        """Tell how often what was told happened since, and begin anew."""
        for count in self._counts.values():
            if count.num_repeated:
                fields = {name: value for name, value in count.fields.items() if name != "resource"}
                self._tell("denied again", {**fields, "times": count.num_repeated})
        if self._num_others:
            self._tell("denied, of more kinds than are told one by one", {"times": self._num_others})
        self._counts.clear()
        self._num_others = 0


def _fields(decision: Decision, principal: Principal) -> dict[str, Any]:
    return {
        "tenant": principal.tenant,
        "subject": principal.subject,
        "action": decision.action,
        # A name that a caller chooses is told no longer than it has to be.
        "resource": decision.resource[:200],
        "policies": list(decision.policies),
        "reason": decision.reason,
        "is_enforced": decision.is_enforced,
    }
