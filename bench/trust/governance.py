"""What does trust add to a request: a signed record alone, and identity, policy, labels and a record together?

    load (open loop, its own process) --> headrace serve, on a core of its own --> fast_upstream (its own process)

`record-p99-ms` is taken inside of a server under that load, by a stopwatch around all that a record adds
(`timed_server.py`); what the caller waits longer for is the difference of two servers, by turns: with and without.
"""

import argparse
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from joserfc import jwt
from joserfc.jwk import ECKey

from bench.gateway import BODIES, Load, Result, on_other_cores, requests, upstream
from bench.peers.gateways import Gateway, ours
from bench.report import Row, row

CONNECTIONS: Final = 64
RECORDS: Final = ("[records]", 'mode = "enforce"')
JUDGES: Final = ("[policy]", 'mode = "enforce"', "[flow]", 'mode = "enforce"', "[theft]", 'mode = "enforce"')
ISSUER, AUDIENCE = "https://issuer.bench", "https://headrace.bench"
NUM_USERS: Final = 100


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
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        issued, headers = _users(folder)
        more = [*RECORDS, *JUDGES, *issued]
        governed = stack.enter_context(ours(port, name="all", more=more, headers=headers))
        made += _between(options, load, plain, {"record-added": recorded, "governance": governed})
        notes["off"] = "key, budget, limits, route, usage record"
        notes["records"] = "off, and a record signed over the bytes, logged, for each answer"
        notes["all"] = "records, and a user's token (ES256) in place of a key, Cedar policy, labels, monitor of theft"
    return made


def _users(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The settings of an issuer, and what its users show."""
    key = ECKey.generate_key("P-256", {"kid": "bench", "alg": "ES256", "use": "sig"})
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
    now_s = int(time.time())
    headers = []
    for number in range(NUM_USERS):
        claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": f"user{number}", "iat": now_s, "exp": now_s + 3600}
        token = jwt.encode({"alg": "ES256", "kid": "bench"}, claims, key)
        headers.append({"authorization": f"Bearer {token}"})
    lines = ["[identity.issuers.bench]", f'issuer = "{ISSUER}"', f'audience = "{AUDIENCE}"', f'jwks = "{keys}"']
    return [*lines, 'tenant = "bench"'], headers


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
