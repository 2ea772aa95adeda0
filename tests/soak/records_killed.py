"""Kills a server that holds answers for their records, with `kill -9` and under load: `make records-soak` (TIMES=50).

A real `headrace serve` of a tiny model, with `records.waits`. Clients ask in every protocol, whole and streamed; as
soon as they have got so many answers whole the server is killed, and another begins on the same state directory. At the
end one begins that is ended well, and then:

    the record of every answer that a client got whole is in the log's database, and under its checkpoint

`--no-waits` shows what is lost without it. Not part of the test run beyond the few kills of
`tests/end_to_end/test_records_killed.py`.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.gguf_files import write_tiny_llama

CLIENTS = 6
MOST_ANSWERS = 40
TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"
HI = [{"role": "user", "content": "a mill"}]
ASKS: dict[str, tuple[dict[str, Any], bytes]] = {  # what is asked, and what the end of a stream says
    "/v1/chat/completions": ({"messages": HI, "max_tokens": 3}, b"data: [DONE]"),
    "/v1/completions": ({"prompt": "a mill", "max_tokens": 3}, b"data: [DONE]"),
    "/v1/messages": ({"messages": HI, "max_tokens": 3}, b'"type":"message_stop"'),
    "/v1/responses": ({"input": "a mill", "max_output_tokens": 3, "store": False}, b"event: response."),
    "/api/chat": ({"messages": HI, "options": {"num_predict": 3}}, b'"done":true'),
}
ENDS = re.compile(rb"event: response\.(?:completed|incomplete)")
SETTINGS = '[records]\nmode = "enforce"\nwaits = {waits}\n'


@dataclass
class Seen:
    """What clients saw: the record of each answer that came whole, and how everything ended."""

    whole: dict[str, str] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    grown: asyncio.Event = field(default_factory=asyncio.Event)


class Server:
    """A `headrace serve` of its own process; on leaving it is killed, if it is still there."""

    def __init__(self, folder: Path) -> None:
        words = ["serve", str(folder / "tiny.gguf"), "--port", "0", "--threads", "1", "--log-level", "error"]
        files = ["--home", str(folder / "home"), "--config", str(folder / "headrace.toml")]
        self._command = [sys.executable, "-m", "headrace", *words, *files]
        self.port = 0

    async def __aenter__(self) -> "Server":
        pipe = asyncio.subprocess.PIPE
        self._process = await asyncio.create_subprocess_exec(*self._command, stdout=pipe, stderr=pipe)
        assert self._process.stdout is not None and self._process.stderr is not None
        line = await self._process.stdout.readline()
        found = re.search(rb":(\d+)\s*$", line)
        if found is None:
            raise AssertionError((line + await self._process.stderr.read()).decode()[-2000:])
        self.port = int(found[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            await self.end(signal.SIGKILL)

    async def end(self, how: signal.Signals) -> None:
        self._process.send_signal(how)
        _, errors = await self._process.communicate()
        assert b"Traceback" not in errors, errors[-3000:].decode()


async def ask(port: int, path: str, *, is_stream: bool, seen: Seen) -> bool:
    """One request. False: there is no server any more."""
    fields, end = ASKS[path]
    body = json.dumps({"model": "tiny", "stream": is_stream} | fields).encode()
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    head = b"POST %b HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nconnection: close\r\n"
    data = b""
    with contextlib.suppress(OSError):
        writer.write(head % path.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body))
        data = await reader.read()
    writer.close()
    status, rest = data[9:12].decode(), data.partition(b"\r\n\r\n")[2]
    length = re.search(rb"\r\ncontent-length: (\d+)\r\n", data)
    if not is_stream:
        is_whole = length is not None and len(rest) == int(length[1])
    elif path == "/v1/responses":
        is_whole = ENDS.search(rest) is not None
    else:
        is_whole = end in rest
    record = re.search(rb"\r\nx-headrace-record: (\w+)\r\n", data)
    if status == "200" and is_whole:
        assert record is not None, data
        seen.whole[record[1].decode()] = f"{path} {'streamed' if is_stream else 'whole'}"
        seen.ends["whole"] += 1
        seen.grown.set()
    else:
        seen.ends["cut off" if status in ("", "200") else status] += 1
    return True


async def load(port: int, seen: Seen, dice: random.Random) -> None:
    """Ask until there is no server any more."""

    async def client() -> None:
        while await ask(port, dice.choice(list(ASKS)), is_stream=dice.random() < 0.5, seen=seen):
            pass

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(client())


async def run(folder: Path, times: int, seed: int, *, waits: bool = True) -> Seen:
    """Kill a server so many times; what clients saw. The last one is ended well."""
    dice, seen = random.Random(seed), Seen()
    write_tiny_llama(folder / "tiny.gguf", template=TEMPLATE)
    (folder / "headrace.toml").write_text(SETTINGS.format(waits=str(waits).lower()))
    for _ in range(times):
        async with Server(folder) as server:
            clients = asyncio.create_task(load(server.port, seen, dice))
            enough = len(seen.whole) + dice.randrange(1, MOST_ANSWERS)
            while len(seen.whole) < enough:
                seen.grown.clear()
                await seen.grown.wait()
            await server.end(signal.SIGKILL)
            await clients
    async with Server(folder) as server:
        await server.end(signal.SIGTERM)
    return seen


def missing(home: Path, seen: Seen) -> dict[str, str]:
    """Answers that came whole and whose record is not in the log. Fails if the log has more than it signed."""
    with contextlib.closing(sqlite3.connect(home / "provenance.db")) as database:
        kept = {item_id for (item_id,) in database.execute("SELECT id FROM entries")}
    size = int((home / "log" / "checkpoint").read_bytes().split(b"\n")[1])
    assert size == len(kept)
    return {item_id: what for item_id, what in seen.whole.items() if item_id not in kept}


async def main() -> None:
    """What the command does."""
    parser = argparse.ArgumentParser(description="Kill a server under load and look for records of what it answered.")
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--no-waits", action="store_true")
    given = parser.parse_args()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="headrace-killed-") as name:
        seen = await run(Path(name), given.times, given.seed, waits=not given.no_waits)
        lost = missing(Path(name) / "home", seen)
    print(f"killed {given.times} times in {time.monotonic() - began_s:.0f} s")
    print("clients saw:", dict(seen.ends), dict(Counter(seen.whole.values())))
    print(f"answers that came whole and have no record: {len(lost)}", dict(Counter(lost.values())))
    assert not lost or given.no_waits


if __name__ == "__main__":
    os.environ.pop("HEADRACE_HOME", None)
    asyncio.run(main())
