"""How long answers took to begin and from token to token, counted between two looks at them. Values in, values out.

Nothing is counted where nobody looks: what happened before the first look is left out.
"""

from bisect import bisect_right
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final

from headrace.api.live import LatenciesAnswer, LatencyAnswer

FIRST_TOKEN_MS: Final = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 60_000)
BETWEEN_TOKENS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an answer is: `first_s` is when its first token was there (None: not yet), on the server's clock."""

    first_s: float | None
    output_tokens: int


class Latencies:
    """Counts since the last `take`, which was at `last_s`."""

    def __init__(self, last_s: float) -> None:
        self._last_s = last_s
        self._before: dict[Hashable, Progress] = {}
        self._now: dict[Hashable, Progress] = {}
        self._first = [0] * (len(FIRST_TOKEN_MS) + 1)
        self._between = [0] * (len(BETWEEN_TOKENS_MS) + 1)

    def note(self, one: Hashable, started_s: float, progress: Progress, at_s: float, *, is_over: bool = False) -> None:
        """How far an answer is at `at_s`; the last word of it if it `is_over`."""
        if not is_over:
            self._now[one] = progress
        first_s, tokens = progress.first_s, progress.output_tokens
        if first_s is None:
            return
        before = self._before.get(one)
        is_new = first_s > self._last_s if before is None else before.first_s is None
        if is_new:
            self._first[bisect_right(FIRST_TOKEN_MS, 1000 * (first_s - started_s))] += 1
        known, since_s = (None, 0.0) if before is None else (before.output_tokens, self._last_s)
        if is_new or known == 0:  # where an answer passes as bytes, its tokens are known when it is over
            known, since_s = min(1, tokens), first_s
        if known is not None and tokens > known:
            gap_ms = 1000 * (at_s - since_s) / (tokens - known)
            self._between[bisect_right(BETWEEN_TOKENS_MS, gap_ms)] += tokens - known

    def take(self, now_s: float) -> LatenciesAnswer:
        """What was counted; counting begins anew."""
        taken = LatenciesAnswer(
            LatencyAnswer(list(FIRST_TOKEN_MS), self._first), LatencyAnswer(list(BETWEEN_TOKENS_MS), self._between)
        )
        self._before, self._now = self._now, {}
        self._first, self._between = [0] * len(self._first), [0] * len(self._between)
        self._last_s = now_s
        return taken
