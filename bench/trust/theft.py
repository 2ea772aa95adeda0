"""What does the monitor of theft stop? The hidden size of SmolLM2 through a whole gateway, without the monitor and with
it. Rows of `python -m bench.trust`; what windows of inputs find is `windows.py`.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path
from random import Random
from typing import Any, Final

import headrace
from bench.report import Row
from bench.trust.extraction import ATTACKS, Account, Aim, insist, rank_of
from bench.trust.guarded import Guarded, guarded
from bench.trust.traffic import passages
from headrace.core.events import Event
from headrace.core.request import Principal, Request
from headrace.models.load import load_model
from headrace.models.store import default_home, resolve
from headrace.trust.monitors.theft.settings import Mode, TheftSettings

MODEL: Final = "smollm2-135m-instruct"
HIDDEN: Final = 576
MARGIN: Final = 12
TIMES: Final = 10
"""How many times its budget an attack gets where it is watched."""
ENFORCED: Final = TheftSettings(mode=Mode.ENFORCE, window_size=0)
PROBER: Final = Principal(tenant="t", key="probe", subject="key:probe")
REFUSED: Final = ("bias", "choices", "heat", "form", "score", "echo", "bisection")


def rows(options: argparse.Namespace, notes: dict[str, Any]) -> list[Row]:
    """All of them."""
    return asyncio.run(_extraction(notes))


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


def _one(measure: str, unit: str, value: float) -> Row:
    return Row(measure, unit, value, n=1)
