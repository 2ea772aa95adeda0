"""Half an hour of mixed load at a real server, after which nothing may have grown: `make soak` (MINUTES=30).

Conversations that share prefixes and go on, long prompts, JSON schemas, log-probabilities, several choices, penalties,
sessions, breakpoints, embeddings, scores, a second language model that does not fit beside the first, clients that
vanish in the middle of a stream and bad requests, from three tenants at once, with the disk cache on. Every ten seconds
the server's own memory (mapped weights come and go), file descriptors and threads are noted. It fails on any answer
that is not as asked for, and if after the first third memory grows by more than the bounds below. Not part of the test
run, and no benchmark: the load is whatever the machine bears.
"""

import argparse
import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx

from headrace.cli.keys import KeyRights, add_key
from headrace.models.store import default_home, installed_names

MOST_GROWTH_MB = 24.0  # of its own memory, last third against middle third, medians: what allocators keep in pieces
MOST_MORE_FILES = 8
SAMPLE_S = 10.0
CLIENTS = 12
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
CHAT, EMBEDDER, GUEST = "smollm2-135m-instruct", "all-minilm-l6-v2", "gemma3-270m"
MEMORY_MIB = 480  # the embedder fits beside either of the others, but these not beside each other
WORDS = ("river", "mill", "wheel", "stone", "water", "grain", "sluice", "flow", "bank", "weir", "gate", "turbine")


class Server:
    """`headrace serve` as a process, with keys for three tenants and a disk cache of its own."""

    def __init__(self, folder: Path, models: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        self.url = f"http://127.0.0.1:{port}"
        keys_file = folder / "keys.toml"
        now = datetime.now(UTC)
        self.keys = [
            add_key(keys_file, tenant, KeyRights(tenant=tenant, scopes=("generate", "metrics", "admin")), now)
            for tenant in ("ann", "bob", "eve")
        ]
        command = [sys.executable, "-m", "headrace", "serve", *models, "--port", str(port), "--kv-memory", "160MiB"]
        command += ["--memory", f"{MEMORY_MIB}MiB", "--model-ttl", "20"]
        command += ["--keys", str(keys_file), "--disk-cache", str(folder / "pages")]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("wb"))

    def resources(self) -> tuple[float, int, int]:
        """Megabytes of its own, open files, threads."""
        base = Path(f"/proc/{self.process.pid}")
        status = (base / "status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        return int(fields["RssAnon"].split()[0]) / 1000, len(list((base / "fd").iterdir())), int(fields["Threads"])


class Load:
    """Clients that ask for everything there is, and what came of it."""

    def __init__(self, server: Server, seed: int, *, has_guest: bool) -> None:
        self.server = server
        self.has_guest = has_guest
        self.draws = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.ends_at = 0.0

    async def client(self, number: int) -> None:
        headers = {"authorization": f"Bearer {self.server.keys[number % 3]}", "x-headrace-session": f"s{number}"}
        kinds = [self.whole, self.stream, self.vanish, self.schema, self.choices, self.scored, self.wrong, self.long]
        kinds += [self.embed, self.score]
        async with httpx.AsyncClient(base_url=self.server.url, headers=headers, timeout=600.0) as http:
            while time.monotonic() < self.ends_at:
                kind = self.draws.choice(kinds)
                if self.has_guest and self.draws.random() < 0.02:
                    kind = self.guest
                await kind(http)
                self.counts[kind.__name__] += 1

    def text(self, words: int) -> str:
        return " ".join(self.draws.choice(WORDS) for _ in range(words))

    def body(self, **more: Any) -> dict[str, Any]:
        topic = self.draws.randrange(6)
        system = " ".join(random.Random(topic).choice(WORDS) for _ in range(200))
        return {
            "model": CHAT,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": f"Tell me of the {self.text(self.draws.randint(1, 30))}."},
            ],
            "max_tokens": self.draws.randint(1, 48),
            "temperature": self.draws.choice([0.0, 0.7, 1.5]),
            "top_p": self.draws.choice([1.0, 0.9]),
            "frequency_penalty": self.draws.choice([0.0, 0.5]),
        } | more

    async def ask(self, http: httpx.AsyncClient, body: dict[str, Any], status: int = 200) -> Any:
        answer = await http.post("/v1/chat/completions", json=body)
        assert answer.status_code == status, f"{answer.status_code}: {answer.text[:500]}"
        return answer.json()

    async def whole(self, http: httpx.AsyncClient) -> None:
        answer = await self.ask(http, self.body())
        assert answer["choices"][0]["finish_reason"] in {"stop", "length"}

    async def long(self, http: httpx.AsyncClient) -> None:
        await self.ask(http, self.body(messages=[{"role": "user", "content": self.text(1500)}], max_tokens=4))

    async def stream(self, http: httpx.AsyncClient) -> None:
        async with http.stream("POST", "/v1/chat/completions", json=self.body(stream=True)) as answer:
            assert answer.status_code == 200
            lines = [line async for line in answer.aiter_lines() if line]
        assert lines[-1] == "data: [DONE]"

    async def vanish(self, http: httpx.AsyncClient) -> None:
        body = self.body(stream=True, max_tokens=200)
        async with http.stream("POST", "/v1/chat/completions", json=body) as answer:
            patience = self.draws.randint(0, 12)
            async for _ in answer.aiter_lines():
                patience -= 1
                if patience < 0:
                    break

    async def schema(self, http: httpx.AsyncClient) -> None:
        form = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
        answer = await self.ask(http, self.body(response_format=form, max_tokens=64, frequency_penalty=0.0))
        choice = answer["choices"][0]
        if choice["finish_reason"] == "stop":
            person = json.loads(choice["message"]["content"])
            assert set(person) == {"name", "age"}

    async def choices(self, http: httpx.AsyncClient) -> None:
        answer = await self.ask(http, self.body(n=3, temperature=1.0))
        assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]

    async def scored(self, http: httpx.AsyncClient) -> None:
        answer = await self.ask(http, self.body(logprobs=True, top_logprobs=3))
        content = answer["choices"][0]["logprobs"]["content"]
        assert all(len(one["top_logprobs"]) == 3 for one in content)

    async def embed(self, http: httpx.AsyncClient) -> None:
        texts = [self.text(self.draws.randint(1, 120)) for _ in range(self.draws.randint(1, 20))]
        answer = await http.post("/v1/embeddings", json={"model": EMBEDDER, "input": texts})
        assert answer.status_code == 200, answer.text[:500]
        vectors = [one["embedding"] for one in answer.json()["data"]]
        assert len(vectors) == len(texts)
        assert all(abs(sum(value * value for value in vector) - 1.0) < 1e-3 for vector in vectors)

    async def score(self, http: httpx.AsyncClient) -> None:
        ends = [self.draws.choice(WORDS) for _ in range(4)]
        body = {"model": CHAT, "text_1": f"Tell me of the {self.text(60)} and of the", "text_2": ends}
        answer = await http.post("/v1/score", json=body)
        assert answer.status_code == 200, answer.text[:500]
        assert all(one["score"] < 0.0 for one in answer.json()["data"])

    async def guest(self, http: httpx.AsyncClient) -> None:
        body = {"model": GUEST, "prompt": f"Of the {self.text(8)}", "max_tokens": 8}
        answer = await http.post("/v1/completions", json=body)
        assert answer.status_code == 200, answer.text[:500]
        held = (await http.get("/models")).json()
        assert sum(one["bytes_held"] for one in held["data"]) <= MEMORY_MIB * 2**20, held

    async def wrong(self, http: httpx.AsyncClient) -> None:
        answer = await self.ask(http, self.body(temperature=-1), status=400)
        assert "temperature" in answer["error"]["message"]


Samples = list[tuple[float, int, int]]


async def soak(server: Server, minutes: float, seed: int, *, has_guest: bool) -> tuple[Load, Samples]:
    """Run the load; the server's resources over time."""
    async with httpx.AsyncClient(base_url=server.url) as http:
        for _ in range(600):
            try:
                if (await http.get("/ready")).status_code == 200:
                    break
            except httpx.TransportError:
                await asyncio.sleep(0.1)
    load = Load(server, seed, has_guest=has_guest)
    load.ends_at = time.monotonic() + 60 * minutes
    clients = [asyncio.create_task(load.client(number)) for number in range(CLIENTS)]
    samples: Samples = []
    while not all(client.done() for client in clients):
        await asyncio.wait(clients, timeout=SAMPLE_S, return_when=asyncio.FIRST_EXCEPTION)
        for client in clients:
            if client.done():
                client.result()
        samples.append(server.resources())
    return load, samples


async def at_rest(server: Server) -> str:
    """The metrics once nothing runs."""
    async with httpx.AsyncClient(base_url=server.url, headers={"authorization": f"Bearer {server.keys[0]}"}) as http:
        for _ in range(100):
            text = (await http.get("/metrics")).text
            busy = re.findall(r"^vllm:num_requests_(?:running|waiting)\{.*\} (\S+)$", text, flags=re.MULTILINE)
            if busy and all(float(value) == 0.0 for value in busy):
                return text
            await asyncio.sleep(0.1)
    raise AssertionError("sequences are left although nobody asks any more")


def median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def judge(samples: Samples) -> None:
    """Raise AssertionError if something has grown after the first third."""
    third = len(samples) // 3
    assert third >= 2, "too short to judge; soak for longer"
    middle, last = samples[third : 2 * third], samples[2 * third :]
    growth = median([mb for mb, _, _ in last]) - median([mb for mb, _, _ in middle])
    files = median([float(count) for _, count, _ in last]) - median([float(count) for _, count, _ in middle])
    threads = max(count for _, _, count in last) - max(count for _, _, count in middle)
    print(f"middle to last third: {growth:+.1f} MB, {files:+.0f} files, {threads:+d} threads")
    assert growth <= MOST_GROWTH_MB, f"memory grew by {growth:.1f} MB"
    assert files <= MOST_MORE_FILES, f"{files:.0f} more files are open"
    assert threads <= 1, f"{threads} more threads"


def main() -> None:
    """Soak, judge, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.mixed_load")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        has_guest = GUEST in installed_names(default_home(os.environ))
        if not has_guest:
            print(f"{GUEST} is not installed, so no model takes another's place: headrace pull {GUEST}")
        server = Server(folder, [CHAT, EMBEDDER, *([GUEST] if has_guest else [])])
        try:
            load, samples = asyncio.run(soak(server, options.minutes, options.seed, has_guest=has_guest))
            asyncio.run(at_rest(server))
        except BaseException:
            print((folder / "log").read_text(errors="replace")[-4000:])
            raise
        finally:
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(timeout=60)
        errors = [line for line in (folder / "log").read_text(errors="replace").splitlines() if '"error"' in line]
    print(f"{sum(load.counts.values())} requests in {options.minutes:g} minutes: {dict(load.counts)}")
    print("own MB: " + " ".join(f"{mb:.0f}" for mb, _, _ in samples))
    assert not errors, errors[:3]
    judge(samples)


if __name__ == "__main__":
    main()
