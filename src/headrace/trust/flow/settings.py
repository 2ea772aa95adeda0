"""What an operator says of tools and of labels: tables `tools` and `flow` of a settings file, as values.

Knows no requests. What is not said here of a tool is guessed in `tools.py`, to the higher effect.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from headrace.core.trust import Confidentiality, Effect


class Kind(StrEnum):
    """What an argument of a tool decides about: this, and not the tool's name, is what rules are written for."""

    RECIPIENT = "recipient"  # who gets something: address, account, user, channel
    CONTACT = "contact"  # an address of somebody whom another argument names
    URL = "url"
    PATH = "path"  # a name of a file or folder
    ID = "id"  # the object that is changed
    AMOUNT = "amount"
    TIME = "time"
    SECRET = "secret"  # noqa: S105 - the kind of one: a password or a key that is set
    TARGET = "target"  # what is booked or bought
    VALUE = "value"  # anything else that has to be true to its source
    CONTENT = "content"  # free text: only addresses of the web in it are looked at, and only where it leaves


class Mode(StrEnum):
    """Whether something is not done (OFF), done and only told (SHADOW), or done and binding (ENFORCE)."""

    OFF = "off"
    SHADOW = "shadow"
    ENFORCE = "enforce"


class Invisible(StrEnum):
    """What becomes of invisible characters in untrusted text."""

    KEEP = "keep"
    FLAG = "flag"
    STRIP = "strip"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRule:
    """What an operator says of the tools whose names fit `name`, a name or a pattern with `*`.

    `arguments` are kinds by path (`recipient`, `attachments.file_id`; lists are gone through); what is not named is
    CONTENT. None: guessed. `manifest` is the digest that the tool's declaration must have. `endorses`: fields of its
    result, by path, that the tool's own service vouches for, and as what; with `names` only those of a record one of
    whose fields of these names the user has named. `source`: arguments that say what is read; if the user has named
    that, it is a source that the user chose. `is_trusted`: nobody but the operator or the user can have written its
    results. `is_honey`: nobody has reason to call it.
    """

    name: str
    effect: Effect | None = None
    arguments: Mapping[str, Kind] | None = None
    manifest: str | None = None
    endorses: Mapping[str, Kind] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    confidentiality: Confidentiality = Confidentiality.TENANT
    is_trusted: bool = False
    is_honey: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowSettings:
    """`mode`: whether calls of tools in answers are judged. `system`: whose words system and developer turns are, which
    a client sends: `user` (its principal's) or `operator`. `invisible`: see `hygiene.py`. `amounts`: whether an amount
    must be one that trusted text has (`exact`), or may also be less than the largest of them (`bounded`). `endorses`
    are values that an operator vouches for in every call, by kind."""

    mode: Mode = Mode.OFF
    system: str = "user"
    invisible: Invisible = Invisible.FLAG
    amounts: str = "exact"
    endorses: Mapping[Kind, tuple[str, ...]] = field(default_factory=dict)


NAMED_SOURCE_ENDORSES: Final = frozenset({Kind.CONTACT, Kind.AMOUNT, Kind.VALUE, Kind.TIME})
"""What a source that the user named may supply: details of what the user asked for, never who is paid or written to,
what is fetched, removed or bought, nor a secret."""
