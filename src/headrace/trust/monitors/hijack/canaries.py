"""Secrets that must not appear, looked for as they are, also where a stream cuts them. Knows nothing of encodings: what
is turned or packed is not found.
"""

from collections.abc import Iterable
from typing import Final

MIN_SECRET: Final = 8
"""Characters; a shorter one would be found everywhere."""
MAX_SECRET: Final = 256
INSTEAD: Final = "[a secret was withheld]"


class SecretFilter:
    """One stream of text. What may be the beginning of a secret is held back until it is known."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(secrets)
        self._held = ""
        self.num_found = 0

    def add(self, text: str) -> str:
        """More text; what of it can go on."""
        text = self._held + text
        for secret in self._secrets:
            if secret in text:
                self.num_found += text.count(secret)
                text = text.replace(secret, INSTEAD)
        keep = max((_overlap(text, secret) for secret in self._secrets), default=0)
        self._held = text[len(text) - keep :] if keep else ""
        return text[: len(text) - keep]

    def end(self) -> str:
        """Nothing more comes: what was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, secret: str) -> int:
    """The longest end of a text that a secret begins with."""
    for length in range(min(len(text), len(secret) - 1), 0, -1):
        if secret.startswith(text[len(text) - length :]):
            return length
    return 0
