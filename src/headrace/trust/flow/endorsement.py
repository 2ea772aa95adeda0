"""Endorsements: what each is of, whether it fits a call that is asked about, and how often it may still be used.

An endorsement is of one exact thing: a call, by the digest of its tool, the tool's declaration and its arguments, or a
value of one argument of one tool. Nothing that merely reads alike is endorsed. It fits within its tenant alone, its
session and its subject if it names them, the delegation under which it was made, its time and its count.

Values in, values out; time is passed in. Whoever owns a book uses it from one thread: what fits is spent before
anybody else is asked.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from hashlib import sha256
from typing import Any, Final

from headrace.core.endorsing import Endorsement
from headrace.core.errors import HeadraceError
from headrace.trust.flow.arguments import UNREAD, read_arguments
from headrace.trust.flow.tools import ToolFacts
from headrace.trust.records import canonical

MAX_PER_TENANT: Final = 1024
MAX_VALUE: Final = 4096
"""Characters of a value that may be endorsed one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A call that an endorsement may fit: whose it is, and which. `call` is None where it cannot be told exactly."""

    tenant: str
    subject: str
    tool: str
    call: str | None
    session: str | None = None
    blocks: tuple[str, ...] = ()


def call_digest(facts: ToolFacts, arguments: str) -> str | None:
    """`sha256:` and the digest of a call: of its tool's name and declaration and of its arguments, in canonical JSON.
    None for arguments that have none, and then nothing of the call can be endorsed: two readers could take a number
    that no double is for two."""
    given = read_arguments(arguments)
    if given is None or not _is_exact(arguments):
        return None
    try:
        form = canonical.encode({"arguments": given, "manifest": facts.manifest, "tool": facts.name})
    except HeadraceError:
        return None
    return "sha256:" + sha256(b"headrace call v1\n" + form).hexdigest()


def _is_exact(arguments: str) -> bool:
    """Whether every number in JSON reads back as what was written."""

    def check(text: str) -> float:
        number = float(text)
        if not math.isfinite(number) or Decimal(text) != Decimal(repr(number)):
            raise ValueError(text)
        return number

    try:
        json.loads(arguments.strip() or "{}", parse_float=check)
    except (ValueError, ArithmeticError):
        return False
    return True


def value_form(value: Any) -> str | None:
    """A value in canonical JSON, which is what is compared; None for one that cannot be endorsed."""
    if isinstance(value, bool) or not isinstance(value, str | int | float) or value == UNREAD:
        return None
    if isinstance(value, float) and abs(value) > canonical.MAX_INT:
        return None
    try:
        form = canonical.encode(value).decode()
    except HeadraceError:
        return None
    return form if len(form) <= MAX_VALUE else None


def fits(one: Endorsement, asked: Asked, now_s: float) -> bool:
    """Whether an endorsement is for this request and still holds. Not yet whether it is of what is called."""
    return (
        one.tenant == asked.tenant
        and one.tool == asked.tool
        and now_s < one.until_s
        and one.uses != 0
        and one.session in (None, asked.session)
        and one.subject in (None, asked.subject)
        and asked.blocks[: len(one.under)] == one.under
    )


@dataclass(frozen=True, slots=True)
class Fitting:
    """What of a book fits a call. Of several for one thing that one is used which is not counted, or ends first."""

    of_call: str | None
    """The id of one for the very call."""
    of_values: dict[tuple[str, str], str]
    """Ids by path and value."""

    def vouching(self, used: set[str]) -> "Vouching":
        """Says of arguments whether they are endorsed, and notes by which."""
        return Vouching(self.of_values, used)


@dataclass(frozen=True, slots=True)
class Vouching:
    """Asked about arguments that nobody else vouches for: `used` are the endorsements that did."""

    of_values: dict[tuple[str, str], str]
    used: set[str]

    def __call__(self, path: str, value: Any) -> bool:
        """See `arguments.Vouch`."""
        form = value_form(value)
        found = None if form is None else self.of_values.get((path, form))
        if found is None:
            return False
        self.used.add(found)
        return True


class EndorsementBook:
    """Those that hold, oldest first."""

    def __init__(self, kept: Iterable[Endorsement] = ()) -> None:
        self._tenants: dict[str, dict[str, Endorsement]] = {}
        for one in kept:
            self.add(one)

    def __iter__(self) -> Iterator[Endorsement]:
        """All of them."""
        for kept in self._tenants.values():
            yield from kept.values()

    def add(self, one: Endorsement) -> None:
        """One more."""
        self._tenants.setdefault(one.tenant, {})[one.id] = one

    def of_tenant(self, tenant: str, now_s: float) -> tuple[Endorsement, ...]:
        """Those of a tenant that hold; others are forgotten."""
        kept = self._tenants.get(tenant, {})
        for one in [one for one in kept.values() if now_s >= one.until_s or one.uses == 0]:
            del kept[one.id]
        if not kept:
            self._tenants.pop(tenant, None)
        return tuple(kept.values())

    def withdraw(self, tenant: str, endorsement_id: str) -> Endorsement | None:
        """End one; as it was. None if there is none."""
        return self._tenants.get(tenant, {}).pop(endorsement_id, None)

    def fitting(self, asked: Asked, now_s: float, holds: Callable[[Endorsement], bool] = lambda _: True) -> Fitting:
        """What fits a call, of those of which `holds` is true."""
        kept = self._tenants.get(asked.tenant, {}).values()
        found = [one for one in kept if fits(one, asked, now_s) and holds(one)]
        found.sort(key=lambda one: (one.uses is not None, one.until_s))
        of_call = next((one.id for one in found if one.call is not None and one.call == asked.call), None)
        of_values: dict[tuple[str, str], str] = {}
        for one in found:
            if one.argument is not None and one.value is not None:
                of_values.setdefault((one.argument, one.value), one.id)
        return Fitting(of_call, of_values)

    def spend(self, tenant: str, ids: Sequence[str]) -> tuple[Endorsement, ...]:
        """Count one use of each; as they are now. All of them or none: an id without a use left is the caller's
        mistake, because `fitting` was asked just now."""
        kept = self._tenants.get(tenant, {})
        spent = [
            replace(one, uses=None if one.uses is None else one.uses - 1, num_used=one.num_used + 1)
            for one in (kept[name] for name in dict.fromkeys(ids))
        ]
        assert all(one.uses is None or one.uses >= 0 for one in spent)
        kept.update({one.id: one for one in spent})
        return tuple(spent)
