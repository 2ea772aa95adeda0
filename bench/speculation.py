"""Question: what do guessed tokens bring where answers repeat what was said before, and what do they cost elsewhere?

    edit-1-*, extract-1-*            one stream: answers that repeat a text of the prompt with small changes, or parts
    chat-1-*, -2-, -4-, -8-, -32-*   so many different questions at once, answered freely

Each in two kinds: `greedy`, and `t0.8` (temperature 0.8, a seed for each prompt). New tokens per second, prompts
computed beforehand; ours is `speculation = auto`, the peer the same engine with `off`. Both take turns on the same
prompts, under a salt that nobody has used before, so that an answer never finds itself among earlier outputs; answers
end where the model ends them. The tokens of both sides must be the same, or the run fails. `facts` in the document: for
every measure the mean ratio and its 95 % interval over pairs, tokens per step and stream, what share of drafted tokens
was accepted.
"""

import argparse
import asyncio
import math
import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import Row, publish, row
from headrace.core.clock import SystemClock
from headrace.core.request import Message, Role, Sampling, TextPart
from headrace.engine.config import KV_TYPES, EngineConfig, detect_hardware, resolve
from headrace.engine.draft.drafter import Drafter
from headrace.engine.engine import Engine
from headrace.engine.item import Failed, Token
from headrace.engine.kv.gate import choose_kind
from headrace.engine.kv.salt import Salt
from headrace.engine.lane import EngineModel
from headrace.engine.mailbox import Mailbox
from headrace.engine.sequence import Work
from headrace.kernels import native
from headrace.kernels.plan import KvKind
from headrace.models.load import LoadedModel, load_model
from headrace.models.store import default_home
from headrace.models.store import resolve as resolve_model

POOL_BYTES = 2**30
MOST_NEW = 224
STREAMS = (1, 2, 4, 8, 32)
TEMPERATURES = {"greedy": 0.0, "t0.8": 0.8}

MILL = (
    "The old mill stood at the bend of the river, where the water ran fast in spring and slow in August. Anna had "
    "bought it from her uncle, who had ground rye there for forty years. She mended the wheel, cleaned the headrace "
    "and painted the door green. In June the first visitors came, and by October she had sold four hundred loaves of "
    "bread."
)
LAKE = (
    "The survey took three days. On Monday the team measured the depth of the lake at twelve points and noted the "
    "wind. On Tuesday they took samples of water at each point, two bottles from the surface and two from the "
    "bottom. On Wednesday a storm came up after noon, so the last four points were measured from the shore. All "
    "samples were sent to the laboratory in Graz on Thursday morning, where they arrived in good order."
)
RENT = (
    "The tenant pays the rent by the third working day of each month. The landlord keeps the roof, the heating and "
    "the water pipes in good repair. Either side may end the contract with three months' notice in writing. Pets are "
    "allowed if the neighbours agree. The deposit of two monthly rents is returned within six weeks after the keys "
    "were handed over, less the cost of damage that the tenant caused."
)
CODE = """\
def parse_header(line):
    name, _, value = line.partition(":")
    if not name.strip():
        raise ValueError("a header needs a name")
    return name.strip().lower(), value.strip()


def parse_headers(lines):
    headers = {}
    for line in lines:
        if not line:
            break
        name, value = parse_header(line)
        headers.setdefault(name, []).append(value)
    return headers
"""
MISSPELT = LAKE.replace("measured", "mesured").replace("bottles", "botles").replace("laboratory", "labratory")
EDITS = (
    f"Copy this text and replace Anna by Maria:\n\n{MILL}",
    f"Correct the spelling of this text and write it out in full:\n\n{MISSPELT}",
    f"Repeat this text word by word, with the heading Contract above it:\n\n{RENT}",
    f"Repeat this code, with a comment on top:\n\n```python\n{CODE}```",
)
EXTRACTS = (
    f"{LAKE}\n\nQuote from this text, word by word, what happened on Tuesday and Wednesday.",
    f"Extract all sentences with a number from this text:\n\n{LAKE} {RENT}",
    f"List the sentences of this text, one on each line:\n\n{MILL} {RENT}",
    f"{MILL}\n\nWrite out the sentences of this text in which Anna does something.",
)
SUBJECTS = ("bees", "tides", "bread", "volcanoes", "bicycles", "glass", "the printing press", "sleep")
QUESTIONS = tuple(
    pattern.format(subject)
    for pattern in (
        "What should everybody know about {}?",
        "Tell me a short story about {}.",
        "Give me three questions for an exam about {}.",
        "Why did people become interested in {}?",
    )
    for subject in SUBJECTS
)
TASKS = {"edit-1": (EDITS, 1), "extract-1": (EXTRACTS, 1)} | {
    f"chat-{streams}": (QUESTIONS[: max(4, streams)], streams) for streams in STREAMS
}


@dataclass(slots=True)
class Side:
    """An engine of the model, with or without a drafter."""

    model: LoadedModel
    threads: native.Threads
    kv: KvKind
    drafter: Drafter | None
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        config = resolve(EngineConfig(threads=self.threads.count, kv_memory_bytes=POOL_BYTES), detect_hardware())
        lane = EngineModel(
            name="m",
            program=self.model.program,
            cache=self.model.plan.cache,
            context_length=self.model.context_length,
            kv_kind=self.kv,
            speculator=self.drafter,
        )
        self.engine = Engine(config, [lane], self.threads, SystemClock())
        self.engine.start()

    def answer(self, works: list[Work], streams: int) -> tuple[float, int, list[list[int]]]:
        """Seconds and steps for all answers, so many at once, and their tokens; their prompts are warm."""

        async def everything() -> list[list[int]]:
            answers: list[list[int]] = []
            for start in range(0, len(works), streams):
                answers += await asyncio.gather(*map(self._one, works[start : start + streams]))
            return answers

        steps, started = self.engine.times.num_steps, time.perf_counter()
        answers = asyncio.run(everything())
        return time.perf_counter() - started, self.engine.times.num_steps - steps, answers

    async def _one(self, work: Work) -> list[int]:
        mailbox = Mailbox(asyncio.get_running_loop())
        self.engine.submit(work, mailbox)
        tokens: list[int] = []
        while True:
            for item in await mailbox.take():
                if isinstance(item, Failed):
                    raise item.error
                if isinstance(item, Token):
                    tokens.append(item.token)
                    if item.reason is not None:
                        return tokens


class Bench:
    """Both sides, and the prompts as tokens."""

    def __init__(self, model: LoadedModel, threads: native.Threads, kv: KvKind, repeats: int) -> None:
        self.model, self.repeats = model, repeats
        self.drafter = Drafter()
        self.on = Side(model, threads, kv, self.drafter)
        self.off = Side(model, threads, kv, None)
        self.facts: dict[str, dict[str, float]] = {}

    def close(self) -> None:
        """Stop both engines."""
        self.on.engine.close()
        self.off.engine.close()

    def measure(self, task: str, kind: str) -> Row:
        """A task in one kind: both sides in turn, after a run of each that is not counted."""
        prompts, streams = TASKS[task]
        rates: dict[bool, list[float]] = {True: [], False: []}
        tokens_per_step = 0.0
        for number in range(self.repeats + 1):
            answers: dict[bool, list[list[int]]] = {}
            order = (True, False) if number % 2 else (False, True)
            if number == 1:
                self.drafter.tally()
            for is_on in order:
                side = self.on if is_on else self.off
                works = self.works(prompts, TEMPERATURES[kind])
                # One token each: its prompt is computed, and nothing worth remembering said.
                side.answer([_limited(work, 1) for work in works], streams)
                seconds, steps, answers[is_on] = side.answer(works, streams)
                total = sum(map(len, answers[is_on]))
                if number:
                    rates[is_on].append(total / seconds)
                if is_on:
                    tokens_per_step = total / steps
            if answers[True] != answers[False]:
                raise SystemExit(f"{task}-{kind}: speculation changed what was generated")
        self.facts[f"{task}-{kind}"] = self._facts(rates, tokens_per_step / streams)
        return row(f"{task}-{kind}", "tokens/s", rates[True], {"speculation off": rates[False]})

    def works(self, prompts: tuple[str, ...], temperature: float) -> list[Work]:
        """The prompts as work, under a salt of their own."""
        model, salt = self.model, Salt(caller=os.urandom(8).hex())
        assert model.template is not None
        works = []
        for seed, prompt in enumerate(prompts):
            messages = [Message(Role.USER, (TextPart(prompt),))]
            works.append(
                Work(
                    model="m",
                    tokens=np.array(model.template.encode_chat(model.tokenizer, messages), np.int32),
                    sampling=Sampling(temperature=temperature),
                    seed=seed,
                    max_tokens=MOST_NEW,
                    stop_ids=model.tokenizer.eos_ids,
                    salt=salt,
                )
            )
        return works

    def _facts(self, rates: dict[bool, list[float]], tokens_per_step: float) -> dict[str, float]:
        tally = self.drafter.tally()
        low, mean, high = paired_interval(rates[True], rates[False])
        return {
            "ratio_mean": mean,
            "ratio_low": low,
            "ratio_high": high,
            "tokens_per_step": tokens_per_step,
            "drafted": tally.num_drafted / self.repeats,
            "accepted_share": tally.num_accepted / max(1, tally.num_drafted),
        }


def paired_interval(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """The mean ratio of pairs between the ends of its 95 % interval (Student's t; no width for fewer than two)."""
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    mean, count = statistics.fmean(ratios), len(ratios)
    if count < 2:
        return mean, mean, mean
    quantile = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)[count - 2] if count < 11 else 2.2
    half = quantile * statistics.stdev(ratios) / math.sqrt(count)
    return mean - half, mean, mean + half


def _limited(work: Work, max_tokens: int) -> Work:
    return Work(
        model=work.model,
        tokens=work.tokens,
        sampling=work.sampling,
        seed=work.seed,
        max_tokens=max_tokens,
        salt=work.salt,
    )


def measure(bench: Bench, wanted: str) -> list[Row]:
    """All rows whose names have one of the wanted parts, told as they come."""
    parts = [part for part in wanted.split(",") if part]
    rows = []
    for task in TASKS:
        for kind in TEMPERATURES:
            name = f"{task}-{kind}"
            if parts and not any(part in name for part in parts):
                continue
            made = bench.measure(task, kind)
            rows.append(made)
            facts = ", ".join(f"{key} {value:.3g}" for key, value in bench.facts[name].items())
            print(f"  {name}: {made.ours:,.0f} beside {made.peer or 0:,.0f}, {facts}", file=sys.stderr)
    return rows


def main() -> None:
    """Measure and publish."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.speculation", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", default="", help="comma-separated parts of measures' names")
    parser.add_argument("--kv-type", choices=list(KV_TYPES), default="auto", help="as of `headrace serve`")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    home = default_home(os.environ)
    path = resolve_model(options.model, home)
    model = load_model(path, cache_dir=home / "packed")
    threads = native.Threads(options.threads)
    decision = choose_kind(model, KV_TYPES[options.kv_type], threads)
    bench = Bench(model, threads, decision.kind, options.repeats)
    try:
        rows = measure(bench, options.only)
    finally:
        bench.close()
        threads.close()
    config: dict[str, Any] = {
        "model": path.name,
        "threads": options.threads,
        "kernels": native.variant(),
        "kv": f"{decision.kv_type} on both sides",
        "answers": f"at most {MOST_NEW} tokens, ended where the model ends them",
    }
    publish("speculation", config, rows, options.json, {"facts": bench.facts})


if __name__ == "__main__":
    main()
