"""Question: what does an agent gain from the WebSocket mode of Responses, and how much from the prefix cache alone?

    ws-wall-saving           1 - wall time over a WebSocket / over HTTP with full history and without the prefix cache
    ws-wall-saving-200ms     the same where every tool takes 200 ms
    ws-bytes-saving          1 - bytes sent over a WebSocket / over HTTP with full history
    cache-wall-saving        1 - wall time over HTTP with full history, with the prefix cache / without it
    ws-wall-ratio-*          wall time of another way with the cache / over a WebSocket (above 1: ours is faster)
    outputs-identical        share of runs whose calls were those of the first run, word for word

and for every way (full, previous, websocket), cache (on, off) and tool latency (0, 200 ms): `wall-*` in seconds,
`ttft-*` (median over the turns), `sent-*` in bytes, `prefill-*`: prompt tokens that had to be computed.

A fixed trace of tool turns (`tool_trace.py`) on a real model, greedy, over one connection a run. Without cache means a
`cache_salt` of its own in every request, so that nothing that was computed before is found; the server stays the same.
All ways take turns in one run, in an order that changes. full: `store` false and every item again; previous: stored,
`previous_response_id` and what is new; websocket: `store` false, `previous_response_id` and what is new.
"""

import argparse
import itertools
import os
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.report import Row, publish, row
from bench.serving import Server, serving
from bench.tool_trace import Item, Trace, body
from bench.wire import HttpWire, SocketWire, Wire
from headrace.engine.config import KV_TYPES
from headrace.engine.kv.gate import choose_kind
from headrace.kernels import native
from headrace.models.load import load_model
from headrace.models.store import default_home
from headrace.models.store import resolve as resolve_model

WAYS: Final = ("full", "previous", "websocket")


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to send the trace."""

    way: str
    has_cache: bool
    tool_s: float

    @property
    def name(self) -> str:
        """As rows name it."""
        return f"{self.way}-cache-{'on' if self.has_cache else 'off'}-{self.tool_s * 1000:.0f}ms"


@dataclass(slots=True)
class Run:
    """What one run of the trace took."""

    wall_s: float = 0.0
    ttft_s: list[float] = field(default_factory=list)
    sent: int = 0
    prefilled: int = 0
    prompt: int = 0
    said: list[str] = field(default_factory=list)


class Agent:
    """Runs the trace against a server."""

    def __init__(self, server: Server, trace: Trace) -> None:
        self._server = server
        self._trace = trace

    def run(self, variant: Variant) -> Run:
        """One run over a connection of its own; a cache that is on begins empty."""
        wire: Wire = SocketWire(self._server.port) if variant.way == "websocket" else HttpWire(self._server.port)
        made = Run()
        try:
            began = time.perf_counter()
            self._talk(wire, variant, made)
            made.wall_s = time.perf_counter() - began
            made.sent = wire.num_sent
        finally:
            wire.close()
        return made

    def _talk(self, wire: Wire, variant: Variant, made: Run) -> None:
        trace, salt = self._trace, secrets.token_hex(8)
        history, new, previous = list[Item](), trace.first(), None
        for turn in range(trace.num_turns + 1):
            fields: dict[str, Any] = {"store": variant.way == "previous", "cache_salt": salt}
            if not variant.has_cache:
                fields["cache_salt"] = secrets.token_hex(8)
            history += new
            if variant.way == "full":
                asked = body(self._server.model, history, **fields)
            else:
                fields |= {} if previous is None else {"previous_response_id": previous}
                asked = body(self._server.model, new, **fields)
            answer = wire.ask(asked)
            usage = answer.response["usage"]
            made.ttft_s.append(answer.ttft_s)
            made.prompt += usage["input_tokens"]
            made.prefilled += usage["input_tokens"] - usage["input_tokens_details"]["cached_tokens"]
            (call,) = answer.response["output"]
            made.said.append(call["name"] + call["arguments"])
            if turn == trace.num_turns:
                return
            time.sleep(variant.tool_s)
            previous = answer.response["id"]
            history.append(_sent_back(call))
            new = trace.answer(turn, call)


def _sent_back(call: Item) -> Item:
    """A call as a client repeats it."""
    return {name: call[name] for name in ("type", "call_id", "name", "arguments")}


class Bench:
    """All variants, by turns."""

    def __init__(self, agent: Agent, options: argparse.Namespace) -> None:
        self._agent = agent
        latencies = [float(one) / 1000 for one in options.latencies.split(",")]
        self._variants = [
            Variant(way, has_cache, tool_s)
            for tool_s, has_cache, way in itertools.product(latencies, (True, False), WAYS)
        ]
        self._repeats: int = options.repeats
        self.runs: dict[Variant, list[Run]] = {variant: [] for variant in self._variants}

    def measure(self) -> None:
        """Run everything."""
        self._agent.run(self._variants[0])  # warms the process
        for repeat in range(self._repeats):
            turned = self._variants[repeat % len(WAYS) :] + self._variants[: repeat % len(WAYS)]
            for variant in turned:
                run = self._agent.run(variant)
                self.runs[variant].append(run)
                print(
                    f"  {variant.name}: {run.wall_s:.2f} s, first token {statistics.median(run.ttft_s) * 1000:.0f} ms, "
                    f"{run.sent:,} bytes, {run.prefilled:,} of {run.prompt:,} prompt tokens computed",
                    file=sys.stderr,
                )

    def rows(self) -> list[Row]:
        """Everything, the goals first."""
        first = self._variants[0].tool_s
        rows = [self._saving("ws-bytes-saving", "sent", self._of("websocket", True, first), first)]
        for tool_s in sorted({variant.tool_s for variant in self._variants}):
            end = "" if tool_s == 0 else f"-{tool_s * 1000:.0f}ms"
            rows += [
                self._saving(f"ws-wall-saving{end}", "wall_s", self._of("websocket", True, tool_s), tool_s),
                self._saving(f"cache-wall-saving{end}", "wall_s", self._of("full", True, tool_s), tool_s),
            ]
            rows += [self._ratio(f"ws-wall-ratio-{way}{end}", way, tool_s) for way in WAYS[:2]]
        said = [run.said for runs in self.runs.values() for run in runs]
        same = sum(one == said[0] for one in said) / len(said)
        rows.append(Row("outputs-identical", "fraction of runs", same, n=len(said)))
        for variant in self._variants:
            rows += self._plain(variant)
        return rows

    def _of(self, way: str, has_cache: bool, tool_s: float) -> list[Run]:
        return self.runs[Variant(way, has_cache, tool_s)]

    def _saving(self, measure: str, field_name: str, ours: list[Run], tool_s: float) -> Row:
        peers = self._of("full", False, tool_s)
        values = [float(getattr(run, field_name)) for run in ours]
        others = [float(getattr(run, field_name)) for run in peers]
        savings = [1 - our / other for our, other in zip(values, others, strict=True)]
        made = row(measure, "fraction", savings, {})
        made.peer_name = "HTTP, full history, without the prefix cache"
        made.ratio = statistics.median(other / our for our, other in zip(values, others, strict=True))
        made.samples |= {"ours, absolute": values, "peer, absolute": others}
        return made

    def _ratio(self, measure: str, way: str, tool_s: float) -> Row:
        peers = {f"HTTP, {way}, with the prefix cache": [run.wall_s for run in self._of(way, True, tool_s)]}
        ours = [run.wall_s for run in self._of("websocket", True, tool_s)]
        return row(measure, "seconds", ours, peers, lower_is_better=True)

    def _plain(self, variant: Variant) -> Iterator[Row]:
        runs = self.runs[variant]
        yield row(f"wall-{variant.name}", "seconds", [run.wall_s for run in runs], {})
        yield row(f"ttft-{variant.name}", "seconds", [statistics.median(run.ttft_s) for run in runs], {})
        yield row(f"sent-{variant.name}", "bytes", [float(run.sent) for run in runs], {})
        yield row(f"prefill-{variant.name}", "tokens", [float(run.prefilled) for run in runs], {})


@contextmanager
def state(home: Path) -> Iterator[Path]:
    """A state directory of its own, so that what is stored here is not a user's; packed weights are shared."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "packed").symlink_to(home / "packed", target_is_directory=True)
        yield Path(folder)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.protocols", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--turns", type=int, default=20, help="tool calls that are answered")
    parser.add_argument("--begin", type=int, default=2000, help="tokens that the conversation begins with")
    parser.add_argument("--added", type=int, default=200, help="tokens of each tool's answer")
    parser.add_argument("--latencies", default="0,200", help="milliseconds that every tool takes, one row each")
    parser.add_argument("--kv-type", choices=list(KV_TYPES), default="auto", help="as of `headrace serve`")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure and publish."""
    options = arguments()
    home = default_home(os.environ)
    path = resolve_model(options.model, home)
    model = load_model(path, cache_dir=home / "packed")
    threads = native.Threads(options.threads)
    decision = choose_kind(model, KV_TYPES[options.kv_type], threads)
    threads.close()
    trace = Trace(
        lambda text: len(model.tokenizer.encode(text)),
        num_turns=options.turns,
        num_begin=options.begin,
        num_added=options.added,
    )
    with state(home) as folder, serving(path, options.threads, decision.kind, ["--home", str(folder)]) as server:
        bench = Bench(Agent(server, trace), options)
        bench.measure()
    config: dict[str, Any] = {
        "model": path.name,
        "threads": options.threads,
        "kernels": native.variant(),
        "kv": f"{decision.kv_type} ({decision.reason})",
        "trace": f"{options.turns} tool turns, {options.begin} tokens at first, {options.added} added a turn",
        "cache off": "a cache_salt of its own in every request",
    }
    publish("protocols", config, bench.rows(), options.json)


if __name__ == "__main__":
    main()
