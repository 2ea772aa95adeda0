"""What a lane has done since it began, summed up: a few additions a step and a request, none a token.

The engine's thread adds; pictures of the lane (`picture.py`) are made of it. Knows no metrics.
"""

from typing import Final

from headrace.core.watching import LiveTotals, TenantHits
from headrace.engine.batch import Batch

MAX_TENANTS: Final = 256
"""Tenants that are counted one by one; what comes after them is counted together."""

MAX_SHOWN: Final = 32
OTHERS: Final = ""


class Counts:
    """Sums of one lane."""

    __slots__ = (
        "_tenants",
        "accepted_tokens",
        "drafted_tokens",
        "native_s",
        "num_preempted",
        "num_sequences",
        "num_steps",
        "num_tokens",
        "output_tokens",
        "prompt_tokens",
        "read_tokens",
        "reused_tokens",
    )

    def __init__(self) -> None:
        self.num_steps = self.num_sequences = self.num_tokens = 0
        self.native_s = 0.0
        self.prompt_tokens = self.reused_tokens = self.read_tokens = 0
        self.output_tokens = self.drafted_tokens = self.accepted_tokens = self.num_preempted = 0
        self._tenants: dict[str, list[int]] = {}

    def step(self, batch: Batch) -> None:
        """A step was computed."""
        self.num_steps += 1
        self.num_sequences += len(batch.sequences)
        self.num_tokens += batch.num_tokens
        self.read_tokens += batch.num_prompt_tokens

    def begin(self, tenant: str, prompt_tokens: int, reused_tokens: int) -> None:
        """A request was admitted, and so many of its prompt's tokens were known."""
        self.prompt_tokens += prompt_tokens
        self.reused_tokens += reused_tokens
        found = self._tenants.get(tenant)
        if found is None:
            name = tenant if len(self._tenants) < MAX_TENANTS else OTHERS
            found = self._tenants.setdefault(name, [0, 0])
        found[0] += prompt_tokens
        found[1] += reused_tokens

    def totals(self) -> LiveTotals:
        """All sums."""
        return LiveTotals(
            num_steps=self.num_steps,
            num_sequences=self.num_sequences,
            num_tokens=self.num_tokens,
            native_s=self.native_s,
            prompt_tokens=self.prompt_tokens,
            reused_tokens=self.reused_tokens,
            read_tokens=self.read_tokens,
            output_tokens=self.output_tokens,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
            num_preempted=self.num_preempted,
        )

    def tenants(self) -> tuple[TenantHits, ...]:
        """Those with the most prompt tokens; the rest together, last and without a name."""
        known = sorted(
            (TenantHits(name, *sums) for name, sums in self._tenants.items() if name != OTHERS),
            key=lambda one: -one.prompt_tokens,
        )
        rest = [TenantHits(OTHERS, *sums) for name, sums in self._tenants.items() if name == OTHERS]
        rest += known[MAX_SHOWN:]
        if not rest:
            return tuple(known)
        others = TenantHits(OTHERS, sum(one.prompt_tokens for one in rest), sum(one.reused_tokens for one in rest))
        return (*known[:MAX_SHOWN], others)
