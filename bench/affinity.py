"""Question: how many prompt tokens need not be computed if requests go where their beginning was read before?

    prefill-LOAD   prompt tokens computed by four replicas, under `cache_affinity`; the peer is `least_loaded`
    ttft-p95-LOAD  milliseconds to the first token, 95th percentile
    ttft-p50-LOAD  the median
    busiest-LOAD   the share of all requests that the busiest replica got (a quarter is even)

The replicas are scripted: `replica.py` has a faithful model of a paged prefix cache and of steps with many sequences,
and time is simulated, so that a run is exact and takes seconds. The planner and its sightings are the real ones.
Sessions arrive at random; each begins with one of eight system prompts (some are much more popular), has several turns
whose prompts hold all that was said before, and waits between them. Both policies get the same sessions.

`LOAD` is how busy the replicas are (light, busy, heavy), how the prompts are shared (hot: nine of ten sessions share
one system prompt), or `alone`: single turns that share nothing, where affinity can bring nothing and must cost nothing.
"""

import argparse
import heapq
import random
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

from bench.replica import PAGE_TOKENS, Job, Replica, ReplicaConfig
from bench.report import Row, publish, row
from headrace.core.events import Usage
from headrace.core.request import Principal, Task
from headrace.core.shape import Shape
from headrace.gateway.routing.planner import RoutePlanner
from headrace.gateway.routing.sightings import RouteSightings
from headrace.gateway.routing.world import World
from headrace.gateway.settings import (
    BackendSettings,
    CandidateSettings,
    Dialect,
    GatewaySettings,
    ModelSettings,
    Policy,
    RouteSettings,
    Target,
)

NUM_REPLICAS = 4
BYTES_PER_TOKEN = 4
BLOCK_PAGES = 4  # a block of the gateway's index is 256 bytes: 64 tokens, four pages
PRINCIPAL = Principal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Sessions and what they say. Times in seconds, lengths in tokens, ranges for uniform draws."""

    name: str
    sessions_per_s: float
    num_sessions: int = 400
    num_prompts: int = 8
    hot_share: float = 0.0  # of sessions that begin with the first system prompt, beyond its popularity
    system_tokens: tuple[int, int] = (400, 1600)
    turns: tuple[int, int] = (3, 8)
    said_tokens: tuple[int, int] = (30, 200)
    answer_tokens: tuple[int, int] = (30, 150)
    think_s: float = 6.0


LOADS = (
    Load(name="light", sessions_per_s=0.5),
    Load(name="busy", sessions_per_s=1.0),
    Load(name="heavy", sessions_per_s=2.0),
    Load(name="hot", sessions_per_s=2.0, hot_share=0.9),
    Load(name="alone", sessions_per_s=3.0, num_sessions=1500, num_prompts=0, turns=(1, 1), said_tokens=(300, 900)),
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What is asked once: chained page hashes of prompt and answer, and their tokens."""

    pages: tuple[int, ...]
    prompt_tokens: int
    answer_tokens: int
    think_s: float


def sessions(load: Load, seed: int) -> list[tuple[float, list[Turn]]]:
    """When each session begins and what it asks."""
    rng = random.Random(seed)
    systems = [tokens(rng, load.system_tokens) for _ in range(load.num_prompts)]
    popularity = [1 / (rank + 1) for rank in range(load.num_prompts)]
    made, now = [], 0.0
    for _ in range(load.num_sessions):
        now += rng.expovariate(load.sessions_per_s)
        said: list[int] = []
        if systems:
            said += systems[0] if rng.random() < load.hot_share else rng.choices(systems, popularity)[0]
        turns = []
        for _ in range(rng.randint(*load.turns)):
            said += tokens(rng, load.said_tokens)
            num_prompt = len(said)
            said += tokens(rng, load.answer_tokens)
            turns.append(Turn(page_hashes(said), num_prompt, len(said) - num_prompt, rng.expovariate(1 / load.think_s)))
        made.append((now, turns))
    return made


def tokens(rng: random.Random, length: tuple[int, int]) -> list[int]:
    return [rng.randrange(50_000) for _ in range(rng.randint(*length))]


def page_hashes(said: Sequence[int]) -> tuple[int, ...]:
    found, last = [], 0
    for start in range(0, len(said) - PAGE_TOKENS + 1, PAGE_TOKENS):
        last = hash((last, *said[start : start + PAGE_TOKENS]))
        found.append(last)
    return tuple(found)


class Time:
    """Simulated."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic_s(self) -> float:
        return self.now_s

    def unix_s(self) -> float:
        return self.now_s


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run."""

    num_computed: int
    num_prompt: int
    ttft_s: list[float]
    busiest: float


class Simulation:
    """Replicas behind a planner, driven by a heap of events."""

    def __init__(self, policies: tuple[Policy, ...], config: ReplicaConfig, seed: int, cap: float) -> None:
        names = [f"replica-{place}" for place in range(NUM_REPLICAS)]
        self.replicas = {name: Replica(config) for name in names}
        self.time = Time()
        self.sightings = RouteSightings(self.time)
        backends = {
            name: BackendSettings(name=name, kind="headrace", dialect=Dialect.CHAT, models={"m": ModelSettings()})
            for name in names
        }
        candidates = tuple(CandidateSettings(target=Target(name, "m")) for name in names)
        route = RouteSettings(name="r", candidates=candidates, policies=policies, affinity_load_cap=cap)
        self.planner = RoutePlanner(
            GatewaySettings(backends=backends, routes={"r": route}),
            self.sightings,
            World(clock=self.time, rng=random.Random(seed)),
        )
        self._events: list[tuple[float, int, str | tuple[list[Turn], int]]] = []
        self._order = count()
        self.ttft_s: list[float] = []
        self.asked: Counter[str] = Counter()
        self.num_prompt = 0

    def run(self, made: Iterable[tuple[float, list[Turn]]]) -> Outcome:
        """All sessions to their end."""
        for begins_s, turns in made:
            self._at(begins_s, (turns, 0))
        while self._events:
            self.time.now_s, _, event = heapq.heappop(self._events)
            if isinstance(event, str):
                self._end_step(event)
            else:
                self._ask(*event)
        computed = sum(one.num_computed for one in self.replicas.values())
        return Outcome(computed, self.num_prompt, self.ttft_s, max(self.asked.values()) / self.asked.total())

    def _at(self, time_s: float, event: str | tuple[list[Turn], int]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), event))

    def _ask(self, turns: list[Turn], place: int) -> None:
        turn = turns[place]
        blocks = turn.pages[BLOCK_PAGES - 1 : turn.prompt_tokens // PAGE_TOKENS : BLOCK_PAGES]
        shape = Shape(
            id="",
            model="r",
            task=Task.GENERATE,
            principal=PRINCIPAL,
            num_bytes=turn.prompt_tokens * BYTES_PER_TOKEN,
            prefix=lambda: blocks,
        )
        target = self.planner.plan(shape).candidates[0].target
        number = self.sightings.begin(target, shape)
        job = Job(
            turn.pages,
            turn.prompt_tokens,
            turn.answer_tokens,
            self.time.now_s,
            tag=(number, turns, place),
        )
        self.asked[target.backend] += 1
        self.num_prompt += turn.prompt_tokens
        self.replicas[target.backend].waiting.append(job)
        self._begin_step(target.backend)

    def _begin_step(self, name: str) -> None:
        replica = self.replicas[name]
        if not replica.is_busy and (takes_s := replica.begin_step()) is not None:
            replica.is_busy = True
            self._at(self.time.now_s + takes_s, name)

    def _end_step(self, name: str) -> None:
        replica, now = self.replicas[name], self.time.now_s
        replica.is_busy = False
        first, done = replica.end_step(now)
        for job in first:
            self.ttft_s.append(now - job.arrived_s)
            self.sightings.first_event(job.tag[0])
        for job in done:
            number, turns, place = job.tag
            self.sightings.end(number, Usage(job.prompt_tokens, job.answer_tokens, job.num_cached), None)
            if place + 1 < len(turns):
                self._at(now + turns[place].think_s, (turns, place + 1))
        self._begin_step(name)


def p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def measure(load: Load, repeats: int, config: ReplicaConfig, cap: float) -> list[Row]:
    """Both policies over the same sessions, `repeats` times with other sessions."""
    ours, peers = [], []
    for seed in range(repeats):
        made = sessions(load, seed)
        ours.append(Simulation((Policy.CACHE_AFFINITY, Policy.LEAST_LOADED), config, seed, cap).run(made))
        peers.append(Simulation((Policy.LEAST_LOADED,), config, seed, cap).run(made))

    def one(measure: str, unit: str, of: Callable[[Outcome], float]) -> Row:
        values = [[of(outcome) for outcome in outcomes] for outcomes in (ours, peers)]
        return row(f"{measure}-{load.name}", unit, values[0], {"least_loaded": values[1]}, lower_is_better=True)

    return [
        one("prefill", "tokens", lambda outcome: outcome.num_computed),
        one("ttft-p95", "ms", lambda outcome: 1000 * p95(outcome.ttft_s)),
        one("ttft-p50", "ms", lambda outcome: 1000 * statistics.median(outcome.ttft_s)),
        one("busiest", "share", lambda outcome: outcome.busiest),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", help="names of loads, with commas between them")
    parser.add_argument("--cap", type=float, default=RouteSettings(name="", candidates=()).affinity_load_cap)
    parser.add_argument("--capacity", type=int, default=ReplicaConfig().capacity_pages, help="pages of a replica")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [load.name for load in LOADS]
    config = replace(ReplicaConfig(), capacity_pages=options.capacity)
    rows: list[Row] = []
    for load in LOADS:
        if load.name in wanted:
            rows += measure(load, options.repeats, config, options.cap)
    settings = {
        "replicas": f"{NUM_REPLICAS}, scripted (bench/replica.py): a model of an engine in simulated time, no engine",
        "capacity_tokens": config.capacity_pages * PAGE_TOKENS,
        "affinity_load_cap": options.cap,
    }
    publish("affinity", settings, rows, options.json)
    print("The replicas are scripted: a model of an engine's cache and steps in simulated time. The planner is real.")


if __name__ == "__main__":
    main()
