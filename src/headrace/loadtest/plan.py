"""What a run shall do: its stages, its bounds, the goals that answers are held to, and prices; read from options.

Everything is bounded, because a run spends somebody's money and time. Knows no sockets, no clock and no measures.
"""

import math
from dataclasses import dataclass, field
from typing import Final, Literal

from headrace.core.errors import InvalidRequest

Protocol = Literal["chat", "completions"]

MAX_STAGES: Final = 64
MAX_REQUESTS: Final = 1_000_000
MAX_DURATION_S: Final = 24 * 3600.0
MAX_RATE: Final = 100_000.0
MAX_CONCURRENCY: Final = 65_536
DURATION_S: Final = 30.0
"""Of a stage for which nothing else is said."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One load, held for a while. `rate`: conversations that begin a second, whether or not earlier ones are answered
    (open loop); `concurrency`: so many under way at once, each followed by the next (closed loop). One of both."""

    rate: float | None = None
    concurrency: int | None = None

    @property
    def name(self) -> str:
        """How people call it."""
        return f"rate {self.rate:g}" if self.rate is not None else f"concurrency {self.concurrency}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of every stage: seconds in which conversations begin, how many begin at most (either may be None, not both), the
    first `num_warm` of which are not counted; seconds that answers have to end afterwards; requests under way at
    most, beyond which those that are due wait, and their waiting counts."""

    duration_s: float | None = DURATION_S
    max_requests: int | None = None
    num_warm: int = 0
    drain_s: float = 60.0
    max_in_flight: int = 4096
    request_s: float = 600.0

    def __post_init__(self) -> None:
        _check("duration", self.duration_s, 0.001, MAX_DURATION_S)
        _check("requests", self.max_requests, 1, MAX_REQUESTS)
        _check("warmup", self.num_warm, 0, MAX_REQUESTS)
        _check("drain", self.drain_s, 0, MAX_DURATION_S)
        _check("max-in-flight", self.max_in_flight, 1, MAX_CONCURRENCY)
        _check("timeout", self.request_s, 0.001, MAX_DURATION_S)

    @property
    def longest_s(self) -> float:
        """Seconds in which conversations begin at most, whatever else bounds them."""
        return MAX_DURATION_S if self.duration_s is None else self.duration_s

    @property
    def most(self) -> int:
        """Conversations of a stage at most, those before counting begins included."""
        return MAX_REQUESTS if self.max_requests is None else self.max_requests + self.num_warm


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What an answer must keep to be good, in seconds; None asks for nothing. `ttft_s` from when it was due to its
    first token; `itl_s`: 99 of 100 gaps between pieces of it; `tpot_s`: the mean time a token after the first;
    `e2e_s`: from when it was due to its end."""

    ttft_s: float | None = None
    itl_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None

    @property
    def are_set(self) -> bool:
        """Whether anything is asked for."""
        return any(value is not None for value in (self.ttft_s, self.itl_s, self.tpot_s, self.e2e_s))


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """US dollars per million tokens; `cached` None: cached tokens cost as others do."""

    input: float | None = None
    output: float | None = None
    cached: float | None = None

    def __post_init__(self) -> None:
        for name in ("input", "output", "cached"):
            _check(f"price-{name}", getattr(self, name), 0, 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole run. The same seed makes the same arrivals and the same prompts."""

    stages: tuple[Stage, ...]
    bounds: Bounds = field(default_factory=Bounds)
    goals: Goals = field(default_factory=Goals)
    prices: Prices = field(default_factory=Prices)
    protocol: Protocol = "chat"
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.stages) <= MAX_STAGES:
            raise InvalidRequest(f"stages: a run has 1 to {MAX_STAGES}, not {len(self.stages)}; leave some out.")
        if self.protocol not in ("chat", "completions"):
            raise InvalidRequest(f"endpoint: {self.protocol!r} is none; say chat or completions.", param="endpoint")


def read_stages(rates: str | None, concurrency: str | None) -> tuple[Stage, ...]:
    """The stages that options name, such as `1,2,4`. Raises InvalidRequest."""
    if (rates is None) == (concurrency is None):
        raise InvalidRequest("rate: say either --rate 1,2,4 (requests a second) or --concurrency 1,8,32.", param="rate")
    if rates is not None:
        return tuple(Stage(rate=one) for one in _numbers("rate", rates, MAX_RATE))
    return tuple(Stage(concurrency=_whole(one)) for one in _numbers("concurrency", concurrency or "", MAX_CONCURRENCY))


def read_goals(text: str | None) -> Goals:
    """Goals such as `ttft=0.5,itl=0.05`, in seconds. Raises InvalidRequest."""
    found: dict[str, float] = {}
    for part in (text or "").split(","):
        name, mark, value = part.strip().partition("=")
        if not name and not mark:
            continue
        if f"{name}_s" not in Goals.__dataclass_fields__ or not mark:
            raise InvalidRequest(
                f"slo: {part.strip()!r} is no goal; write ttft=, itl=, tpot= or e2e= with seconds.", param="slo"
            )
        found[f"{name}_s"] = _numbers("slo", value, MAX_DURATION_S)[0]
    return Goals(**found)


def _numbers(name: str, text: str, largest: float) -> list[float]:
    found = []
    for part in text.split(","):
        try:
            value = float(part)
        except ValueError:
            raise InvalidRequest(
                f"{name}: {part.strip()!r} is no number; write for example 1,2,4.", param=name
            ) from None
        if not 0 < value <= largest:
            raise InvalidRequest(f"{name}: {part.strip()} is not above 0 and at most {largest:g}.", param=name)
        found.append(value)
    return found


def _whole(value: float) -> int:
    if not value.is_integer():
        raise InvalidRequest(
            f"concurrency: {value:g} is no whole number; write for example 1,8,32.", param="concurrency"
        )
    return int(value)


def _check(name: str, value: float | None, least: float, most: float) -> None:
    if value is not None and not (math.isfinite(value) and least <= value <= most):
        raise InvalidRequest(f"{name}: {value:g} is not from {least:g} to {most:g}; correct --{name}.", param=name)
