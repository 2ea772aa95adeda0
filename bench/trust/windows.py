"""How many crawls do windows of inputs find, and how many people do they call unusual? Rows of `python -m bench.trust`.

All traffic is made up (`traffic.py`), and fresh: what the test of windows was chosen on has other seeds, and of the
crawls it has seen `CRAWLS` and never `FRESH`. Several watches, since what is usual is drawn by chance, too. Shares come
with the interval that so few allow (Wilson 1927, 95 %). Knows no model and no gateway.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any, Final

import numpy as np

from bench.report import Row
from bench.trust.traffic import CRAWLS, FRESH, Draw, habitual, inputs, mixed, person
from headrace.trust.monitors.theft.settings import TheftSettings
from headrace.trust.monitors.theft.windows import MIN_RESERVOIR, MIN_WINDOWS, PER_WINDOW, WindowWatch

SETTINGS: Final = TheftSettings()
NUM_WATCHES, NUM_TAUGHT, NUM_USUAL, NUM_CRAWLS = 5, 300, 600, 8
"""Watches; and of each, accounts that it learns from, accounts that it is asked about, and accounts of each crawl."""
NUM_YOUNG, NUM_NEXT = 10, 30
"""Watches that have just begun to speak, and of each the accounts that come next."""
SHARES: Final = (1.0, 0.5, 0.25, 0.1, 0.05)
FIRST_SEED: Final = 1_000_000
EVERY: Final[Mapping[str, Draw]] = {**CRAWLS, **FRESH}

Person = Callable[[int], Draw]
Found = dict[tuple[str, float], list[bool]]


@dataclass(frozen=True, slots=True)
class Asked:
    """What one watch said of people's windows, and of crawls by their name and share; True for unusual."""

    usual: list[bool]
    found: Found


def rows(options: argparse.Namespace, notes: dict[str, Any]) -> list[Row]:
    """All of them; each watch has a process, since none knows of another."""
    jobs = [("old", number) for number in range(NUM_WATCHES)]
    jobs += [("habits", NUM_WATCHES), ("among crawls", NUM_WATCHES + 1)]
    jobs += [("young", NUM_WATCHES + 2 + number) for number in range(NUM_YOUNG)]
    told: dict[str, list[Asked]] = {}
    with ProcessPoolExecutor(options.windows_jobs) as pool:
        for (kind, _), asked in zip(jobs, pool.map(_ask, jobs), strict=True):
            told.setdefault(kind, []).append(asked)
    for number, asked in enumerate(told["old"]):
        notes[f"watch {number + 1}, people"] = _told(asked.usual)
    notes["windows"] = (
        f"of {SETTINGS.window_size} inputs; {NUM_WATCHES} watches of {NUM_TAUGHT} accounts taught and {NUM_USUAL} "
        f"others, and {NUM_CRAWLS} accounts of each crawl beside people of their own; all over the same texts"
    )
    notes["young"] = f"{NUM_YOUNG} watches that know {MIN_WINDOWS} windows, and {NUM_NEXT} accounts after each"
    return _rows_of(told, notes)


def _rows_of(told: Mapping[str, list[Asked]], notes: dict[str, Any]) -> list[Row]:
    found = _all_found(told["old"])
    made = [_share("theft-window-false", [one for asked in told["old"] for one in asked.usual])]
    made += _of_crawls("theft-window", CRAWLS, SHARES, found, notes)
    made += _of_crawls("theft-window-fresh", FRESH, SHARES, found, notes)
    made.append(_share("theft-window-young-false", [one for asked in told["young"] for one in asked.usual]))
    (habits,), (among,) = told["habits"], told["among crawls"]
    notes["prompts at hand"], notes["one crawl in ten accounts taught"] = {}, {}
    made.append(_share("theft-window-habit-false", habits.usual))
    made += _of_crawls("theft-window-habit", EVERY, SHARES[:3], habits.found, notes["prompts at hand"])
    about = notes["one crawl in ten accounts taught"]
    return made + _of_crawls("theft-window-among-crawls", EVERY, SHARES[:1], among.found, about)


def _ask(job: tuple[str, int]) -> Asked:
    kind, number = job
    seeds, found = count(FIRST_SEED + 10_000 * number), dict[tuple[str, float], list[bool]]()
    watch = WindowWatch(SETTINGS, np.random.default_rng(number))
    if kind == "young":  # it knows as little as it may know to say anything
        _people(watch, person, seeds, MIN_RESERVOIR // PER_WINDOW + MIN_WINDOWS)
        return Asked(_people(watch, person, seeds, NUM_NEXT), found)
    if kind == "among crawls":  # one in ten of the accounts that it learns from crawls already
        crawls = list(EVERY.values())
        for place, seed in enumerate(_some(seeds, NUM_TAUGHT)):
            _fill(watch, crawls[place // 10 % len(crawls)] if place % 10 == 0 else person(seed), seed)
        _crawl(watch, person, seeds, SHARES[:1], found)
        return Asked([], found)
    who, shares = (person, SHARES) if kind == "old" else (habitual, SHARES[:3])
    _people(watch, who, seeds, NUM_TAUGHT)
    usual = _people(watch, who, seeds, NUM_USUAL)
    _crawl(watch, who, seeds, shares, found)
    return Asked(usual, found)


def _people(watch: WindowWatch, who: Person, seeds: Iterator[int], size: int) -> list[bool]:
    return [_fill(watch, who(seed), seed) for seed in _some(seeds, size)]


def _crawl(watch: WindowWatch, beside: Person, seeds: Iterator[int], shares: Iterable[float], found: Found) -> None:
    """Some accounts of each crawl. All are one tenant's: else they would soon be what is usual."""
    for share in shares:
        for name, crawl in EVERY.items():
            for seed in _some(seeds, NUM_CRAWLS):
                seen = _fill(watch, mixed(crawl, beside(seed), share), seed, "crawls")
                found.setdefault((name, share), []).append(seen)


def _some(seeds: Iterator[int], size: int) -> list[int]:
    return [next(seeds) for _ in range(size)]


def _fill(watch: WindowWatch, draw: Draw, seed: int, tenant: str = "") -> bool:
    account, seen = f"account {seed}", None
    for text in inputs(draw, Random(account), SETTINGS.window_size):
        seen = watch.add(account, tenant or account, "chat", text)
    assert seen is not None
    return seen.is_unusual


def _all_found(watches: Iterable[Asked]) -> Found:
    every: Found = {}
    for asked in watches:
        for what, windows in asked.found.items():
            every.setdefault(what, []).extend(windows)
    return every


def _of_crawls(
    measure: str, names: Iterable[str], shares: Iterable[float], found: Found, notes: dict[str, Any]
) -> list[Row]:
    made = []
    for share in shares:
        notes.update({f"{name}, {share:.0%} of a window": _told(found[name, share]) for name in names})
        made.append(_share(f"{measure}-{share:.0%}", [one for name in names for one in found[name, share]]))
    return made


def _share(measure: str, windows: list[bool]) -> Row:
    made = Row(measure, "% of windows", 100.0 * sum(windows) / len(windows), n=len(windows))
    low, high = interval(sum(windows), len(windows))
    made.samples["interval"] = [100.0 * low, 100.0 * high]
    return made


def _told(windows: list[bool]) -> str:
    low, high = interval(sum(windows), len(windows))
    return f"{sum(windows)} of {len(windows)} ({low:.1%} to {high:.1%})"


def interval(num_found: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share."""
    share, spread = num_found / total, z * z / total
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))
