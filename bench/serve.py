"""Question: what does the prefix cache give a client of our server, in memory, after a restart, and to branches?

    ttft-cached-1024   milliseconds to the first token of a prompt of 1,024 tokens that the server has computed before
                       and 8 that it has not; peer: our own cold run of as many fresh tokens
    ttft-disk-1024     the same after the server was stopped and started again with its disk cache
    branches-8x4096    8 prompts at once over one trunk of 4,096 fresh tokens, with 16 tokens of each one's own and 64
                       new ones each: new tokens per second from submission to the end; peer: llama.cpp as its server
                       runs them (`peers/llama_cpp_worker.py`, "serve"), in one process and without HTTP

All of ours is measured over HTTP, streaming, greedy, on random tokens, at a server process of its own. Files of the
disk cache are read through the system's page cache, as they are after a restart of the program and not of the machine.
The peer's best setting is found by a short run of every one, and then takes turns with ours.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.peers.llama import ServerSetting, server_settings, serving_slots
from bench.report import Row, publish, row
from bench.serving import Server, serving
from headrace.engine.config import KV_TYPES
from headrace.engine.kv.gate import Decision, choose_kind
from headrace.kernels import native
from headrace.models.load import LoadedModel, load_model
from headrace.models.store import default_home
from headrace.models.store import resolve as resolve_model

PREFIX, TAIL = 1024, 8
BRANCHES, TRUNK, OWN, NEW = 8, 4096, 16, 64
SCREENED_BRANCHES, SCREENED_TRUNK, SCREENED_NEW = 2, 1024, 16
COLD = "our own cold run"
MEASURES = ("ttft-cached-1024", "ttft-disk-1024", "branches-8x4096")


class Bench:
    """The model, how it is served, and random prompts."""

    def __init__(self, path: Path, model: LoadedModel, decision: Decision, options: argparse.Namespace) -> None:
        self.path = path
        self.kind = decision.kind
        self.threads: int = options.threads
        self.repeats: int = options.repeats
        self.has_peer: bool = "llama.cpp" in options.peer
        self.facts: dict[str, str] = {}
        self._vocab_size = model.plan.vocab_size
        self._rng = random.Random(20260726)

    def prompt(self, length: int) -> list[int]:
        """Random tokens; the first hundred are control tokens in some vocabularies."""
        return [self._rng.randrange(100, self._vocab_size) for _ in range(length)]

    def cached(self) -> Row:
        """Cold and warm in turn on one server."""
        with serving(self.path, self.threads, self.kind) as server:
            self._warm_up(server)
            warm, cold = [], []
            for _ in range(self.repeats):
                prefix = self.prompt(PREFIX)
                cold.append(1e3 * server.first_token_s(prefix + self.prompt(TAIL)))
                warm.append(1e3 * server.first_token_s(prefix + self.prompt(TAIL)))
        return row("ttft-cached-1024", "ms", warm, {COLD: cold}, lower_is_better=True)

    def disk(self) -> Row:
        """Prompts of a server that has ended, at another one on the same directory; cold ones in between."""
        prefixes = [self.prompt(PREFIX) for _ in range(self.repeats)]
        with tempfile.TemporaryDirectory() as folder:
            options = ["--disk-cache", folder]
            with serving(self.path, self.threads, self.kind, options) as server:
                for prefix in prefixes:
                    server.first_token_s(prefix + self.prompt(TAIL))
            files = list(Path(folder).rglob("*.page"))
            self.facts["disk cache"] = f"{len(files)} pages, {sum(file.stat().st_size for file in files) / 1e6:.0f} MB"
            found, cold = [], []
            with serving(self.path, self.threads, self.kind, options) as server:
                self._warm_up(server)
                for prefix in prefixes:
                    cold.append(1e3 * server.first_token_s(self.prompt(PREFIX + TAIL)))
                    found.append(1e3 * server.first_token_s(prefix + self.prompt(TAIL)))
        return row("ttft-disk-1024", "ms", found, {COLD: cold}, lower_is_better=True)

    def branches(self) -> Row:
        """Ours and the peer in turn, from a trunk that neither has seen."""
        best, screening = self._screen() if self.has_peer else (None, {})
        ours: list[float] = []
        theirs: dict[str, list[float]] = {}
        with serving(self.path, self.threads, self.kind) as server:
            self._warm_up(server)
            if best is None:
                ours = [server.stream(self._branches(BRANCHES, TRUNK), NEW) for _ in range(self.repeats)]
            else:
                slot_tokens = TRUNK + OWN + NEW
                with serving_slots(best, self.threads, BRANCHES, -(-slot_tokens // 256) * 256) as (peer, facts):
                    self.facts |= facts
                    theirs[peer.name] = []
                    for _ in range(self.repeats):
                        prompts = self._branches(BRANCHES, TRUNK)
                        ours.append(server.stream(prompts, NEW))
                        theirs[peer.name].append(peer.serve(prompts, NEW))
        made = row("branches-8x4096", "tokens/s", ours, theirs)
        made.screening = screening
        return made

    def _screen(self) -> tuple[ServerSetting, dict[str, float]]:
        """Every setting of the peer once, shortly."""
        prompts = self._branches(SCREENED_BRANCHES, SCREENED_TRUNK)
        rates = {}
        settings = {one.name: one for one in server_settings(self.path)}
        for name, setting in settings.items():
            with serving_slots(setting, self.threads, SCREENED_BRANCHES, 2 * SCREENED_TRUNK) as (peer, _):
                rates[name] = peer.serve(prompts, SCREENED_NEW)
        return settings[max(rates, key=lambda name: rates[name])], rates

    def _branches(self, count: int, trunk: int) -> list[list[int]]:
        common = self.prompt(trunk)
        return [common + self.prompt(OWN) for _ in range(count)]

    def _warm_up(self, server: Server) -> None:
        for _ in range(3):
            server.first_token_s(self.prompt(PREFIX))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--peer", action="append", default=[], choices=["llama.cpp"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", default="", help="comma-separated measures, or parts of their names")
    parser.add_argument("--kv-type", choices=list(KV_TYPES), default="auto", help="as of `headrace serve`")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def wanted(only: str) -> list[str]:
    """Measures whose names have one of the parts. SystemExit for a part that none has."""
    parts = [part for part in only.split(",") if part]
    for part in parts:
        if not any(part in measure for measure in MEASURES):
            raise SystemExit(f"--only: {part!r} is part of no measure; there are {', '.join(MEASURES)}")
    return [measure for measure in MEASURES if not parts or any(part in measure for part in parts)]


def main() -> None:
    """Measure and publish."""
    options = arguments()
    chosen = wanted(options.only)
    path = resolve_model(options.model, default_home(os.environ))
    model = load_model(path, cache_dir=default_home(os.environ) / "packed")
    threads = native.Threads(options.threads)
    decision = choose_kind(model, KV_TYPES[options.kv_type], threads)
    threads.close()
    bench = Bench(path, model, decision, options)
    makers: dict[str, Callable[[], Row]] = dict(zip(MEASURES, (bench.cached, bench.disk, bench.branches), strict=True))
    rows = []
    for measure in chosen:
        started = time.monotonic()
        made = makers[measure]()
        print(
            f"  {measure}: ours {made.ours:,.4g}, peer {made.peer or 0:,.4g} ({made.peer_name}), "
            f"{time.monotonic() - started:.0f} s",
            file=sys.stderr,
        )
        rows.append(made)
    config: dict[str, Any] = {
        "model": path.name,
        "threads": options.threads,
        "kernels": native.variant(),
        "kv": f"ours {decision.kv_type} ({decision.reason}), the peer's as its setting says",
    }
    publish("serve", config | bench.facts, rows, options.json)


if __name__ == "__main__":
    main()
