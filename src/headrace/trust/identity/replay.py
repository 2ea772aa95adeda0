"""What was shown once and must not be taken again: ids of proofs and signatures, bounded in number and in time.

An id is kept for as long as what it stands for would still be taken, counted by a clock that does not jump. When there
is no room, nothing new is taken: a forgotten id could be shown again. Knows no tokens.
"""

import hashlib
from collections import Counter, deque
from typing import Final

from headrace.core.errors import Overloaded

_DIGEST_BYTES: Final = 16
_SHARE: Final = 4
"""One caller gets at most this part of all places, so that it cannot take them all."""


class Replays:
    """Ids of the last `keep_s` seconds, at most `max_ids`. Used by one thread."""

    def __init__(self, keep_s: float, max_ids: int) -> None:
        self._keep_s = keep_s
        self._max_ids = max_ids
        self._max_of_caller = max(1, max_ids // _SHARE)
        self._seen: set[bytes] = set()
        self._order: deque[tuple[float, bytes, str]] = deque()
        self._of_caller: Counter[str] = Counter()
        self._latest_s = 0.0

    def __len__(self) -> int:
        return len(self._seen)

    def latest(self, now_s: float) -> float:
        """Unix time as far as it ever was: a clock that is set back must not make old proofs new again."""
        self._latest_s = max(self._latest_s, now_s)
        return self._latest_s

    def take(self, caller: str, text: str, monotonic_s: float) -> bool:
        """Whether a caller shows this id for the first time. Raises Overloaded when no more can be remembered."""
        self._forget(monotonic_s)
        digest = hashlib.blake2b(f"{caller}\0{text}".encode(), digest_size=_DIGEST_BYTES).digest()
        if digest in self._seen:
            return False
        if len(self._seen) >= self._max_ids or self._of_caller[caller] >= self._max_of_caller:
            raise Overloaded(
                "more signed requests come than can be told apart; try again in a moment.",
                retry_after_s=max(1.0, self._order[0][0] - monotonic_s),
            )
        self._seen.add(digest)
        self._order.append((monotonic_s + self._keep_s, digest, caller))
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
