"""Question: how many texts a second become vectors, beside sentence-transformers on the CPU, and how far apart?

    embed-256         256 texts of mixed length, from a few words to more than the model takes
    embed-256-long    256 texts that fill the model's 256 tokens

Texts per second, tokenising included, all handed over at once; both sides use the same number of threads and take
turns.
The peer runs in float32, its default, and in bfloat16, each at the batch size that was best in a short run
(`screening`); the row is beside the faster of both, the samples hold both. It sorts texts by length, so that batches
hold little padding. `facts` holds the texts' lengths, tokens per second, and the cosine distance between our vectors
and its float32 ones: the largest, and the mean.
Windows of one text, from a fixed seed.
"""

import argparse
import asyncio
import base64
import itertools
import os
import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.peers.process import PeerProcess
from bench.report import Row, publish, row
from headrace.engine.config import EngineConfig
from headrace.engine.embedded import Engine
from headrace.models.store import default_home, resolve
from headrace.models.tokenizer import Tokenizer

TEXT = Path(__file__).parents[1] / "tests" / "oracle" / "vectors" / "text.txt"
MODEL = "all-minilm-l6-v2"
COUNT = 256
MAX_TOKENS = 256
BATCHES = (8, 16, 32, 64, 128)
DTYPES = ("float32", "bfloat16")
PEER = "sentence-transformers"


def mixed() -> list[str]:
    """Windows of 3 to 250 words, short ones more often."""
    words, chance = TEXT.read_text().split(), random.Random(7)
    lengths = [round(3 * (250 / 3) ** chance.random()) for _ in range(COUNT)]
    starts = [chance.randrange(len(words) - length) for length in lengths]
    return [" ".join(words[start : start + length]) for start, length in zip(starts, lengths, strict=True)]


def long() -> list[str]:
    """Windows of 300 words, which are more than 256 tokens."""
    words, chance = TEXT.read_text().split(), random.Random(8)
    starts = [chance.randrange(len(words) - 300) for _ in range(COUNT)]
    return [" ".join(words[start : start + 300]) for start in starts]


MEASURES = {"embed-256": mixed, "embed-256-long": long}


def lengths_of(texts: Sequence[str], folder: Path) -> list[int]:
    """Tokens of each text as the model takes it."""
    tokenizer = Tokenizer.from_files(folder)
    return [len(tokenizer.encode_input(text, max_tokens=MAX_TOKENS)[0]) for text in texts]


async def seconds_of(engine: Engine, texts: Sequence[str]) -> tuple[float, NDArray[np.float32]]:
    """How long ours takes for all texts, and their vectors."""
    begin = time.perf_counter()
    vectors = await engine.embed(texts, truncate=True)
    return time.perf_counter() - begin, vectors


def best_settings(peer: PeerProcess, texts: Sequence[str]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """The peer's best batch size for each type on these texts, and texts per second at each."""
    rates = {}
    for batch, dtype in itertools.product(BATCHES, DTYPES):
        peer("embed", texts=texts[:batch], batch=batch, dtype=dtype)
        seconds = [float(peer("embed", texts=texts, batch=batch, dtype=dtype)["seconds"]) for _ in range(2)]
        rates[batch, dtype] = len(texts) / min(seconds)
    best = [{"batch": max(BATCHES, key=lambda batch: rates[batch, dtype]), "dtype": dtype} for dtype in DTYPES]
    return best, {f"batch {batch}, {dtype}": rate for (batch, dtype), rate in rates.items()}


async def measure(name: str, engine: Engine, peer: PeerProcess | None, repeats: int) -> tuple[Row, dict[str, Any]]:
    """The row of one measure, and what it says of the texts and vectors."""
    texts = MEASURES[name]()
    lengths = lengths_of(texts, resolve(MODEL, default_home(os.environ)))
    ours: list[float] = []
    theirs: dict[str, list[float]] = {}
    screening: dict[str, float] = {}
    settings: list[dict[str, Any]] = []
    if peer is not None:
        settings, screening = best_settings(peer, texts)
    _, vectors = await seconds_of(engine, texts)
    for _ in range(repeats):
        ours.append(COUNT / (await seconds_of(engine, texts))[0])
        for setting in settings:
            assert peer is not None
            seconds = float(peer("embed", texts=texts, **setting)["seconds"])
            theirs.setdefault(f"{PEER}, {setting['dtype']}, batch {setting['batch']}", []).append(COUNT / seconds)
    made = row(name, "texts/s", ours, theirs)
    made.screening = screening
    facts: dict[str, Any] = {
        "tokens": {"least": min(lengths), "median": statistics.median(lengths), "most": max(lengths)},
        "tokens_in_all": sum(lengths),
        "tokens_per_second": made.ours * sum(lengths) / COUNT,
    }
    if peer is not None:
        raw = base64.b64decode(peer("vectors", texts=texts, batch=32, dtype="float32")["vectors"])
        distances = 1 - (vectors * np.frombuffer(raw, "<f4").reshape(vectors.shape)).sum(axis=1)
        facts["cosine_distance"] = {"largest": float(distances.max()), "mean": float(distances.mean())}
    print(name, facts, flush=True)
    return made, facts


async def run(options: argparse.Namespace) -> None:
    """Measure what was asked for, and publish it."""
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    config: dict[str, Any] = {"model": MODEL, "threads": options.threads, "weights": "8 bits", "activations": "8 bits"}
    with ExitStack() as stack:
        peer = None
        if options.peer:
            peer = stack.enter_context(PeerProcess(PEER, "sentence_transformers_worker.py"))
            folder = str(resolve(MODEL, default_home(os.environ)))
            config["peer"] = peer("open", model=folder, threads=options.threads)
        async with Engine.open(MODEL, config=EngineConfig(threads=options.threads)) as engine:
            for name in options.only or MEASURES:
                made, facts[name] = await measure(name, engine, peer, options.repeats)
                rows.append(made)
    publish("embed", config, rows, options.json, {"facts": facts})


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", choices=[PEER])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", type=lambda text: text.split(","), help="measures, by comma")
    parser.add_argument("--json", type=Path)
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
