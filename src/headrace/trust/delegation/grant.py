"""What a delegation says, as values: bounds, block by block, and what they come to together.

Every block can only narrow: what is allowed is what each of them allows. Knows no tokens.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Final, TypeVar

from headrace.core.trust import Delegation, Effect

MAX_NAMES: Final = 64
MAX_NAME_CHARS: Final = 256
_Name = TypeVar("_Name", str, Effect)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one block bounds; None: not by this one. `max_cost_nanos` (billionths of the price list's unit) and
    `max_calls` count all that happens under this very block; `max_depth` is how many blocks may follow it."""

    models: frozenset[str] | None = None
    tools: frozenset[str] | None = None
    effects: frozenset[Effect] | None = None
    labels: frozenset[str] | None = None
    max_cost_nanos: int | None = None
    max_calls: int | None = None
    max_depth: int | None = None
    expires_s: float | None = None

    def __post_init__(self) -> None:
        """Raises ValueError naming what no block can say."""
        for name in ("models", "tools", "labels"):
            check_names(name, getattr(self, name) or ())
        for name in ("max_cost_nanos", "max_calls", "max_depth"):
            if (value := getattr(self, name)) is not None and not 0 <= value < 2**63:
                raise ValueError(f"{name}: {value} is not from 0 to 2^63 - 1")
        if self.expires_s is not None and not 0 <= self.expires_s <= 253_402_300_799:  # the end of the year 9999
            raise ValueError(f"expires: {self.expires_s} is no time in Unix seconds")

    @property
    def is_empty(self) -> bool:
        """Whether it bounds nothing."""
        return all(getattr(self, one.name) is None for one in fields(self))


def check_names(what: str, names: Iterable[str]) -> None:
    """Raise ValueError for a name that a block cannot have: blocks are read back as text, in which a quote would end a
    name (see `block.py`)."""
    listed = list(names)
    if len(listed) > MAX_NAMES:
        raise ValueError(f"{what}: {len(listed)} names given; at most {MAX_NAMES} are allowed")
    for name in listed:
        if not 1 <= len(name) <= MAX_NAME_CHARS or not is_plain(name):
            raise ValueError(
                f"{what}: {name[:80]!r} is no name; give 1 to {MAX_NAME_CHARS} characters without quotes, backslashes "
                "and control characters"
            )


def is_plain(text: str) -> bool:
    """Whether a text can stand between quotes as it is."""
    return text.isprintable() and '"' not in text and "\\" not in text


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One block: to whom it hands on (None: whoever held it before), its bounds, and the id by which it, and all that
    follows it, can be revoked. From `until_s` on, Unix time, no token with it holds."""

    revocation_id: str
    bounds: Bounds = Bounds()
    holder: str | None = None
    until_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """A token that was read. `subject` granted it first (`key:laptop`, `user:ISSUER#ID`), in `tenant`, with `scopes` at
    most; `facts` are what it said beside. Of a granter who is not known here when the token is shown, the first block
    says what its own requests are under: the labels that they `carry`, `tags`, `user` and `priority`."""

    tenant: str
    subject: str
    scopes: frozenset[str]
    blocks: tuple[Block, ...]
    carries: frozenset[str] = frozenset()
    tags: tuple[str, ...] = ()
    user: str | None = None
    priority: int = 0
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def holder(self) -> str:
        """Whose it is now."""
        return next((one.holder for one in reversed(self.blocks) if one.holder is not None), self.subject)

    @property
    def chain(self) -> tuple[str, ...]:
        """Through whose hands it went, first to last."""
        return (self.subject, *(one.holder for one in self.blocks if one.holder is not None))

    @property
    def bounds(self) -> Bounds:
        """What all blocks come to."""
        all_bounds = [one.bounds for one in self.blocks]
        return Bounds(
            models=_narrowest(one.models for one in all_bounds),
            tools=_narrowest(one.tools for one in all_bounds),
            effects=_narrowest(one.effects for one in all_bounds),
            labels=_narrowest(one.labels for one in all_bounds),
            max_cost_nanos=_least(one.max_cost_nanos for one in all_bounds),
            max_calls=_least(one.max_calls for one in all_bounds),
            max_depth=self.depth_left,
            expires_s=_least(one.expires_s for one in all_bounds),
        )

    @property
    def depth_left(self) -> int | None:
        """How many more blocks may follow; below 0 if there are too many now. None: any number."""
        last = len(self.blocks) - 1
        left = (
            one.bounds.max_depth - (last - index)
            for index, one in enumerate(self.blocks)
            if one.bounds.max_depth is not None
        )
        return min(left, default=None)

    def delegation(self) -> Delegation:
        """What everybody else needs to know of it."""
        bounds = self.bounds
        return Delegation(
            chain=self.chain,
            revocation_ids=tuple(one.revocation_id for one in self.blocks),
            models=bounds.models,
            tools=bounds.tools,
            effects=bounds.effects,
            labels=bounds.labels,
            max_cost_nanos=bounds.max_cost_nanos,
            max_calls=bounds.max_calls,
            expires_s=bounds.expires_s,
            facts=dict(self.facts),
        )


def _narrowest(bounds: Iterable[frozenset[_Name] | None]) -> frozenset[_Name] | None:
    given = [one for one in bounds if one is not None]
    return frozenset[_Name].intersection(*given) if given else None


_Amount = TypeVar("_Amount", int, float)


def _least(bounds: Iterable[_Amount | None]) -> _Amount | None:
    return min((one for one in bounds if one is not None), default=None)
