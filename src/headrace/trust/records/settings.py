"""What an operator can say of records, of answers (`[records]`) and of what administrators do (`[actions]`), as one
value each. Knows no files."""

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

_NODE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,99}")
URI_SCHEMES: Final = ("file2", "hv", "awskms", "gcpkms", "azurekms", "hsm", "tkey")
"""Of keys, as securesystemslib knows them; all but the first lie where it cannot tell their public half by itself."""


class RecordMode(StrEnum):
    """What a record that cannot be made means."""

    OFF = "off"  # none are made
    MONITOR = "monitor"  # the answer goes out, and the loss is counted and logged
    ENFORCE = "enforce"  # the request is refused before it runs


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordsSettings:
    """`node` is what records and trust files call this node, and `node_key` where its key is: a path, or what
    securesystemslib calls a private key URI (`hv:`, `awskms:`, `gcpkms:`, `azurekms:`), whose public half is then in
    the PEM file `node_public`; None: a file made at first start. `keeps_content`: requests and answers lie beside
    their records, for `content_days`. `keeps_names`: records name users and keys as they are, not by pseudonyms.
    `keeps_envelopes`: erasing takes content and nonces alone. `waits`: no whole answer goes out before its record is in
    the log."""

    mode: RecordMode = RecordMode.OFF
    node: str = "headrace"
    node_key: str | None = None
    node_public: Path | None = None
    keeps_content: bool = False
    content_days: int = 30
    keeps_names: bool = False
    keeps_envelopes: bool = False
    is_inline: bool = False
    waits: bool = False

    def __post_init__(self) -> None:
        """Refuse by name what cannot be."""
        if not _NODE.fullmatch(self.node):
            raise ValueError(f"node: {self.node!r} is no node's name; write letters, digits, dots, slashes and dashes")
        if self.key_scheme is not None and self.key_scheme != "file2" and self.node_public is None:
            raise ValueError(
                f"node_public: is missing; a key at {self.node_key!r} needs the PEM file of its public half"
            )
        if self.waits and self.mode is not RecordMode.ENFORCE:
            raise ValueError(
                f'waits: true needs mode = "enforce", and it is "{self.mode.value}": an answer that waits for its '
                "record does not go out where that cannot be kept; set the mode, or leave waits out"
            )
        if not 1 <= self.content_days <= 36_500:
            raise ValueError(f"content_days: {self.content_days} is not a number of days from 1 to 36500")

    @property
    def key_scheme(self) -> str | None:
        """The scheme of the node key's URI; None where it is a path, or nothing."""
        scheme, colon, _ = (self.node_key or "").partition(":")
        return scheme if colon and scheme in URI_SCHEMES else None

    @property
    def is_on(self) -> bool:
        """Whether records are made."""
        return self.mode is not RecordMode.OFF


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSettings:
    """How long it is remembered what administrators did: for so many `days`, the latest `max_actions`, and beside them
    the latest `max_visits`, sign-ins and sign-outs."""

    days: int = 730
    max_actions: int = 100_000
    max_visits: int = 10_000

    def __post_init__(self) -> None:
        """Refuse by name what cannot be."""
        if not 1 <= self.days <= 36_500:
            raise ValueError(f"days: {self.days} is not a number of days from 1 to 36500")
        if not 100 <= self.max_actions <= 10_000_000:
            raise ValueError(f"max_actions: {self.max_actions} is not in [100, 10000000]")
        if not 100 <= self.max_visits <= 1_000_000:
            raise ValueError(f"max_visits: {self.max_visits} is not in [100, 1000000]")
