"""Distinct things a subject did on a UTC day, counted exactly up to a bound. Values only: time comes in with each call.

A set of 8-byte digests a subject is enough, because what is asked is only whether a count has passed a threshold of a
few dozen; a subject's set stops growing at `max_distinct`, and those unseen for longest make room for new subjects.
Knows no thresholds.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

DAY_S = 86_400.0


@dataclass(slots=True)
class _Day:
    number: int
    places: dict[bytes, int] = field(default_factory=dict)


class DistinctCounts:
    """Counts of one kind."""

    def __init__(self, max_subjects: int, max_distinct: int) -> None:
        self._max_subjects = max_subjects
        self._max_distinct = max_distinct
        self._days: OrderedDict[str, _Day] = OrderedDict()

    def __len__(self) -> int:
        return len(self._days)

    def bound(self, max_subjects: int, max_distinct: int) -> None:
        """Go on with other bounds; what is beyond them goes when something comes."""
        self._max_subjects, self._max_distinct = max_subjects, max_distinct

    def count(self, subject: str, unix_s: float) -> int:
        """How many there were today; at the bound: at least so many."""
        day = self._days.get(subject)
        return len(day.places) if day is not None and day.number == int(unix_s // DAY_S) else 0

    def add(self, subject: str, digest: bytes, unix_s: float) -> int:
        """One was seen; the how manieth distinct one of the day it is, which stays what it was when it comes again.
        Beyond the bound all have the place after it."""
        number = int(unix_s // DAY_S)
        day = self._days.get(subject)
        if day is None or day.number != number:
            day = self._days[subject] = _Day(number)
        self._days.move_to_end(subject)
        while len(self._days) > self._max_subjects:
            self._days.popitem(last=False)
        place = day.places.get(digest)
        if place is None:
            place = len(day.places) + 1
            if place <= self._max_distinct:
                day.places[digest] = place
        return place

    def forget(self, subject: str) -> None:
        """Begin anew."""
        self._days.pop(subject, None)

    def snapshot(self) -> dict[str, Any]:
        """All of it, as JSON can say it."""
        return {
            subject: {"day": day.number, "seen": [one.hex() for one in day.places]}
            for subject, day in self._days.items()
        }

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from a snapshot. Raises ValueError, KeyError or TypeError for what is none."""
        days = OrderedDict(
            (subject, _Day(int(day["day"]), _placed(day["seen"][: self._max_distinct])))
            for subject, day in list(kept.items())[-self._max_subjects :]
        )
        self._days = days


def _placed(digests: Iterable[str]) -> dict[bytes, int]:
    return {bytes.fromhex(one): place for place, one in enumerate(digests, 1)}


class Ages:
    """When each subject was first seen. Who is seen on the monitor's own first day is not new: it was there before."""

    def __init__(self, max_subjects: int) -> None:
        self._max_subjects = max_subjects
        self._first: OrderedDict[str, float] = OrderedDict()
        self._begun_s: float | None = None

    def bound(self, max_subjects: int) -> None:
        """Go on with another bound."""
        self._max_subjects = max_subjects

    def days(self, subject: str, unix_s: float) -> float:
        """Since it was first seen, which is now at the latest; infinity for who was there before the monitor."""
        if self._begun_s is None:
            self._begun_s = unix_s
        first_s = self._first.setdefault(subject, unix_s)
        while len(self._first) > self._max_subjects:
            self._first.popitem(last=False)
        return float("inf") if first_s - self._begun_s < DAY_S else max(0.0, unix_s - first_s) / DAY_S

    def snapshot(self) -> dict[str, Any]:
        """All of it, as JSON can say it."""
        return {"begun_s": self._begun_s, "first": dict(self._first)}

    def restore(self, kept: Mapping[str, Any]) -> None:
        """Go on from a snapshot."""
        begun_s = kept["begun_s"]
        self._begun_s = None if begun_s is None else float(begun_s)
        self._first = OrderedDict((str(one), float(at_s)) for one, at_s in kept["first"].items())
