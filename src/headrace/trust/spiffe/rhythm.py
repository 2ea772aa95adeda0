"""How an issuer's keys change, as a value. Knows no keys: settings are read without a cryptographic library."""

from dataclasses import dataclass
from typing import Final

BACKDATE_S: Final = 10.0
"""What is issued is valid from so long before: another machine's clock may be a little behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rhythm:
    """How keys change. Each lives `life_s`; when half of that is over the next is made, which signs after `settle_s`.
    What is signed must end before its key: lives of documents are at most half of `life_s` less `settle_s`."""

    life_s: float = 48 * 3600.0
    settle_s: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 <= self.settle_s <= self.life_s / 4:
            raise ValueError(f"settle_s: {self.settle_s:g} is not from 0 to a quarter of life_s, {self.life_s:g}.")

    @property
    def max_document_s(self) -> float:
        """The longest life of a document that is surely over before its key's."""
        return self.life_s / 2 - self.settle_s - BACKDATE_S
