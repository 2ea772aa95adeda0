"""A seal of sessions as the program has one, whose signed-out sessions lie in memory."""

from collections.abc import Mapping
from secrets import token_bytes

from headrace.trust.identity.session_seal import AesSeal


class SealInMemory(AesSeal):
    """Implements `core.sessions.SessionSeal`."""

    def __init__(self, key: bytes = bytes(32)) -> None:
        super().__init__(key, token_bytes)
        self.ended: dict[str, float] = {}

    def load_ended(self) -> dict[str, float]:
        return dict(self.ended)

    def save_ended(self, ended: Mapping[str, float]) -> None:
        self.ended = dict(ended)
