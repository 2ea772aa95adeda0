"""Starts a peer's worker in the peer's own environment and talks to it line by line. Knows no peer."""

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

ENVIRONMENTS = Path(__file__).parents[2] / ".peers"


class PeerProcess:
    """A running worker; every call is one command and one answer. Ends with the `with` block."""

    def __init__(self, environment: str, worker: str) -> None:
        python = ENVIRONMENTS / environment / "bin" / "python"
        if not python.exists():
            raise SystemExit(f"The peer {environment!r} is not installed; run `make bench-peers` first.")
        self._process = subprocess.Popen(
            [python, Path(__file__).parent / worker], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the peer ended with status {self._process.wait()} during {do!r}")
        result: dict[str, Any] = json.loads(answer)
        return result

    def __enter__(self) -> "PeerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
