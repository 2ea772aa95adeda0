"""The policies of a route, as a table: each orders what the one before it left equal, and chance orders the rest.

A score sorts a group, lower first; equal scores stay together for the next policy. `weighted` and `least_loaded` draw
instead, one option after the other and only as many as somebody takes: of two that are drawn the less loaded goes
first, so that many who decide at once do not all decide alike. Knows no filters.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby
from math import floor, inf, log
from types import MappingProxyType
from typing import Final

from headrace.gateway.routing.option import Option
from headrace.gateway.routing.scene import Scene
from headrace.gateway.routing.sightings import BYTES_PER_TOKEN
from headrace.gateway.settings import Policy

Score = Callable[[Scene, Sequence[Option]], list[float]]

MAX_EXPLORERS: Final = 1
"""Requests that may be under way at once to a target of whose speed nothing is known."""

STREAM_TOKENS: Final = 32
"""What one running stream slows a replica down by, in tokens of input that are read: between 16 and 64 `bench.affinity`
finds the same."""

LATENCY_STEP: Final = log(1.15)
"""Times that differ by less are equal: a few percent of noise are no reason to send everybody to one place."""


def order(scene: Scene, options: Sequence[Option], policies: Sequence[Policy]) -> Iterator[Option]:
    """The options, best first."""
    if len(options) < 2:
        yield from options
        return
    if not policies:
        yield from scene.rng.sample(options, len(options))
        return
    policy, rest = policies[0], policies[1:]
    if policy is Policy.LEAST_LOADED:
        yield from _draw_pairs(scene, list(options), rest)
    elif policy is Policy.WEIGHTED:
        yield from _draw_weighted(scene, options)
    else:
        scores = SCORES[policy](scene, options)
        if min(scores) == max(scores):
            yield from order(scene, options, rest)
            return
        ranked = sorted(zip(scores, range(len(options)), strict=True))
        for _, group in groupby(ranked, key=lambda one: one[0]):
            yield from order(scene, [options[place] for _, place in group], rest)


def _draw_pairs(scene: Scene, pool: list[Option], rest: Sequence[Policy]) -> Iterator[Option]:
    random, load = scene.rng.random, scene.load
    while (count := len(pool)) > 1:
        one, other = int(random() * count), int(random() * (count - 1))
        if other >= one:
            other += 1
        left, right = load(pool[one]), load(pool[other])
        if left > right or (left == right and not _is_first(scene, pool[one], pool[other], rest)):
            one = other
        pool[one], pool[-1] = pool[-1], pool[one]
        yield pool.pop()
    yield from pool


def _is_first(scene: Scene, one: Option, other: Option, rest: Sequence[Policy]) -> bool:
    # Both were drawn by chance in a random order, so "the first" is random where no policy says more.
    return not rest or next(order(scene, (one, other), rest)) is one


def _draw_weighted(scene: Scene, options: Sequence[Option]) -> Iterator[Option]:
    random = scene.rng.random
    pool = [option for option in options if option.weight > 0]
    while pool:
        sums = list(accumulate([scene.share(option) for option in pool]))
        if not sums[-1]:  # nobody who can be asked is left
            yield from pool
            break
        # Drawing one again is as if it were not there; only when that happens often are the sums made anew.
        drawn: set[int] = set()
        while len(drawn) < len(pool):
            place = min(bisect_right(sums, random() * sums[-1]), len(pool) - 1)
            if place in drawn:
                break
            drawn.add(place)
            yield pool[place]
        pool = [option for place, option in enumerate(pool) if place not in drawn]
    # A weight of 0: only if nobody else is left.
    idle = [option for option in options if option.weight <= 0]
    yield from scene.rng.sample(idle, len(idle))


def _ordered(_: Scene, options: Sequence[Option]) -> list[float]:
    return [option.place for option in options]


def _lowest_latency(scene: Scene, options: Sequence[Option]) -> list[float]:
    output = scene.output_tokens(options)
    times = [expected_s(scene, option, output) for option in options]
    known = [time for time in times if time is not None]
    usual = sum(known) / len(known) if known else 1.0
    scores: list[float] = []
    for option, time in zip(options, times, strict=True):
        if time is None and option.state.explorers[scene.size] < MAX_EXPLORERS:
            scores.append(-1e9)
        else:
            scores.append(floor(log(max(usual if time is None else time, 1e-6)) / LATENCY_STEP))
    return scores


def expected_s(scene: Scene, option: Option, output: float) -> float | None:
    """Seconds until an answer of so many tokens is whole, None if nothing is known."""
    ttft = option.state.ttft[scene.size].value(scene.now_s)
    if ttft is None:
        return None
    return ttft + output * (option.state.tpot.value(scene.now_s) or 0.0)


def _lowest_cost(scene: Scene, options: Sequence[Option]) -> list[float]:
    return [round(expected_nanos(scene, option)) for option in options]


def expected_nanos(scene: Scene, option: Option) -> float:
    """What the request will cost there: its input, less what is cached, and an answer as long as they were lately."""
    rate, shape = option.rate, scene.shape
    if not rate.dearest and not rate.output:
        return 0.0
    tokens = shape.num_bytes / (option.state.bytes_per_token.value(scene.now_s) or BYTES_PER_TOKEN)
    warm = scene.warm_share(option) if rate.cached < rate.fresh else 0.0
    own = option.state.output_tokens.value(scene.now_s) is not None
    output = scene.output_tokens((option,) if own else scene.route.options)
    prompt = tokens * (warm * rate.cached + (1.0 - warm) * rate.fresh)
    return prompt + output * shape.num_choices * rate.output


def _cache_affinity(scene: Scene, options: Sequence[Option]) -> list[float]:
    warm = [scene.warm_share(option) for option in options]
    if not any(warm):
        return [0.0] * len(options)
    loads = _relative_loads(scene, options)
    cap = scene.route.settings.affinity_load_cap * (sum(loads) / len(loads)) + 1.0
    # Where the first token will be soonest: what is cold of this input, and what the backend has still to read before.
    # Going by the longest beginning alone sends everybody who shares one to a replica that is busy already.
    tokens = scene.shape.num_bytes / BYTES_PER_TOKEN
    return [
        inf if load > cap else tokens * (1.0 - share) + option.state.backend.unread_tokens + STREAM_TOKENS * load
        for option, share, load in zip(options, warm, loads, strict=True)
    ]


def _relative_loads(scene: Scene, options: Sequence[Option]) -> list[float]:
    """Requests on the way, as many as they would be at the mean weight."""
    shares = [max(scene.share(option), 1e-6) for option in options]
    mean = sum(shares) / len(shares)
    return [option.state.backend.in_flight * mean / share for option, share in zip(options, shares, strict=True)]


def _complexity(scene: Scene, options: Sequence[Option]) -> list[float]:
    limits, difficulty = scene.route.settings.escalation.max_difficulty, scene.difficulty
    first = sum(difficulty > limit for limit in limits)
    # Those below come last: too weak by the look of it, but better than no answer.
    return [option.tier - first if option.tier >= first else 1e6 - option.tier for option in options]


SCORES: Final[Mapping[Policy, Score]] = MappingProxyType(
    {
        Policy.ORDERED: _ordered,
        Policy.LOWEST_LATENCY: _lowest_latency,
        Policy.LOWEST_COST: _lowest_cost,
        Policy.CACHE_AFFINITY: _cache_affinity,
        Policy.COMPLEXITY: _complexity,
    }
)
"""Those that sort. Two more draw."""

TOTAL: Final = frozenset({Policy.ORDERED, Policy.WEIGHTED, Policy.LEAST_LOADED})
"""Behind one of these nothing is left equal but by chance."""


def complete(policies: Sequence[Policy]) -> tuple[Policy, ...]:
    """The policies of a route, with `least_loaded` behind those that may leave options equal: a miss goes to whoever is
    least loaded, never to the first of the file."""
    return tuple(policies) if TOTAL & set(policies) else (*policies, Policy.LEAST_LOADED)
