"""Kills a server with `kill -9` again and again under load, and then reads its books: `make ledger-soak` (TIMES=200).

A real `headrace serve` of a settings file stands before a scripted backend. Clients ask through it at once, whole and
streamed, with several keys, some of which leave halfway, and budgets of which some are used up in the middle. At a
random moment the server is killed, and another begins on the same state directory. At the end one begins that is ended
well, and then:

    every answer that a client got whole is in the records, once, with what the backend told
    the records, the sums by day and the sums of each budget are the same, to the billionth
    no budget is overspent, nothing is reserved, no lease and no journal are left

Not part of the test run beyond the few kills of `tests/end_to_end/test_ledger_killed.py`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.upstreams import Upstream, upstream

from headrace.cli.keys import KeyRights, add_key

KEYS = ("rich", "poor", "user")
CLIENTS = 12
PROMPT_TOKENS, COMPLETION_TOKENS = 7, 3
COST_NANOS = PROMPT_TOKENS * 1000 + COMPLETION_TOKENS * 2000  # at 1 and 2 for a million tokens
SETTINGS = """
port = 0
[[budgets]]
name = "house"
subject = "all"
window = "total"
money = {money}
[[budgets]]
name = "poor"
subject = "key:poor"
window = "total"
money = {poor}
tokens = 1_000_000_000
[[budgets]]
name = "each"
subject = "user:*"
window = "day"
tokens = 100_000
[[limits]]
name = "few"
subject = "key:*"
concurrency = 8
[backends.near]
kind = "openai-compatible"
url = "{url}/v1"
[backends.near.models.small]
max_output_tokens = 20
prices = {{input = 1, output = 2}}
[routes.chat]
candidates = ["near/small"]
"""


@dataclass
class Seen:
    """What clients saw: answers that came whole by the user that they were asked for, and how everything ended."""

    whole: set[str] = field(default_factory=set)
    ends: Counter[str] = field(default_factory=Counter)


class Server:
    """A `headrace serve` of its own process."""

    def __init__(self, home: Path, settings: Path) -> None:
        self._command = [sys.executable, "-m", "headrace", "serve", "--home", str(home), "--config", str(settings)]
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        line = (await self._process.stdout.readline()).decode()
        if ":" not in line:
            assert self._process.stderr is not None
            raise AssertionError((await self._process.stderr.read()).decode()[-2000:])
        self.port = int(line.rsplit(":", 1)[1])

    async def end(self, how: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(how)
        _, errors = await self._process.communicate()
        for word in (b"Traceback", b"never retrieved"):
            assert word not in errors, errors[-3000:].decode()


async def ask(port: int, key: str, name: str, dice: random.Random, seen: Seen) -> bool:
    """One request; a client that is cut off has seen nothing whole. False: there is no server any more."""
    is_stream, leaves = dice.random() < 0.5, dice.random() < 0.1
    fields = {"model": "chat", "messages": [{"role": "user", "content": "x" * dice.randrange(200)}], "user": name}
    body = json.dumps(fields | {"stream": is_stream}).encode()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    try:
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"connection: close\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (key.encode(), len(body), body)
        )
        if leaves:
            await reader.read(40)
            seen.ends["left"] += 1
            return True
        data = await reader.read()
    except OSError:
        data = b""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    head, _, rest = data.partition(b"\r\n\r\n")
    status = head[9:12].decode()
    is_whole = b"data: [DONE]" in rest if is_stream else rest.rstrip().endswith(b"}")
    if status == "200" and is_whole:
        seen.whole.add(name)
        seen.ends["whole"] += 1
    else:
        seen.ends[status if status and status != "200" else "cut off"] += 1
    return True


async def load(port: int, keys: Sequence[str], begun: int, seen: Seen, dice: random.Random) -> None:
    """Ask until there is no server any more."""
    numbers = iter(range(10**9))

    async def client() -> None:
        while await ask(port, dice.choice(keys), f"u{begun}-{next(numbers)}", dice, seen):
            pass

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())


async def run(folder: Path, times: int, seed: int, up: Upstream, *, longest_s: float = 0.5) -> Seen:
    """Kill a server so many times; what clients saw. The last one is ended well."""
    dice, seen, home = random.Random(seed), Seen(), folder / "home"
    home.mkdir()
    keys = [add_key(home / "keys.toml", name, KeyRights(), datetime.now(UTC)) for name in KEYS]
    settings = folder / "headrace.toml"
    settings.write_text(SETTINGS.format(url=up.url, money=times * 0.02, poor=times * 0.0004))
    up.usage = (PROMPT_TOKENS, COMPLETION_TOKENS)
    for number in range(times + 1):
        server = Server(home, settings)
        await server.start()
        clients = asyncio.create_task(load(server.port, keys, number, seen, dice))
        await asyncio.sleep(dice.uniform(0.02, longest_s))
        await server.end(signal.SIGKILL if number < times else signal.SIGTERM)
        clients.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await clients
        up.received.clear()
    return seen


def read_books(home: Path, seen: Seen) -> dict[str, int]:
    """Hold the books against each other and against what clients saw; what is in them. Fails by AssertionError."""
    with contextlib.closing(sqlite3.connect(home / "headrace.db")) as database:
        records = database.execute(
            "SELECT user, outcome, cost_nanos, prompt_tokens + completion_tokens, key FROM usage_records"
        ).fetchall()
        sums = database.execute("SELECT subject, SUM(nanos), SUM(tokens) FROM budget_periods GROUP BY subject")
        periods = {subject: (nanos, tokens) for subject, nanos, tokens in sums}
        days = database.execute(
            "SELECT SUM(num_requests), SUM(cost_nanos), SUM(prompt_tokens + completion_tokens) FROM usage_days"
        ).fetchone()
        leases = database.execute(
            "SELECT COUNT(*) FROM budget_periods WHERE lease_nanos IS NOT NULL OR lease_tokens IS NOT NULL"
        ).fetchone()
    users = [record[0] for record in records]
    assert len(users) == len(set(users)), "a request is there twice"
    missing = seen.whole - set(users)
    assert not missing, f"{len(missing)} answers that came whole are in no record: {sorted(missing)[:5]}"
    for user, outcome, nanos, tokens, _ in records:
        if outcome == "ok":
            assert (nanos, tokens) == (COST_NANOS, PROMPT_TOKENS + COMPLETION_TOKENS), user
        elif user in seen.whole:
            assert nanos >= COST_NANOS, f"{user} was told whole, is {outcome}, and costs less"
    total = sum(record[2] for record in records), sum(record[3] for record in records)
    assert periods["all"] == total, "the house's sum is not that of the records"
    assert (days[0], days[1], days[2]) == (len(records), *total), "the days' sums are not those of the records"
    poor = sum(record[2] for record in records if record[4] == "poor")
    assert periods.get("key:poor", (0, 0))[0] == poor
    for user, _, nanos, tokens, _ in records:
        assert periods[f"user:local/{user}"] == (nanos, tokens)
    assert leases[0] == 0, "leases are left"
    assert not list((home / "accounts").glob("*/*.journal")), "a journal is left"
    return {"records": len(records), "nanos": total[0], "poor_nanos": poor, **Counter(record[1] for record in records)}


async def main() -> None:
    """What the command does."""
    parser = argparse.ArgumentParser(description="Kill a server under load and read its books.")
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-killed-") as name:
        async with upstream() as up:
            seen = await run(Path(name), given.times, given.seed, up)
        books = read_books(Path(name) / "home", seen)
        assert books["nanos"] <= given.times * 0.02 * 1e9
        assert books["poor_nanos"] <= given.times * 0.0004 * 1e9
    print(f"killed {given.times} times in {time.monotonic() - began_s:.0f} s")
    print("clients saw:", dict(seen.ends))
    print("the books hold:", books)


if __name__ == "__main__":
    os.environ.pop("HEADRACE_HOME", None)
    asyncio.run(main())
