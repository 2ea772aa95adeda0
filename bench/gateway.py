"""What does a gateway cost: latency added to each request, requests a second that one core governs, memory, and how
that stands beside other gateways?

    load (its own process) --> gateway, on a core of its own --> fast_upstream (its own process)

Added latency is a difference: the same load at the same open-loop rate, with and without the gateway between, by turns.
Capacity is a closed loop of ten connections. Load and backend share the cores that the gateway has not. Ours runs as
`headrace serve` with a key, a budget, limits, a route and a usage record for each request; what others lack is in their
names. Run on a machine that does nothing else.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bench.peers.gateways import CORE, PEERS, Gateway, free_port, ours, start
from bench.report import Row, publish, row

RATE = 500
CONNECTIONS = 10
BODIES = {"1k": 1_000, "10k": 10_000, "100k": 100_000}
_HERE = Path(__file__).parent
_NOT_GOVERNED = {
    "litellm": "litellm, one worker, master key, no database: no budgets",
    "portkey": "portkey, no keys and no budgets of its own",
    "vllm-router": "vllm-router (Rust), no governance",
}

Result = dict[str, Any]


class Load:
    """The load's process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, _HERE / "load.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, port: int, requests: Sequence[Any], **more: Any) -> Result:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"port": port, "requests": list(requests), **more}) + "\n")
        self._process.stdin.flush()
        made: Result = json.loads(self._process.stdout.readline())
        if made["errors"]:
            print(f"  {made['errors']} of {made['num']} failed: {made['error'][:300]}", file=sys.stderr)
        return made

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)


def requests(gateway: Gateway | None, num_bytes: int, streamed: float) -> list[tuple[str, dict[str, str], str]]:
    """Chat completions of a size, a share of them streamed; None: as the backend itself is asked."""
    made = []
    headers = [{}] if gateway is None else gateway.headers
    model = "fast-model" if gateway is None else gateway.model
    for index in range(max(2, len(headers))):
        is_stream = index < 2 * streamed if len(headers) < 4 else index % 2 < 2 * streamed
        body = {
            "model": model,
            "messages": [
                {"role": "system", "content": "You answer in one sentence."},
                {"role": "user", "content": "Tell me about water wheels. " * 40_000},
            ],
            "max_tokens": 64,
            "stream": is_stream,
        }
        empty = len(json.dumps(body)) - len(body["messages"][1]["content"])  # type: ignore[index]
        body["messages"][1]["content"] = body["messages"][1]["content"][: num_bytes - empty]  # type: ignore[index]
        path = "/v1/chat/completions" if gateway is None else gateway.path
        made.append((path, headers[index % len(headers)], json.dumps(body)))
    return made


class Bench:
    """Rounds by turns."""

    def __init__(self, options: argparse.Namespace, upstream_port: int, load: Load) -> None:
        self._options = options
        self._upstream_port = upstream_port
        self._load = load
        self.rows: list[Row] = []
        self.notes: dict[str, Any] = {}

    def _round(self, gateway: Gateway | None, num_bytes: int, streamed: float, **more: Any) -> Result:
        port = self._upstream_port if gateway is None else gateway.port
        given = {"seconds": self._options.seconds, "connections": CONNECTIONS, **more}
        cpu_s = 0.0 if gateway is None else gateway.cpu_s()
        made = self._load(port, requests(gateway, num_bytes, streamed), **given)
        if gateway is not None:
            # The warm-up is as fast as what is counted.
            whole = made["num"] * (1 + given.get("warm_s", 1.0) / given["seconds"])
            made["cpu_us"] = 1e6 * (gateway.cpu_s() - cpu_s) / max(1.0, whole)
        name = "direct" if gateway is None else gateway.name
        keys = ("per_s", "whole_p50_ms", "whole_p99_ms", "first_p50_ms", "cpu_us")
        shown = {key: round(made[key], 3) for key in keys if made.get(key)}
        print(f"  {name} {num_bytes} B, {streamed:.0%} streamed, {more or 'closed loop'}: {shown}", file=sys.stderr)
        return made

    def added(self, gateway: Gateway) -> None:
        """What a request waits longer for than without us, at a fixed rate."""
        found: dict[str, list[float]] = {}
        for repeat in range(self._options.repeats):
            for streamed in (0.0, 1.0):
                more = {"rate": RATE, "connections": 64, "seed": repeat}
                direct = self._round(None, BODIES["1k"], streamed, **more)
                through = self._round(gateway, BODIES["1k"], streamed, **more)
                kind, at = ("added", "whole") if not streamed else ("added-ttfb", "first")
                for share in ("p50", "p99"):
                    key = f"{at}_{share}_ms"
                    found.setdefault(f"{kind}-{share}-ms", []).append(through[key] - direct[key])
                    found.setdefault(f"{kind}-{share}-ms absolute", []).append(through[key])
        for name in ("added-p50-ms", "added-p99-ms", "added-ttfb-p50-ms", "added-ttfb-p99-ms"):
            made = row(name, "ms", found[name], {})
            made.samples["through the gateway"] = found[f"{name} absolute"]
            self.rows.append(made)

    def sustained(self, gateway: Gateway) -> None:
        """Whether the goal's rate is held in an open loop."""
        rounds = [
            self._round(gateway, BODIES["1k"], 0.0, rate=2000, connections=64, seed=repeat)
            for repeat in range(self._options.repeats)
        ]
        for share in ("p50", "p99"):
            self.rows.append(row(f"sustained-2000-{share}-ms", "ms", [one[f"whole_{share}_ms"] for one in rounds], {}))
        self.notes["sustained-2000 errors"] = sum(one["errors"] for one in rounds)

    def capacity(self, gateway: Gateway, peers: Sequence[Gateway]) -> None:
        """Requests a second through one core, beside others."""
        told: dict[str, list[Result]] = {}
        for repeat in range(self._options.repeats):
            order = [gateway, *peers] if repeat % 2 == 0 else [*peers, gateway]
            for one in order:
                told.setdefault(one.name, []).append(self._round(one, 800, 0.0))
        per_s = {name: [one["per_s"] for one in results] for name, results in told.items()}
        self.rows.append(row("requests-per-core", "requests/s", per_s["headrace"], {}))
        self.rows.append(row("cpu-per-request", "us", [one["cpu_us"] for one in told["headrace"]], {}))
        for peer in peers:
            named = {_NOT_GOVERNED[peer.name]: per_s[peer.name]}
            measure = "vs-native" if peer.name == "vllm-router" else f"vs-{peer.name}"
            made = row(measure, "requests/s", per_s["headrace"], named)
            made.samples["p50 ms, ours"] = [one["whole_p50_ms"] for one in told["headrace"]]
            made.samples["p50 ms, peer"] = [one["whole_p50_ms"] for one in told[peer.name]]
            self.rows.append(made)
        direct = [self._round(None, 800, 0.0)["per_s"] for _ in range(self._options.repeats)]
        self.notes["backend alone, requests/s"] = statistics.median(direct)

    def shapes(self, gateway: Gateway) -> None:
        """The same for other bodies and for streams."""
        for size, num_bytes in BODIES.items():
            for streamed in (0.0, 0.5, 1.0):
                if (size, streamed) == ("1k", 0.0):
                    continue
                rounds = [self._round(gateway, num_bytes, streamed) for _ in range(self._options.repeats)]
                name = f"requests-per-core-{size}-{streamed * 100:.0f}"
                self.rows.append(row(name, "requests/s", [one["per_s"] for one in rounds], {}))

    def memory(self, gateway: Gateway) -> None:
        """What is in memory after many requests, and what the last nine tenths of them added."""
        before = gateway.rss_mb()
        wanted, done, early = self._options.requests, 0, 0.0
        body = requests(gateway, BODIES["1k"], 0.0)
        while done < wanted:
            made = self._load(gateway.port, body, seconds=10.0, warm_s=0.0, connections=CONNECTIONS)
            done += made["num"]
            if not early and done >= wanted / 10:
                early = gateway.rss_mb()
        after = gateway.rss_mb()
        self.rows.append(row("rss-mb", "MB", [after], {}))
        self.rows.append(row("rss-growth-mb", "MB", [after - early], {}))
        self.notes["memory"] = {"requests": done, "before": before, "after a tenth": early, "after all": after}

    def many(self, few: Gateway) -> None:
        """What fifty backends and ten thousand keys cost over one and ten: CPU of the gateway a request."""
        with ours(self._upstream_port, num_backends=50, num_keys=10_000) as many:
            found: dict[str, list[float]] = {"few": [], "many": []}
            for repeat in range(self._options.repeats):
                turn = [("few", few), ("many", many)]
                for name, gateway in turn if repeat % 2 == 0 else reversed(turn):
                    found[name].append(self._round(gateway, 800, 0.0)["cpu_us"])
            costs = [many / few - 1 for few, many in zip(found["few"], found["many"], strict=True)]
            made = row("fifty-backends-cost", "fraction", costs, {})
            made.samples |= {f"{name}, us of CPU a request": values for name, values in found.items()}
            self.rows.append(made)


@contextmanager
def upstream() -> Iterator[int]:
    """The backend's port."""
    port = free_port()
    process = start([sys.executable, _HERE / "fast_upstream.py", "--port", str(port)], core=None)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(timeout=10)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--peer", action="append", default=[], choices=list(PEERS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--requests", type=int, default=1_000_000, help="until memory is read")
    parser.add_argument(
        "--only", help="one of: added, sustained, capacity, shapes, many, memory; commas between several"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure and publish."""
    options = arguments()
    with ExitStack() as stack:
        port = stack.enter_context(upstream())
        load = on_other_cores(Load)
        stack.callback(load.close)
        gateway = stack.enter_context(ours(port))
        bench = Bench(options, port, load)
        peers = [stack.enter_context(PEERS[name](port)) for name in options.peer]
        for one in peers:
            bench.notes[one.name] = _NOT_GOVERNED[one.name]
        steps: dict[str, Callable[[], None]] = {
            "added": lambda: bench.added(gateway),
            "sustained": lambda: bench.sustained(gateway),
            "capacity": lambda: bench.capacity(gateway, peers),
            "shapes": lambda: bench.shapes(gateway),
            "many": lambda: bench.many(gateway),
            "memory": lambda: bench.memory(gateway),
        }
        wanted = options.only.split(",") if options.only else list(steps)
        for name in wanted:
            steps[name]()
    config = {
        "gateway": "headrace serve, one core; key, budget, limits, route, usage record; access log on",
        "load": f"open loop at {RATE}/s (Poisson), closed loop of {CONNECTIONS} connections, on the other cores",
        "seconds": options.seconds,
        "load average at the end": os.getloadavg()[0],
        "scheduling": "real time" if os.sched_getscheduler(0) in (os.SCHED_RR, os.SCHED_FIFO) else "usual",
        **bench.notes,
    }
    publish("gateway", config, bench.rows, options.json)


def on_other_cores(make: Callable[[], Load]) -> Load:
    """A load that leaves the gateway its core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores - {CORE} or cores)
    try:
        return make()
    finally:
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    main()
