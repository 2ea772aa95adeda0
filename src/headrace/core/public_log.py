"""A log's files as a server gives them out. Values and a protocol; knows neither their form nor where they lie."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class PublicFile:
    """One file. `is_lasting`: it will never be another."""

    data: bytes
    content_type: str
    is_lasting: bool


class PublicLog(Protocol):
    """What anybody may read of a log."""

    async def read(self, path: str) -> PublicFile | None:
        """The file of a path below the log's prefix; None if there is none, or can be none."""
        ...
