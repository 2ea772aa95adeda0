"""The scripted server as a process beside a client, and what it got. Knows no client."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Serving:
    """A running server; `requests` is what its backend was asked so far, as neutral requests in JSON."""

    url: str
    record: Path

    def requests(self) -> list[dict[str, Any]]:
        """Every request, in order."""
        return [json.loads(line) for line in self.record.read_bytes().splitlines()] if self.record.exists() else []


@contextlib.contextmanager
def serving(script: Path, folder: Path) -> Iterator[Serving]:
    """Start the server on a free port; leaving stops it and asserts that it stopped as a server should."""
    record, log = folder / "requests.jsonl", folder / "server.log"
    command = [sys.executable, "-m", "tests.scripted", "--script", str(script), "--record", str(record)]
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("Serving "):
                raise RuntimeError(f"the scripted server did not start: {log.read_text()[-2000:]}")
            yield Serving(line.split()[1], record)
        finally:
            process.terminate()
    if process.returncode != 0:
        raise RuntimeError(f"the scripted server ended with {process.returncode}: {log.read_text()[-2000:]}")
