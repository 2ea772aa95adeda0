"""What was shown once and must not be taken again: ids of proofs and signatures, bounded in number and in time.

An id is kept for as long as what it stands for would still be taken, counted by a clock that does not jump; the wall's
clock only moves forward here. What was made before this memory began is not taken: nobody knows who has shown it.
When there is no room, nothing new is taken: a forgotten id could be shown again. Knows no tokens.
"""

import hashlib
from collections import Counter, deque
from typing import Final

from headrace.core.errors import Overloaded

AHEAD_S: Final = 5.0
"""How far a caller's clock may go before ours."""
_DIGEST_BYTES: Final = 16
_SHARE: Final = 4
"""One caller gets at most this part of all places, so that it cannot take them all."""


class Replays:
    """Ids of what may be `max_age_s` old, at most `max_ids`. Used by one thread."""

    def __init__(self, max_age_s: float, max_ids: int, since_s: float = 0.0) -> None:
        """`since_s` is when this memory begins, Unix time."""
        self._max_age_s = self._kept_s = max_age_s
        self._max_ids = max_ids
        self._since_s = float(int(since_s))  # what is shown says when it was made in whole seconds
        self._seen: set[bytes] = set()
        self._order: deque[tuple[float, bytes, str]] = deque()
        self._of_caller: Counter[str] = Counter()
        self._latest_s = 0.0

    def __len__(self) -> int:
        return len(self._seen)

    def resize(self, max_age_s: float, max_ids: int) -> None:
        """Go on with other bounds. What was forgotten under the old ones is not taken under the new."""
        more_s = max_age_s - self._kept_s
        if more_s > 0:
            self._since_s = max(self._since_s, self._latest_s - self._kept_s)
            self._order = deque((end_s + more_s, digest, caller) for end_s, digest, caller in self._order)
            self._kept_s = max_age_s
        self._max_age_s, self._max_ids = max_age_s, max_ids

    def is_fresh(self, made_s: float, now_s: float, max_age_s: float | None = None) -> bool:
        """Whether what was made then may be taken now, both Unix time. False for what is no number. `max_age_s` is
        below that of all."""
        self._latest_s = max(self._latest_s, now_s)
        oldest_s = self._latest_s - (self._max_age_s if max_age_s is None else max_age_s)
        return oldest_s < made_s <= now_s + AHEAD_S and made_s >= self._since_s

    def take(self, caller: str, text: str, monotonic_s: float) -> bool:
        """Whether a caller shows this id for the first time. Raises Overloaded when no more can be remembered."""
        self._forget(monotonic_s)
        digest = hashlib.blake2b(f"{caller}\0{text}".encode(), digest_size=_DIGEST_BYTES).digest()
        if digest in self._seen:
            return False
        if len(self._seen) >= self._max_ids or self._of_caller[caller] >= max(1, self._max_ids // _SHARE):
            raise Overloaded(
                "more signed requests come than can be told apart; try again in a moment.",
                retry_after_s=max(1.0, self._order[0][0] - monotonic_s),
            )
        self._seen.add(digest)
        # What was made in the near future is taken for that much longer.
        self._order.append((monotonic_s + self._kept_s + AHEAD_S, digest, caller))
        self._of_caller[caller] += 1
        return True

    def _forget(self, monotonic_s: float) -> None:
        order = self._order
        while order and order[0][0] <= monotonic_s:
            _, digest, caller = order.popleft()
            self._seen.discard(digest)
            self._of_caller[caller] -= 1
            if not self._of_caller[caller]:
                del self._of_caller[caller]
