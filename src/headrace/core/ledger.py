"""What one answer used, split as every protocol's usage needs it, and what that costs. Values only.

The four dialects of prompt caching say the same in different sums; each codec reads them from one `Ledger`:

    prompt  =  cached (of which disk)  +  written, by time to live  +  uncached

    OpenAI     prompt_tokens = prompt, cached_tokens = cached, cache_write_tokens = written
    Anthropic  input_tokens = uncached, cache_read_input_tokens = cached, cache_creation_input_tokens = written
    Gemini     prompt_token_count = prompt, cached_content_token_count = cached
    DeepSeek   prompt_cache_hit_tokens = cached, prompt_cache_miss_tokens = missed

Knows no wire names and no currency: a price is a number, and a cost is in the same unit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, Self

from headrace.core.errors import EngineFault
from headrace.core.events import Usage

SHORT_TTL_S: Final = 300.0
LONG_TTL_S: Final = 3600.0
"""The two times to live that Anthropic's protocol has words and prices for."""

PER_TOKENS: Final = 1_000_000
"""Prices are for so many tokens."""

# Prices that are not set follow from that of input: Anthropic's multipliers, and OpenAI's for other times.
_READ: Final = 0.1
_WRITE: Final = 1.25
_WRITE_LONG: Final = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Tokens of one answer. `cached_tokens` had their keys and values reused, `disk_tokens` of them from disk; `writes`
    were computed and kept under breakpoints, as (ttl_s, tokens); `reasoning_tokens` are part of `completion_tokens`."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    disk_tokens: int = 0
    writes: tuple[tuple[float, int], ...] = ()
    reasoning_tokens: int = 0

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """The ledger of a backend's counts. Raises EngineFault for counts that contradict each other."""
        ledger = cls(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            disk_tokens=usage.disk_tokens,
            writes=usage.cache_writes,
            reasoning_tokens=usage.reasoning_tokens,
        )
        counts = (ledger.cached_tokens, ledger.disk_tokens, ledger.uncached_tokens, ledger.reasoning_tokens)
        if (
            min(*counts, *(tokens for _, tokens in ledger.writes)) < 0
            or ledger.disk_tokens > ledger.cached_tokens
            or ledger.reasoning_tokens > ledger.completion_tokens
        ):
            raise EngineFault(f"the backend's token counts contradict each other: {usage}.")
        return ledger

    @property
    def written_tokens(self) -> int:
        """Tokens newly kept under breakpoints."""
        return sum(tokens for _, tokens in self.writes)

    @property
    def uncached_tokens(self) -> int:
        """Tokens that were computed and are kept under no breakpoint."""
        return self.prompt_tokens - self.cached_tokens - self.written_tokens

    @property
    def missed_tokens(self) -> int:
        """Tokens that had to be computed, kept or not."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def total_tokens(self) -> int:
        """Input and output."""
        return self.prompt_tokens + self.completion_tokens

    def written_for(self, ttl_s: float) -> int:
        """Tokens newly kept for exactly this long."""
        return sum(tokens for kept_s, tokens in self.writes if kept_s == ttl_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What a million tokens cost. None follows from `input`: a tenth for what was read from the cache, 1.25 times for
    what was written to it for five minutes or a time not named here, twice for an hour."""

    input: float
    output: float
    cache_read: float | None = None
    cache_write_5m: float | None = None
    cache_write_1h: float | None = None
    cache_write: float | None = None

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise ValueError(f"{name}: {value!r} is no price; give a number that is not below 0")

    def cost(self, ledger: Ledger) -> float:
        """What the answer costs, in the unit of the prices."""
        parts = [
            ledger.uncached_tokens * self.input,
            ledger.cached_tokens * _or(self.cache_read, _READ * self.input),
            ledger.completion_tokens * self.output,
            *(tokens * self._write_price(ttl_s) for ttl_s, tokens in ledger.writes),
        ]
        return math.fsum(parts) / PER_TOKENS

    def _write_price(self, ttl_s: float) -> float:
        if ttl_s == SHORT_TTL_S:
            return _or(self.cache_write_5m, _WRITE * self.input)
        if ttl_s == LONG_TTL_S:
            return _or(self.cache_write_1h, _WRITE_LONG * self.input)
        return _or(self.cache_write, _WRITE * self.input)


@dataclass(frozen=True, slots=True)
class PriceList:
    """The prices of each model that has some."""

    models: Mapping[str, Prices] = field(default_factory=lambda: MappingProxyType({}))

    def cost(self, model: str, ledger: Ledger) -> float | None:
        """What an answer of a model costs, None if it has no price. An adapter costs what its model does unless it has
        a price of its own. An answer's model is the name that `Started` tells, not an alias."""
        prices = self.models.get(model) or self.models.get(model.rpartition(":")[0])
        return None if prices is None else prices.cost(ledger)


NO_PRICES: Final = PriceList()


def _or(price: float | None, default: float) -> float:
    return default if price is None else price
