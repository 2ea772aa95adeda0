"""What an operator can say of records, as one value: the table `[records]`. Knows no files."""

from dataclasses import dataclass
from enum import StrEnum


class RecordMode(StrEnum):
    """What a record that cannot be made means."""

    OFF = "off"  # none are made
    MONITOR = "monitor"  # the answer goes out, and the loss is counted and logged
    ENFORCE = "enforce"  # the request is refused before it runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsSettings:
    """`node` is what records and trust files call this node, and `node_key` where its key is: a path, or what
    securesystemslib calls a private key URI (`hv:`, `awskms:`, `gcpkms:`, `azurekms:`); None: a file made at first
    start. `keeps_content`: requests and answers lie beside their records, for `content_days`. `keeps_names`: records
    name users and keys as they are, not by pseudonyms. `keeps_envelopes`: erasing takes content and nonces alone."""

    mode: RecordMode = RecordMode.OFF
    node: str = "headrace"
    node_key: str | None = None
    keeps_content: bool = False
    content_days: int = 30
    keeps_names: bool = False
    keeps_envelopes: bool = False

    @property
    def is_on(self) -> bool:
        """Whether records are made."""
        return self.mode is not RecordMode.OFF
