"""Gateways as processes on one core, ours and others, each in front of the same backend and asked in its own way.

Knows how each is started and what its clients send; measures nothing. Others run in environments of their own, which
`make bench-gateways` makes. Settings are each one's best for one core: one worker, logs into a file.
"""

import hashlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench.fast_upstream import MODEL
from bench.peers.process import ENVIRONMENTS

CORE = 0
"""The gateway's; load and backend have the others."""

_START_S = 90.0
_TICKS_S = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class Gateway:
    """A running gateway: where it listens, what a client's request to it has."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    headers: Sequence[dict[str, str]]
    model: str
    path: str = "/v1/chat/completions"
    folder: tempfile.TemporaryDirectory[str] | None = None

    def cpu_s(self) -> float:
        """Seconds of CPU that its processes had so far."""
        return sum(self._stat(pid) for pid in (self.process.pid, *_children(self.process.pid)))

    @staticmethod
    def _stat(pid: int) -> float:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_S

    def rss_mb(self) -> float:
        """Megabytes that it has in memory."""
        kib = 0
        for pid in (self.process.pid, *_children(self.process.pid)):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            kib += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        return kib / 1024

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.folder is not None:
            self.folder.cleanup()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    found = [int(one) for one in text.split()]
    return found + [inner for one in found for inner in _children(one)]


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    command: Sequence[str | Path], *, core: int | None = CORE, more: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A process on a core of its own (None: on all but the gateway's), with variables `more`."""
    cores = os.sched_getaffinity(0)
    wanted = {core} if core is not None else (cores - {CORE} or cores)
    os.sched_setaffinity(0, wanted)  # a process inherits it, threads and all
    try:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **(more or {})}
        log = Path(tempfile.gettempdir()) / f"bench-{Path(str(command[0])).name}-{os.getpid()}.log"
        with log.open("ab") as output:
            return subprocess.Popen(list(command), stdout=output, stderr=output, env=environment)
    finally:
        os.sched_setaffinity(0, cores)


def _wait(made: Gateway, path: str) -> Gateway:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if made.process.poll() is not None:
            raise RuntimeError(f"{made.name} ended with status {made.process.returncode} before it was up")
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{made.port}{path}", timeout=2).close()
        except OSError as error:
            if getattr(error, "code", None) in (401, 404):  # it answers
                return made
            time.sleep(0.1)
        else:
            return made
    made.__exit__()
    raise RuntimeError(f"{made.name} was not up after {_START_S:g} s")


def ours(
    upstream_port: int,
    *,
    num_backends: int = 1,
    num_keys: int = 10,
    more: Sequence[str] = (),
    program: Sequence[str] = ("-m", "headrace"),
    headers: Sequence[dict[str, str]] | None = None,
    name: str = "headrace",
    environment: Mapping[str, str] | None = None,
) -> Gateway:
    """Headrace, everything governed: key, budget, limits, route, usage record. `more` are lines of its settings file,
    `headers` those of callers who show no key, `program` what is run in place of its own."""
    folder = tempfile.TemporaryDirectory()
    port = free_port()
    shown = [f"hr_bench{index:06d}" + "x" * 32 for index in range(num_keys)]
    lines: list[str] = []
    for index in range(num_backends):
        lines += [
            f"[backends.fast{index}]",
            'kind = "openai-compatible"',
            f'url = "http://127.0.0.1:{upstream_port}/v1"',
            f'[backends.fast{index}.models."{MODEL}"]',
            "max_output_tokens = 4096",
            "prices = {input = 1.0, output = 2.0}",
        ]
    candidates = ", ".join(f'"fast{index}/{MODEL}"' for index in range(num_backends))
    lines += ["[routes.cheap]", f"candidates = [{candidates}]"]
    lines += ["[[budgets]]", 'subject = "key:*"', 'window = "month"', "money = 1000000000"]
    lines += ["[[limits]]", 'subject = "key:*"', "requests_per_minute = 100000000", "concurrency = 100000"]
    for index, key in enumerate(shown):
        digest = hashlib.sha256(key.encode()).hexdigest()
        lines += ["[[keys]]", f'name = "key{index}"', f'tenant = "tenant{index % 100}"', f'sha256 = "{digest}"']
    config = Path(folder.name) / "headrace.toml"
    config.write_text("\n".join([*lines, *more]) + "\n")
    command = [sys.executable, *program, "serve", "--config", config, "--port", str(port)]
    process = start([*map(str, command), "--home", folder.name], more=environment)
    if headers is None:
        headers = [{"authorization": f"Bearer {key}"} for key in shown[:100]]
    return _wait(Gateway(name, port, process, headers, "cheap", folder=folder), "/health")


def litellm(upstream_port: int) -> Gateway:
    """LiteLLM's proxy: one worker, a master key, no database, so no virtual keys and no budgets."""
    folder = tempfile.TemporaryDirectory()
    port = free_port()
    config = Path(folder.name) / "config.yaml"
    config.write_text(
        "model_list:\n  - model_name: cheap\n    litellm_params:\n"
        f"      model: openai/{MODEL}\n      api_base: http://127.0.0.1:{upstream_port}/v1\n      api_key: none\n"
        "general_settings:\n  master_key: sk-bench\n"
        "litellm_settings:\n  telemetry: false\n  set_verbose: false\n"
    )
    binary = ENVIRONMENTS / "litellm" / "bin" / "litellm"
    command = [binary, "--config", config, "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"]
    process = start(
        [*map(str, command)],
        more={"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"},
    )
    made = Gateway("litellm", port, process, [{"authorization": "Bearer sk-bench"}], "cheap", folder=folder)
    return _wait(made, "/health/liveliness")


def portkey(upstream_port: int) -> Gateway:
    """Portkey's open gateway: it has no keys of its own and no budgets; the route is in the headers."""
    port = free_port()
    server = ENVIRONMENTS / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    process = start(["node", server, f"--port={port}", "--headless"], more={"NODE_ENV": "production"})
    headers = {
        "authorization": "Bearer sk-bench",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"http://127.0.0.1:{upstream_port}/v1",
    }
    return _wait(Gateway("portkey", port, process, [headers], MODEL), "/")


def vllm_router(upstream_port: int) -> Gateway:
    """vLLM's router, in Rust: no keys, no budgets, no records; round robin over one worker."""
    port = free_port()
    binary = ENVIRONMENTS / "vllm-router" / "bin" / "vllm-router"
    command = [binary, "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin", "--log-level", "error"]
    command += ["--worker-urls", f"http://127.0.0.1:{upstream_port}", "--prometheus-port", str(free_port())]
    process = start([str(one) for one in command])
    return _wait(Gateway("vllm-router", port, process, [{}], MODEL), "/health")


PEERS: dict[str, Callable[[int], Gateway]] = {"litellm": litellm, "portkey": portkey, "vllm-router": vllm_router}
