"""What does the monitor of theft stop, on a real model and on made-up traffic? Rows of `python -m bench.trust`.

Extraction: the hidden size of SmolLM2 through a whole gateway, without the monitor and with it. Windows: how many
crawls are found, how many people are called unusual, each with the interval that so few allow (Wilson 1927, 95 %).
"""

import argparse
import asyncio
import math
import os
import tempfile
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from random import Random
from typing import Any, Final

import numpy as np

import headrace
from bench.report import Row
from bench.trust.extraction import ATTACKS, Account, Aim, insist, rank_of
from bench.trust.guarded import Guarded, guarded
from bench.trust.traffic import CRAWLS, Draw, inputs, mixed, passages, person
from headrace.core.events import Event
from headrace.core.request import Principal, Request
from headrace.models.load import load_model
from headrace.models.store import default_home, resolve
from headrace.trust.monitors.theft.settings import Mode, TheftSettings
from headrace.trust.monitors.theft.windows import Seen, WindowWatch

MODEL: Final = "smollm2-135m-instruct"
HIDDEN: Final = 576
MARGIN: Final = 12
TIMES: Final = 10
"""How many times its budget an attack gets where it is watched."""
ENFORCED: Final = TheftSettings(mode=Mode.ENFORCE, window_size=0)
PROBER: Final = Principal(tenant="t", key="probe", subject="key:probe")
REFUSED: Final = ("bias", "choices", "heat", "form", "score", "echo", "bisection")
NUM_TAUGHT, NUM_USUAL, NUM_CRAWLS = 300, 600, 40
SHARES: Final = (1.0, 0.5, 0.25, 0.1, 0.05)


def rows(options: argparse.Namespace, notes: dict[str, Any]) -> list[Row]:
    """All of them."""
    return [*asyncio.run(_extraction(notes)), *_windows(notes)]


def _aim(path: Path, num_queries: int) -> Aim:
    """Contexts of one word, and single tokens of which none begins another."""
    tokenizer = load_model(path).tokenizer
    random = Random(1)
    words = sorted({word for topic in passages() for one in topic for word in one.split() if word.isalpha()})
    found: dict[int, str] = {}
    for word in random.sample(words, len(words)):
        ids = tokenizer.encode(f" {word}")
        if len(ids) == 1:
            found[int(ids[0])] = f" {word}"
    size = HIDDEN + MARGIN
    columns = dict(list(found.items())[:size])
    contexts = tuple(text.strip() for text in list(found.values())[-size:])
    return Aim(contexts, tuple(columns), tuple(columns.values()), num_queries)


async def _extraction(notes: dict[str, Any]) -> list[Row]:
    path = resolve(MODEL, default_home(os.environ))
    made: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        async with headrace.Engine.open(MODEL) as engine:
            async with guarded(engine, Path(folder), None) as at:
                account = Account(at.gate.run, MODEL, PROBER)
                rank = rank_of(await ATTACKS["score"](account, _aim(path, 10**9)))
                made.append(_one("theft-rank-unwatched", "hidden size found", float(rank.size or 0)))
                made.append(_one("theft-rank-queries", "requests", float(account.num_queries)))
                notes["unwatched"] = f"{rank.rows} x {rank.columns}, singular values fall {rank.drop:.3g} times"
            budget = TIMES * account.num_queries
            sizes, flagged = [], []
            for name in REFUSED:
                async with guarded(engine, Path(folder), ENFORCED) as at:
                    size, after = await _watched(at, name, _aim(path, budget))
                    sizes.append(size)
                    flagged.append(after)
                    notes[f"watched, {name}"] = f"{budget} requests: size {size or 'not found'}, flagged after {after}"
            async with guarded(engine, Path(folder), ENFORCED) as at:
                account = Account(at.gate.run, MODEL, PROBER)
                rank = rank_of(await ATTACKS["top"](account, _aim(path, 10**9)))
                notes["what everybody is told"] = f"largest whole part {rank.rows} x {rank.columns}; size {rank.size}"
                sizes.append(rank.size or 0)
    made.append(_one("theft-rank-watched", "hidden size found", float(max(sizes))))
    made.append(_one("theft-flagged-after", "requests", float(max(flagged))))
    return made


async def _watched(at: Guarded, name: str, aim: Aim) -> tuple[int, int]:
    """What an attack finds, and after how many requests its account was flagged."""
    assert at.overseer is not None
    monitor, flagged = at.overseer.monitor, aim.num_queries + 1

    def run(request: Request) -> AsyncGenerator[Event, None]:
        nonlocal flagged
        if monitor.flags():
            flagged = min(flagged, account.num_queries - 1)
        return at.gate.run(request)

    account = Account(run, MODEL, PROBER)
    return rank_of(await insist(name, account, aim)).size or 0, flagged


def _windows(notes: dict[str, Any]) -> list[Row]:
    settings = TheftSettings()
    watch = WindowWatch(settings, np.random.default_rng(0))
    for index in range(NUM_TAUGHT):
        _fill(watch, f"taught {index}", person(index), index)
    usual = [_fill(watch, f"usual {index}", person(10_000 + index), index) for index in range(NUM_USUAL)]
    made = [_share("theft-window-false", usual)]
    for share in SHARES:
        every: list[Seen] = []
        for name, crawl in CRAWLS.items():
            found = [
                _fill(watch, f"{name} {share} {index}", mixed(crawl, person(20_000 + index), share), index, "crawls")
                for index in range(NUM_CRAWLS)
            ]
            notes[f"{name}, {share:.0%} of a window"] = _told(found)
            every += found
        made.append(_share(f"theft-window-{share:.0%}", every))
    notes["windows"] = (
        f"of {settings.window_size} inputs; {NUM_TAUGHT} accounts taught, {NUM_USUAL} others usual, "
        f"{len(CRAWLS)} crawls of {NUM_CRAWLS} accounts; all over the same texts"
    )
    return made


def _fill(watch: WindowWatch, account: str, draw: Draw, seed: int, tenant: str = "") -> Seen:
    """All crawls are one tenant's: else they would soon be what is usual."""
    seen = None
    for text in inputs(draw, Random(f"{account} {seed}"), TheftSettings().window_size):
        seen = watch.add(account, tenant or account, "chat", text)
    assert seen is not None
    return seen


def _share(measure: str, windows: Iterable[Seen]) -> Row:
    found = [one.is_unusual for one in windows]
    made = _one(measure, "% of windows", 100.0 * sum(found) / len(found))
    made.n = len(found)
    low, high = interval(sum(found), len(found))
    made.samples["interval"] = [100.0 * low, 100.0 * high]
    return made


def _told(windows: list[Seen]) -> str:
    count = sum(one.is_unusual for one in windows)
    low, high = interval(count, len(windows))
    return f"{count} of {len(windows)} ({low:.0%} to {high:.0%})"


def interval(count: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of a share."""
    share, spread = count / total, z * z / total
    middle = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def _one(measure: str, unit: str, value: float) -> Row:
    return Row(measure, unit, value, n=1)
