"""How long a step takes, learnt from the steps that ran, and how many prompt tokens a gap between tokens has room for.

    seconds = fixed + tokens * per_token + (tokens * keys they read) * per_read

fitted by recursive least squares that forgets (Ljung, System Identification, 1999, section 11.2), so that it follows a
machine that gets slower or a model that is swapped out. A step that the machine interrupted says little about the next
one, so that a measurement counts only up to a multiple of what was expected. Knows no sequences and reads no clock.
"""

from dataclasses import dataclass
from typing import NamedTuple

FORGETTING = 0.98
"""What a measurement still weighs one step later: the last fifty steps decide."""

MOST_SURPRISE = 3.0
"""A step longer than this many times what was expected counts as this many times."""

FEWEST_STEPS = 4
"""Before so many steps nothing is predicted."""

READS_UNIT = 1024.0
"""Reads are counted in thousands, so that all numbers of the fit are of one size."""


class Load(NamedTuple):
    """What a step computes: tokens, and the keys that all of them together read."""

    num_tokens: int
    num_reads: int


@dataclass(frozen=True, slots=True)
class Coefficients:
    """Seconds: of any step, of one token, of READS_UNIT reads of a key."""

    fixed_s: float
    token_s: float
    reads_s: float


class StepCost:
    """The cost model of one model's steps."""

    def __init__(self) -> None:
        self._weights = [0.0, 0.0, 0.0]
        # The inverse of the correlation of what was seen; large: nothing was.
        self._spread = [[1e3 if row == column else 0.0 for column in range(3)] for row in range(3)]
        self.num_steps = 0

    @property
    def coefficients(self) -> Coefficients:
        """The fit as it stands; no part of a step takes less than no time."""
        fixed, token, reads = (max(0.0, weight) for weight in self._weights)
        return Coefficients(fixed, token, reads)

    def expect(self, load: Load) -> float:
        """Seconds that a step of this load should take; 0 before enough was seen."""
        if self.num_steps < FEWEST_STEPS:
            return 0.0
        rates = self.coefficients
        return rates.fixed_s + load.num_tokens * rates.token_s + load.num_reads / READS_UNIT * rates.reads_s

    def observe(self, load: Load, seconds: float) -> None:
        """Learn from a step."""
        expected = self.expect(load)
        if expected > 0.0:
            seconds = min(seconds, MOST_SURPRISE * expected)
        x = (1.0, float(load.num_tokens), load.num_reads / READS_UNIT)
        spread = self._spread
        gain = [row[0] * x[0] + row[1] * x[1] + row[2] * x[2] for row in spread]
        scale = FORGETTING + sum(a * b for a, b in zip(x, gain, strict=True))
        error = seconds - sum(a * b for a, b in zip(x, self._weights, strict=True))
        for i in range(3):
            self._weights[i] += gain[i] / scale * error
        # What is never seen to vary would grow without end while it is forgotten.
        keep = 1.0 / FORGETTING if max(spread[i][i] for i in range(3)) < 1e6 else 1.0
        gains = tuple(gain)
        for i in range(3):
            for j in range(3):
                spread[i][j] = (spread[i][j] - gains[i] * gains[j] / scale) * keep
        self.num_steps += 1

    def room(self, load: Load, context: int, budget_s: float) -> int | None:
        """How many tokens of a sequence with `context` computed ones a step of `load` can take on and stay within
        `budget_s`; None before enough was seen."""
        if self.num_steps < FEWEST_STEPS:
            return None
        rates = self.coefficients
        left = budget_s - self.expect(load)
        if left <= 0.0:
            return 0
        # n tokens read n * context + n * n / 2 keys.
        linear = rates.token_s + context / READS_UNIT * rates.reads_s
        square = 0.5 / READS_UNIT * rates.reads_s
        if square <= 0.0:
            return int(left / linear) if linear > 0.0 else None
        return int((-linear + (linear * linear + 4.0 * square * left) ** 0.5) / (2.0 * square))
