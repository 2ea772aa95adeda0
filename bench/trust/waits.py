"""How much later does an answer come that waits for its record, and how many a second does that leave?

Clients that each ask again when they have their answer (closed loop), 1, 8 and 32 at once, whole answers of a fast
backend; two servers by turns, one with records that are enforced, one with `waits` beside. What one client alone waits
longer is what the log's writing takes: nobody else's entries go with its own.
"""

import argparse
import asyncio
import json
import statistics
import time
from contextlib import ExitStack
from typing import Any, Final

from bench.gateway import BODIES, requests, upstream
from bench.peers.gateways import Gateway, ours
from bench.report import Row, row

CLIENTS: Final = (1, 8, 32)
RECORDS: Final = ("[records]", 'mode = "enforce"')


def rows(options: argparse.Namespace, notes: dict[str, Any]) -> list[Row]:
    """The medians, the slowest hundredth and the rate of each number of clients."""
    notes["load"] = f"closed loop, {options.seconds:g} s a round, 1 kB, whole answers"
    found: dict[str, list[float]] = {}
    with ExitStack() as stack:
        port = stack.enter_context(upstream())
        servers = {
            "recorded": stack.enter_context(ours(port, name="recorded", more=RECORDS)),
            "waits": stack.enter_context(ours(port, name="waits", more=[*RECORDS, "waits = true"])),
        }
        for _ in range(options.repeats):
            for num_clients in CLIENTS:
                for name, server in servers.items():
                    times_ms = asyncio.run(_round(server, num_clients, options.seconds))
                    cut = statistics.quantiles(times_ms, n=100)
                    for share, value in (("p50-ms", cut[49]), ("p99-ms", cut[98])):
                        found.setdefault(f"{name}-{num_clients}-{share}", []).append(value)
                    found.setdefault(f"{name}-{num_clients}-rate", []).append(len(times_ms) / options.seconds)
    return [row(name, "/s" if name.endswith("rate") else "ms", samples, {}) for name, samples in found.items()]


async def _round(server: Gateway, num_clients: int, seconds: float) -> list[float]:
    """How long each answer took, in milliseconds."""
    path, headers, body = requests(server, BODIES["1k"], 0.0)[0]
    data = json.loads(body) | {"stream": False}
    encoded = json.dumps(data).encode()
    lines = [f"POST {path} HTTP/1.1", "host: localhost", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()] + [f"content-length: {len(encoded)}", "", ""]
    request = "\r\n".join(lines).encode() + encoded
    end_s, times_ms = time.monotonic() + seconds, list[float]()

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        while time.monotonic() < end_s:
            began_s = time.perf_counter()
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200 "):
                raise RuntimeError(head.decode())
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            times_ms.append(1000 * (time.perf_counter() - began_s))
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(num_clients):
            group.create_task(client())
    return times_ms
