"""What an operator can say of the transparency log. Values that refuse what does not go together; keys are texts, so
that settings are read without a library that knows keys."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from headrace.trust.log.key_name import is_key_name

MAX_WITNESSES: Final = 14
"""Of which each may have two signature lines beside the log's two; a note has at most 32."""
_URL: Final = re.compile(r"https?://[^\s?#]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class WitnessSettings:
    """A witness that is asked. `url` is its submission prefix; `vkey` the text of its verifier key."""

    name: str
    url: str
    vkey: str

    def __post_init__(self) -> None:
        """Refuse by name what cannot be."""
        if not is_key_name(self.name) or self.name == "none":
            raise ValueError(f"name: {self.name!r} is no name of a witness; it has no spaces, no plus, and is not none")
        if not _URL.fullmatch(self.url):
            raise ValueError(f"url: {self.url!r} is no URL of a witness; write http://HOST:PORT or https://HOST/PATH")

    @property
    def prefix(self) -> str:
        """The URL that `/add-checkpoint` goes behind."""
        return self.url.rstrip("/")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """The log. `origin` is its name for ever, None: one is made with its keys; `folder` None: in the state directory.

    What comes within `batch_s`, or the first `batch_items`, is committed together; `queue_items`, of `queue_bytes` at
    most, may wait for it.
    `is_public`: its files are served at `/log`. `quorum` of the witnesses must cosign before a checkpoint counts as
    witnessed; they are asked at most every `witness_every_s`, and each has `witness_timeout_s`.
    """

    origin: str | None = None
    folder: Path | None = None
    batch_s: float = 0.1
    batch_items: int = 512
    queue_items: int = 50_000
    queue_bytes: int = 256 * 2**20
    is_public: bool = True
    witnesses: tuple[WitnessSettings, ...] = field(default=())
    quorum: int = 0
    witness_every_s: float = 1.0
    witness_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        """Refuse by name what cannot be."""
        if self.origin is not None and not (is_key_name(self.origin) and len(self.origin.encode()) <= 255):
            raise ValueError(
                f"origin: {self.origin!r} is no log's name; write a URL without its scheme, such as example.com/answers"
            )
        names = [one.name for one in self.witnesses]
        if len(set(names)) < len(names) or len({one.vkey for one in self.witnesses}) < len(names):
            raise ValueError("witnesses: two have the same name or the same key")
        if len(names) > MAX_WITNESSES:
            raise ValueError(f"witnesses: there are {len(names)}; at most {MAX_WITNESSES} can cosign one checkpoint")
        if not 0 <= self.quorum <= len(names):
            raise ValueError(f"quorum: {self.quorum} is not a number from 0 to {len(names)}, the number of witnesses")
        if self.batch_items > self.queue_items:
            raise ValueError(f"queue_items: {self.queue_items} is less than batch_items, {self.batch_items}")
