"""What is measured on processes: a server's streams and its memory, and how long a start takes.

HTTP: the same decode as in-process, streamed by our own server to a client that costs little, as a fraction of
in-process. Memory: the resident set of a serving process less its packed weights and its pool of keys and values, both
found in /proc by their mappings.
"""

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.ours import Ours
from bench.report import Row, row
from headrace.kernels.plan import KvKind

KV_MEMORY_MIB = 512
LIMIT_MB = 150.0

Prompts = Callable[[int], list[list[int]]]


class Server:
    """Our server as a process of its own, and one client process for its streams. `options` are more of `serve`'s."""

    def __init__(self, model: Path, threads: int, kv: KvKind, options: Sequence[str] = ()) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        command = [sys.executable, "-m", "headrace", "serve", str(model), "--port", str(self.port)]
        command += ["--threads", str(threads), "--kv-memory", f"{KV_MEMORY_MIB}MiB"]
        command += ["--kv-type", "int8" if kv is KvKind.INT8 else "fp16", *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._wait()
        with self._get("/v1/models") as answer:
            self.model = json.load(answer)["data"][0]["id"]
        self.client = subprocess.Popen(
            [sys.executable, Path(__file__).parent / "stream_client.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _get(self, path: str) -> Any:
        return urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5)

    def _wait(self) -> None:
        for _ in range(600):
            try:
                with self._get("/ready"):
                    return
            except OSError:
                if self.process.poll() is not None:
                    raise SystemExit(f"the server ended with status {self.process.returncode}") from None
                time.sleep(0.05)
        raise SystemExit("the server was not ready in 30 seconds")

    def stream(self, prompts: list[list[int]], new: int) -> float:
        """Tokens per second of all prompts streamed at once."""
        answer = self._round(prompts, new)
        return float(answer["tokens"] / answer["seconds"])

    def first_token_s(self, prompt: list[int]) -> float:
        """Seconds until the first text of one stream."""
        return float(self._round([prompt], 2)["first"][0])

    def _round(self, prompts: list[list[int]], new: int) -> dict[str, Any]:
        bodies = [
            {
                "model": self.model,
                "prompt": prompt,
                "max_tokens": new,
                "temperature": 0,
                "ignore_eos": True,
                "stream": True,
                "stream_options": {"include_usage": True},
            }
            for prompt in prompts
        ]
        assert self.client.stdin is not None
        assert self.client.stdout is not None
        self.client.stdin.write(json.dumps({"port": self.port, "bodies": bodies}) + "\n")
        self.client.stdin.flush()
        line = self.client.stdout.readline()
        if not line:
            raise RuntimeError(f"the client ended with status {self.client.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End both processes."""
        assert self.client.stdin is not None
        self.client.stdin.close()
        self.client.wait(timeout=30)
        self.process.terminate()
        self.process.wait(timeout=30)


@contextmanager
def serving(model: Path, threads: int, kv: KvKind, options: Sequence[str] = ()) -> Iterator[Server]:
    """A server that ends with the block."""
    server = Server(model, threads, kv, options)
    try:
        yield server
    finally:
        server.close()


def http_share(server: Server, ours: Ours, make: Prompts, streams: int, new: int, repeats: int) -> Row:
    """Tokens per second over HTTP, divided by in-process on the same prompts in the same round."""
    shares, rates = [], []
    for turn in range(repeats + 1):
        prompts = make(streams)
        server.stream(prompts, 1)  # warms the prompts, as in-process
        rate = server.stream(prompts, new)
        ours.prepare(prompts)
        inside = ours.decode(new)
        if turn:
            shares.append(rate / inside)
            rates.append(rate)
    made = row(f"http-{streams}-share", "fraction", shares, {})
    made.samples["tokens/s over HTTP"] = rates
    return made


def resident(model: Path, ours: Ours, make: Prompts) -> Row:
    """Megabytes (10^6 bytes) that a serving process holds beside its weights and its keys and values.

    After load and after 32 streams; the row is the larger one.
    """
    page_bytes = ours.model.plan.cache.page_bytes(ours.kv)
    with serving(model, ours.num_threads, ours.kv) as server:
        samples = {}
        for moment in ("after load", "after 32 streams"):
            if moment != "after load":
                server.stream(make(32), 64)
            whole, weights, keys = _resident_parts(server.process.pid, page_bytes)
            samples[moment] = [(whole - weights - keys) / 1e6]
            samples |= {
                f"resident set {moment}": [whole / 1e6],
                f"packed weights {moment}": [weights / 1e6],
                f"keys and values {moment}": [keys / 1e6],
            }
    worst = max(samples["after load"][0], samples["after 32 streams"][0])
    made = Row("rss", "MB beside weights and KV", worst, LIMIT_MB, "the limit we set ourselves", LIMIT_MB / worst, n=1)
    made.samples = samples
    return made


def _resident_parts(pid: int, page_bytes: int) -> tuple[int, int, int]:
    """Resident bytes: all, of the packed file's mapping, and of the anonymous one that holds the page pool.

    The pool is the smallest mapping that can hold `KV_MEMORY_MIB`; what the kernel has merged with it is not its own
    and stays counted.
    """
    pool_bytes = (KV_MEMORY_MIB << 20) // page_bytes * page_bytes
    whole = weights = 0
    pools: list[tuple[int, int]] = []  # size and resident bytes
    name, size = "", 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            name = line.split(maxsplit=5)[5] if len(line.split()) > 5 else ""
        elif line.startswith("Size:"):
            size = int(line.split()[1]) << 10
        elif line.startswith("Rss:"):
            held = int(line.split()[1]) << 10
            whole += held
            if "/packed/" in name:
                weights += held
            elif not name and size >= pool_bytes:
                pools.append((size, held))
    if not pools or not weights:
        raise RuntimeError("the server's page pool or its packed weights are not where this benchmark looks for them")
    size, held = min(pools)
    return whole, weights, max(0, held - (size - pool_bytes))


def start_seconds(model: str, repeats: int) -> Row:
    """A whole `headrace generate` of one token with packed weights, process start and exit included."""
    command = [sys.executable, "-m", "headrace", "generate", "Hello", "--raw", "--model", model, "--max-tokens", "1"]
    seconds = []
    for turn in range(repeats + 1):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        if turn:
            seconds.append(time.perf_counter() - started)
    return row("start-s", "seconds", seconds, {}, lower_is_better=True)
