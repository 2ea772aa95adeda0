"""Question: how fast does the engine read and write tokens, beside llama.cpp at its best, and what does that cost?

    prefill-512, prefill-4096     tokens of one fresh prompt per second
    decode-1, -8, -32             new tokens per second over all streams, 64 each after 128, prefill excluded
    decode-1-ctx4096              the same for one stream after 4,096 tokens
    shared-32x1024                32 streams at once, from an empty cache: 1,024 tokens that they share and 16 of each
                                  one's own, 32 new tokens each; new tokens per second from submission to the end (the
                                  peer computes the prefix once and copies it within its cache)
    overhead-32                   decode-32: share of the time from step to step that is not in the native call
    http-1-share, http-32-share   the same decode through our own server, streaming, as a fraction of in-process
    lora-8                        decode-8 with an adapter of rank 16 on all linear layers for each stream, a different
                                  one; peer: ours without (llama.cpp cannot batch different adapters)
    grammar-8                     8 streams held to a JSON schema beside the same 8 streams free; samples hold the cost
                                  of a token
    nll                           mean negative log-likelihood (nats per token) on a recorded text; peer: float32
    nll-peer                      the same; peer: llama.cpp on the same file, token by token
    rss                           megabytes of a serving process beside its packed weights and keys and values
    start-s                       seconds of `headrace generate` for one token, process start and exit included
    moe-decode-1, -8, -32         milliseconds of a step of a mixture of experts; peer: a dense model with the same
                                  active parameters; both are random (`experts.py`)

Ours is measured through the engine's thread and its mailboxes, the peer through its low-level batch API; both greedy,
on the same random tokens. Of the peer's settings (`peers/llama.py`) a first short run of every one finds the best two,
which then take turns with ours; the better one's median is the row's peer, and `screening` keeps the first figures.
The document also holds `profile`: where a step's time goes, beside the machine's ceilings (`headrace doctor` shows it).
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench import adapters, experts
from bench.adapters import measure_adapters
from bench.grammar import measure_grammar
from bench.ours import Ours
from bench.peers.llama import LlamaCpp, running
from bench.quality import measure_nll
from bench.report import Row, publish, row
from bench.serving import http_share, resident, serving, start_seconds
from headrace.core.clock import SystemClock
from headrace.engine.config import KV_TYPES
from headrace.engine.kv.gate import choose_kind
from headrace.engine.roofline import Ceilings, Rig, StepShape, measure_ceilings, standing
from headrace.kernels import native
from headrace.models.load import load_model
from headrace.models.store import default_home
from headrace.models.store import resolve as resolve_model

PROMPT, NEW = 128, 64
MOST_STREAMS = 32
PREFILLS = {"prefill-512": 512, "prefill-4096": 4096}
SCREENED_PREFILL = 2048  # instead of longer ones: the order of settings does not need more
DECODES = {"decode-1": (1, PROMPT), "decode-8": (8, PROMPT), "decode-32": (32, PROMPT), "decode-1-ctx4096": (1, 4096)}
SHARED = "shared-32x1024"
PREFIX, TAIL, SHARED_NEW, SCREENED_NEW = 1024, 16, 32, 8
HTTP = {"http-1-share": 1, "http-32-share": 32}
LORA, GRAMMAR = "lora-8", "grammar-8"
MEASURES = (*PREFILLS, *DECODES, SHARED, "overhead-32", *HTTP, LORA, GRAMMAR, "nll", "rss", "start-s")
MOE = tuple(experts.STREAMS)
FINALISTS = 2
PROFILED = (
    StepShape("prefill-512", 1, 512, 0),
    StepShape("prefill-4096, last 512", 1, 512, 3584),
    StepShape("decode-1", 1, 1, PROMPT),
    StepShape("decode-8", 8, 1, PROMPT),
    StepShape("decode-32", 32, 1, PROMPT),
    StepShape("decode-1-ctx4096", 1, 1, 4096),
)
PROFILED_SECONDS = 1.0

Side = Ours | LlamaCpp
Attempt = Callable[[Side], float]


@dataclass(slots=True)
class Bench:
    """What all measures share."""

    ours: Ours
    peers: list[LlamaCpp]
    repeats: int
    rng: random.Random = field(default_factory=lambda: random.Random(20260301))

    def prompt(self, length: int) -> list[int]:
        """Random tokens; the first hundred are control tokens in some vocabularies."""
        return [self.rng.randrange(100, self.ours.model.plan.vocab_size) for _ in range(length)]

    def prompts(self, streams: int, length: int = PROMPT) -> list[list[int]]:
        """One more token each than is computed beforehand."""
        return [self.prompt(length + 1) for _ in range(streams)]

    def prefill(self, measure: str, length: int) -> Row:
        """Prompts that nobody has seen."""
        short = self.prompt(min(length, SCREENED_PREFILL))
        screening = {peer.name: peer.prefill(short) for peer in self.peers}
        self.ours.prefill(short)

        def attempt() -> Attempt:
            tokens = self.prompt(length)
            return lambda side: side.prefill(tokens)

        return self._alternate(measure, screening, attempt)

    def decode(self, measure: str, streams: int, length: int) -> Row:
        """The same prompts again and again; they are computed once and the tokens behind them forgotten."""
        prompts = self.prompts(streams, length)
        screening = {}
        for peer in self.peers:
            peer.prepare(prompts)
            screening[peer.name] = peer.decode(NEW // 2)
        self.ours.prepare(prompts)
        self.ours.decode(NEW)
        return self._alternate(measure, screening, lambda: lambda side: side.decode(NEW))

    def shared(self) -> Row:
        """A prefix that nobody has seen, and streams that share it."""

        def attempt(new: int) -> Attempt:
            prefix, tails = self.prompt(PREFIX), [self.prompt(TAIL) for _ in range(MOST_STREAMS)]
            return lambda side: side.shared(prefix, tails, new)

        first = attempt(SCREENED_NEW)
        screening = {peer.name: first(peer) for peer in self.peers}
        first(self.ours)
        return self._alternate(SHARED, screening, lambda: attempt(SHARED_NEW))

    def overhead(self) -> Row:
        """Shares of as many decodes as other measures have."""
        shares = []
        self.ours.prepare(self.prompts(MOST_STREAMS))
        for _ in range(self.repeats):
            self.ours.decode(NEW)
            shares.append(self.ours.program.share_outside(MOST_STREAMS))
        return row("overhead-32", "fraction", shares, {}, lower_is_better=True)

    def _alternate(self, measure: str, screening: dict[str, float], attempt: Callable[[], Attempt]) -> Row:
        """Ours and the best peer settings of the screening in turn, on the same input."""
        best = sorted(self.peers, key=lambda peer: -screening[peer.name])[:FINALISTS]
        ours: list[float] = []
        theirs: dict[str, list[float]] = {peer.name: [] for peer in best}
        for _ in range(self.repeats):
            once = attempt()
            ours.append(once(self.ours))
            for peer in best:
                theirs[peer.name].append(once(peer))
        made = row(measure, "tokens/s", ours, theirs)
        made.screening = screening
        return made


def measures(bench: Bench, name: str, path: Path) -> dict[str, Callable[[], list[Row]]]:
    """How each measure's rows are made, in the order in which they are."""
    ours = bench.ours

    def http(label: str) -> list[Row]:
        with serving(path, ours.num_threads, ours.kv) as server:
            return [http_share(server, ours, bench.prompts, HTTP[label], NEW, bench.repeats)]

    peer = bench.peers[0] if bench.peers else None
    return {
        **{label: partial(lambda m, n: [bench.prefill(m, n)], label, length) for label, length in PREFILLS.items()},
        **{label: partial(lambda m, d: [bench.decode(m, *d)], label, shape) for label, shape in DECODES.items()},
        SHARED: lambda: [bench.shared()],
        "overhead-32": lambda: [bench.overhead()],
        **{label: partial(http, label) for label in HTTP},
        LORA: lambda: measure_adapters(path, ours, bench.prompts(adapters.STREAMS), NEW, bench.repeats, LORA),
        GRAMMAR: lambda: measure_grammar(ours, NEW, bench.repeats, GRAMMAR),
        "nll": lambda: measure_nll(path, ours.model, ours.threads, ours.kv, peer),
        "rss": lambda: [resident(path, ours, bench.prompts)],
        "start-s": lambda: [start_seconds(name, bench.repeats)],
    }


def measure(bench: Bench, name: str, path: Path, wanted: Callable[[str], bool]) -> list[Row]:
    """All rows that were asked for, told as they come."""
    rows: list[Row] = []
    for label, make in measures(bench, name, path).items():
        if not wanted(label):
            continue
        started = time.monotonic()
        for one in make():
            print(
                f"  {one.measure}: ours {one.ours:,.4g}, peer {one.peer or 0:,.4g} ({one.peer_name}), "
                f"{time.monotonic() - started:.0f} s",
                file=sys.stderr,
            )
            rows.append(one)
    return rows


def profile(ours: Ours) -> dict[str, Any]:
    """Ceilings, and where the time of every kind of step goes."""
    # Before and after: a moment's disturbance may lower a ceiling, nothing raises it.
    first = measure_ceilings(ours.threads)
    rig = Rig(ours.model, ours.threads, ours.kv, SystemClock())
    profiles = [rig.profile(shape, PROFILED_SECONDS) for shape in PROFILED]
    second = measure_ceilings(ours.threads)
    ceilings = Ceilings(
        max(first.read_bandwidth, second.read_bandwidth), max(first.multiply_rate, second.multiply_rate)
    )
    return {
        "read_bandwidth": ceilings.read_bandwidth,
        "multiply_rate": ceilings.multiply_rate,
        "steps": [standing(profile, ceilings) for profile in profiles],
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--peer", action="append", default=[], choices=["llama.cpp"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="comma-separated measures, or parts of their names")
    parser.add_argument("--kv-type", choices=list(KV_TYPES), default="auto", help="as of `headrace serve`")
    parser.add_argument("--no-profile", action="store_true", help="leave out where the time of a step goes")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def wants(only: str) -> Callable[[str], bool]:
    """A measure's whole name asks for it alone, a part of names for all that have it. SystemExit for what none has."""
    parts = [part for part in only.split(",") if part]
    for part in parts:
        if not any(part in measure for measure in (*MEASURES, *MOE)):
            raise SystemExit(f"--only: {part!r} is part of no measure; there are {', '.join((*MEASURES, *MOE))}")
    whole = {*MEASURES, *MOE}
    return lambda measure: not parts or any(part == measure if part in whole else part in measure for part in parts)


def measure_model(options: argparse.Namespace, wanted: Callable[[str], bool]) -> tuple[list[Row], dict[str, Any]]:
    """The rows of the named model, and what belongs to the document's config."""
    path = resolve_model(options.model, default_home(os.environ))
    model = load_model(path, cache_dir=default_home(os.environ) / "packed")
    threads = native.Threads(options.threads)
    decision = choose_kind(model, KV_TYPES[options.kv_type], threads)
    threads.close()
    with ExitStack() as stack:
        ours = Ours(model, options.threads, decision.kind)
        stack.callback(ours.close)
        peers: list[LlamaCpp] = []
        facts: dict[str, Any] = {}
        if options.peer:
            peers, facts = stack.enter_context(running(path, options.threads, MOST_STREAMS))
        rows = measure(Bench(ours, peers, options.repeats), options.model, path, wanted)
        if not options.no_profile:
            facts["profile"] = profile(ours)
    kv = f"ours {decision.kv_type} ({decision.reason}), the peer's as its setting says"
    return rows, {"model": path.name, "kv": kv, **facts}


def main() -> None:
    """Measure and publish."""
    options = arguments()
    wanted = wants(options.only)
    rows: list[Row] = []
    config: dict[str, Any] = {"threads": options.threads, "kernels": native.variant()}
    more: dict[str, Any] = {}
    if any(wanted(measure) for measure in MEASURES):
        rows, facts = measure_model(options, wanted)
        if "profile" in facts:
            more["profile"] = facts.pop("profile")
        config |= facts
    if any(wanted(measure) for measure in MOE):
        of_experts, more["experts"] = experts.measure_experts(options.threads, wanted)
        rows += of_experts
    publish("engine", config, rows, options.json, more)


if __name__ == "__main__":
    main()
