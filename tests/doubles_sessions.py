"""A seal of sessions as the program has one, whose signed-out sessions lie in memory."""

from collections.abc import Mapping
from secrets import token_bytes

from headrace.core.sessions import bound_ended
from headrace.trust.identity.session_seal import AesSeal


class SealInMemory(AesSeal):
    """Implements `core.sessions.SessionSeal`. `ended` may be shared by several, as a state directory is."""

    def __init__(self, key: bytes = bytes(32), ended: dict[str, float] | None = None) -> None:
        super().__init__(key, token_bytes)
        self.ended: dict[str, float] = {} if ended is None else ended
        self.num_looks = 0

    def look_ended(self) -> dict[str, float] | None:
        self.num_looks += 1
        return dict(self.ended)

    def add_ended(self, ended: Mapping[str, float], now_s: float) -> None:
        merged = bound_ended({**self.ended, **ended}, now_s)
        self.ended.clear()
        self.ended.update(merged)
