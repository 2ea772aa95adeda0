"""How many crawls do windows of inputs find, and how many people do they call unusual? Rows of `python -m bench.trust`.

All traffic is made up (`traffic.py`), and fresh: what the test of windows was chosen on has other seeds, and of the
crawls it has seen `CRAWLS` and never `FRESH`. Several watches, since what is usual is drawn by chance, too. Shares come
with the interval that so few allow (Wilson 1927, 95 %). Knows no model and no gateway.
"""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from random import Random
from typing import Any, Final

import numpy as np

from bench.report import Row
from bench.trust.traffic import CRAWLS, FRESH, Draw, habitual, inputs, mixed, person
from headrace.trust.monitors.theft.settings import TheftSettings
from headrace.trust.monitors.theft.windows import MIN_RESERVOIR, MIN_WINDOWS, PER_WINDOW, Seen, WindowWatch

SETTINGS: Final = TheftSettings()
NUM_WATCHES, NUM_TAUGHT, NUM_USUAL, NUM_CRAWLS = 5, 300, 600, 8
"""Watches; and of each, accounts that it learns from, accounts that it is asked about, and accounts of each crawl."""
NUM_YOUNG, NUM_NEXT = 10, 30
"""Watches that have just begun to speak, and of each the accounts that come next."""
SHARES: Final = (1.0, 0.5, 0.25, 0.1, 0.05)
FIRST_SEED: Final = 1_000_000
EVERY: Final[Mapping[str, Draw]] = {**CRAWLS, **FRESH}

Person = Callable[[int], Draw]


def rows(options: argparse.Namespace, notes: dict[str, Any]) -> list[Row]:
    """All of them."""
    seeds = count(FIRST_SEED)
    made = _old_watches(seeds, notes)
    made.append(_young_watches(seeds, notes))
    made += _habits(seeds, notes)
    made.append(_among_crawls(seeds, notes))
    notes["windows"] = (
        f"of {SETTINGS.window_size} inputs; {NUM_WATCHES} watches of {NUM_TAUGHT} accounts taught and {NUM_USUAL} "
        f"others, and {NUM_CRAWLS} accounts of each crawl beside people of their own; all over the same texts"
    )
    return made


def _old_watches(seeds: Iterator[int], notes: dict[str, Any]) -> list[Row]:
    usual: list[Seen] = []
    found: dict[tuple[str, float], list[Seen]] = {}
    for number in range(NUM_WATCHES):
        watch = _taught(number, person, seeds, NUM_TAUGHT)
        mine = [_fill(watch, person(seed), seed) for seed in _some(seeds, NUM_USUAL)]
        notes[f"watch {number + 1}, people"] = _told(mine)
        usual += mine
        _crawl(watch, person, seeds, SHARES, found)
    made = [_share("theft-window-false", usual)]
    made += _of_crawls("theft-window", CRAWLS, SHARES, found, notes)
    return made + _of_crawls("theft-window-fresh", FRESH, SHARES, found, notes)


def _young_watches(seeds: Iterator[int], notes: dict[str, Any]) -> Row:
    """Those that know as little as they may know to say anything."""
    usual: list[Seen] = []
    for number in range(NUM_YOUNG):
        watch = _taught(100 + number, person, seeds, MIN_RESERVOIR // PER_WINDOW + MIN_WINDOWS)
        usual += [_fill(watch, person(seed), seed) for seed in _some(seeds, NUM_NEXT)]
    notes["young"] = f"{NUM_YOUNG} watches of {MIN_WINDOWS} windows, {NUM_NEXT} accounts after each: {_told(usual)}"
    return _share("theft-window-young-false", usual)


def _habits(seeds: Iterator[int], notes: dict[str, Any]) -> list[Row]:
    """Where one person in three has a prompt at hand: what repeats itself is more usual there."""
    usual: list[Seen] = []
    found: dict[tuple[str, float], list[Seen]] = {}
    shares = SHARES[:3]
    for number in range(2):
        watch = _taught(200 + number, habitual, seeds, NUM_TAUGHT)
        usual += [_fill(watch, habitual(seed), seed) for seed in _some(seeds, NUM_USUAL)]
        _crawl(watch, habitual, seeds, shares, found)
    told: dict[str, Any] = {}
    made = [_share("theft-window-habit-false", usual)]
    made += _of_crawls("theft-window-habit", EVERY, shares, found, told)
    notes["prompts at hand"] = told
    return made


def _among_crawls(seeds: Iterator[int], notes: dict[str, Any]) -> Row:
    """Where one in ten of the accounts that a watch learns from crawls already."""
    watch, crawls = WindowWatch(SETTINGS, np.random.default_rng(300)), list(EVERY.values())
    for place, seed in enumerate(_some(seeds, NUM_TAUGHT)):
        _fill(watch, crawls[place // 10 % len(crawls)] if place % 10 == 0 else person(seed), seed)
    found: dict[tuple[str, float], list[Seen]] = {}
    for _ in range(2):
        _crawl(watch, person, seeds, SHARES[:1], found)
    told: dict[str, Any] = {}
    (row,) = _of_crawls("theft-window-among-crawls", EVERY, SHARES[:1], found, told)
    notes["one crawl in ten accounts taught"] = told
    return row


def _taught(number: int, who: Person, seeds: Iterator[int], size: int) -> WindowWatch:
    watch = WindowWatch(SETTINGS, np.random.default_rng(number))
    for seed in _some(seeds, size):
        _fill(watch, who(seed), seed)
    return watch


def _crawl(
    watch: WindowWatch,
    beside: Person,
    seeds: Iterator[int],
    shares: Iterable[float],
    found: dict[tuple[str, float], list[Seen]],
) -> None:
    """Some accounts of each crawl. All are one tenant's: else they would soon be what is usual."""
    for share in shares:
        for name, crawl in EVERY.items():
            for seed in _some(seeds, NUM_CRAWLS):
                seen = _fill(watch, mixed(crawl, beside(seed), share), seed, "crawls")
                found.setdefault((name, share), []).append(seen)


def _some(seeds: Iterator[int], size: int) -> list[int]:
    return [next(seeds) for _ in range(size)]


def _fill(watch: WindowWatch, draw: Draw, seed: int, tenant: str = "") -> Seen:
    account, seen = f"account {seed}", None
    for text in inputs(draw, Random(account), SETTINGS.window_size):
        seen = watch.add(account, tenant or account, "chat", text)
    assert seen is not None
    return seen


def _of_crawls(
    measure: str,
    names: Iterable[str],
    shares: Iterable[float],
    found: Mapping[tuple[str, float], list[Seen]],
    notes: dict[str, Any],
) -> list[Row]:
    made = []
    for share in shares:
        notes.update({f"{name}, {share:.0%} of a window": _told(found[name, share]) for name in names})
        made.append(_share(f"{measure}-{share:.0%}", [seen for name in names for seen in found[name, share]]))
    return made


def _share(measure: str, windows: Iterable[Seen]) -> Row:
    found = [one.is_unusual for one in windows]
    made = Row(measure, "% of windows", 100.0 * sum(found) / len(found), n=len(found))
    low, high = interval(sum(found), len(found))
    made.samples["interval"] = [100.0 * low, 100.0 * high]
    return made


def _told(windows: list[Seen]) -> str:
    num_found = sum(one.is_unusual for one in windows)
    low, high = interval(num_found, len(windows))
    return f"{num_found} of {len(windows)} ({low:.1%} to {high:.1%})"


def interval(num_found: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share."""
    share, spread = num_found / total, z * z / total
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))
