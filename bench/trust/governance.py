"""What does trust add to a request: a signed record alone, and identity, policy, labels and a record together?

    load (open loop, its own process) --> headrace serve, on a core of its own --> fast_upstream (its own process)

`record-p99-ms` is taken inside of a server under that load, by a stopwatch around all that a record adds
(`timed_server.py`); what the caller waits longer for is the difference of two servers, by turns: with and without.
"""

import argparse
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.gateway import BODIES, Load, Result, on_other_cores, requests, upstream
from bench.peers.gateways import Gateway, ours
from bench.report import Row, row

CONNECTIONS: Final = 64
RECORDS: Final = ("[records]", 'mode = "enforce"')
JUDGES: Final = ("[policy]", 'mode = "enforce"', "[theft]", 'mode = "enforce"')


def rows(options: argparse.Namespace, notes: dict[str, Any]) -> list[Row]:
    """All of them."""
    notes["load"] = f"open loop at {options.rate:g}/s (Poisson), 1 kB, whole answers and streams by turns"
    with ExitStack() as stack:
        port = stack.enter_context(upstream())
        load = on_other_cores(Load)
        stack.callback(load.close)
        made = _inside(options, port, load, notes)
        plain = stack.enter_context(ours(port, name="off"))
        recorded = stack.enter_context(ours(port, name="records", more=RECORDS))
        governed = stack.enter_context(ours(port, name="all", more=[*RECORDS, *JUDGES]))
        made += _between(options, load, plain, {"record-added": recorded, "governance": governed})
        notes["off"] = "key, budget, limits, route, usage record"
        notes["records"] = "off, and a record signed over the bytes, logged, for each answer"
        notes["all"] = "records, and key, Cedar policy, monitor of theft"
    return made


def _inside(options: argparse.Namespace, port: int, load: Load, notes: dict[str, Any]) -> list[Row]:
    """What a record adds, as the server itself sees it."""
    found: dict[str, list[float]] = {}
    for repeat in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            times = Path(folder) / "times"
            with ours(
                port,
                more=RECORDS,
                program=("-m", "bench.trust.timed_server"),
                environment={"BENCH_TIMES": str(times)},
            ) as server:
                _round(load, server, options, streamed=repeat % 2, seed=repeat)
            lines = [line.split() for line in times.read_text("ascii").splitlines()]
        notes["records measured"] = notes.get("records measured", 0) + len(lines)
        for column, name in enumerate(("record", "record-cpu")):
            spent_ms = sorted(1000 * float(line[column]) for line in lines)  # those of a cold start are among them
            for share, at in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
                found.setdefault(f"{name}-{share}-ms", []).append(spent_ms[int(at * (len(spent_ms) - 1))])
    return [row(name, "ms", samples, {}) for name, samples in found.items()]


def _between(options: argparse.Namespace, load: Load, plain: Gateway, others: dict[str, Gateway]) -> list[Row]:
    """What callers wait longer for than without any of it."""
    found: dict[str, list[float]] = {}
    absolute: dict[str, list[float]] = {}
    for repeat in range(options.repeats):
        for streamed in (0, 1):
            off = _round(load, plain, options, streamed=streamed, seed=repeat)
            for name, server in others.items():
                on = _round(load, server, options, streamed=streamed, seed=repeat)
                for share in ("p50", "p99"):
                    measure = f"{name}-{share}-ms"
                    found.setdefault(measure, []).append(on[f"whole_{share}_ms"] - off[f"whole_{share}_ms"])
                    absolute.setdefault(measure, []).append(on[f"whole_{share}_ms"])
    made = []
    for measure, samples in found.items():
        one = row(measure, "ms", samples, {})
        one.samples["in all"] = absolute[measure]
        made.append(one)
    return made


def _round(load: Load, server: Gateway, options: argparse.Namespace, *, streamed: int, seed: int) -> Result:
    more = {"rate": options.rate, "connections": CONNECTIONS, "seed": seed, "seconds": options.seconds}
    return load(server.port, requests(server, BODIES["1k"], float(streamed)), **more)
