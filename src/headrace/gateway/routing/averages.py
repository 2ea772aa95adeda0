"""A mean of what was seen lately: samples count less the older they are. Knows no clock; times come in."""

from typing import Final

HALF_LIFE_S: Final = 30.0
"""After so long a sample counts half."""

MAX_WEIGHT: Final = 64.0
"""What is remembered never outweighs so many fresh samples: a change shows after tens of requests, at any rate."""

KNOWN_WEIGHT: Final = 0.25
"""Below it nothing is known: one sample lasts for two half-lives, 64 of them for eight."""


class Average:
    """A moving mean. `at_s` only goes forward."""

    __slots__ = ("_at_s", "_sum", "_weight")

    def __init__(self) -> None:
        self._sum = 0.0
        self._weight = 0.0
        self._at_s = 0.0

    def add(self, value: float, at_s: float) -> None:
        """A sample."""
        weight = self.weight(at_s)
        keep = min(weight, MAX_WEIGHT - 1.0) / self._weight if self._weight else 0.0
        self._sum = self._sum * keep + value
        self._weight = self._weight * keep + 1.0
        self._at_s = at_s

    def weight(self, at_s: float) -> float:
        """How many fresh samples what is known now is worth."""
        if not self._weight:
            return 0.0
        return float(self._weight * 0.5 ** (max(0.0, at_s - self._at_s) / HALF_LIFE_S))

    def value(self, at_s: float) -> float | None:
        """The mean, None if nothing is known, or only what is too old."""
        if self.weight(at_s) < KNOWN_WEIGHT:
            return None
        return self._sum / self._weight
