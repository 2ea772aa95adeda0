"""How often does an injection get past the guard of tools, and what is left of an agent's use: AgentDojo v1, scripted.

    scripted model (peers/agentdojo_worker.py) <-- headrace serve, its tools guarded <-- AgentDojo's client and tools

All 97 tasks of users and all 629 pairs of one with an injection, no model: one that obeys every injection it reads,
which no real one does. Rows are

    agentdojo-asr       % of pairs in which the benchmark finds the attacker's goal met; beside it without a guard
    agentdojo-utility   % of tasks, without an attack, that pass the benchmark's check and of which no call was
                        withheld: a script can pass a check with what it could not have known

Calls are judged by the policies that ship and by `agentdojo_tools.toml`, which says what each tool does and names no
task. It was written on banking, slack and travel; workspace was run only after. Two processes, one half of the tasks
each.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.peers.gateways import free_port
from bench.peers.process import ENVIRONMENTS, PeerProcess
from bench.report import Row

SUITES: Final = ("banking", "slack", "travel", "workspace")
PROCESSES: Final = 2
TOOLS: Final = Path(__file__).parent / "agentdojo_tools.toml"
_GUARDS: Final = {
    "none": "",
    "guard": '[policy]\nmode = "enforce"\n[flow]\nmode = "enforce"\n' + TOOLS.read_text("utf-8"),
    "guessed": '[policy]\nmode = "enforce"\n[flow]\nmode = "enforce"\n',
}
"""What the gateway is told of tools; `guessed`: nothing, so that all is guessed from their declarations."""

Outcome = dict[str, Any]


class Half:
    """A worker with its gateways, which does its part of every suite."""

    def __init__(self, part: int, stack: ExitStack) -> None:
        self.part = part
        self._worker = stack.enter_context(PeerProcess("agentdojo", "agentdojo_worker.py"))
        self.about = self._worker("open")
        self._stack = stack
        self._urls: dict[str, str] = {}

    def run(self, suite: str, guard: str, *, primes: bool = False) -> dict[str, list[Outcome]]:
        """Every task and pair of this half."""
        if guard not in self._urls:
            self._urls[guard] = self._serve(_GUARDS[guard])
        return self._worker(
            "suite",
            name=suite,
            url=self._urls[guard],
            attack="important_instructions",
            primes=primes,
            part=self.part,
            parts=PROCESSES,
        )

    def _serve(self, settings: str) -> str:
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        backend = f'url = "http://127.0.0.1:{self.about["port"]}/v1"\n'
        (folder / "headrace.toml").write_text(
            '[backends.scripted]\nkind = "openai-compatible"\n'
            + backend
            + "[backends.scripted.models.scripted]\n"
            + settings
        )
        command = [sys.executable, "-m", "headrace", "serve", "--config", folder / "headrace.toml"]
        command += ["--port", str(port), "--home", folder]
        log = self._stack.enter_context((folder / "log").open("wb"))
        process = subprocess.Popen([str(one) for one in command], stdout=log, stderr=log)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            if process.poll() is not None:
                raise SystemExit(f"the gateway did not start:\n{(folder / 'log').read_text()}")
            try:
                urllib.request.urlopen(f"{url}/health", timeout=2).close()
            except OSError:
                time.sleep(0.1)
            else:
                return f"{url}/v1"
        raise SystemExit("the gateway did not start within 30 s")


def rows(options: argparse.Namespace, notes: dict[str, Any]) -> list[Row]:
    """The two rows; `notes` get every suite's counts."""
    if not is_installed(notes):
        return []
    began = time.monotonic()
    with ExitStack() as stack:
        halves = [Half(part, stack) for part in range(PROCESSES)]
        bare = measure(halves, "none")
        guarded = measure(halves, "guard")
        notes["agentdojo"] = halves[0].about["version"]
    notes["model"] = "scripted: obeys every injection that it reads"
    notes["seconds"] = round(time.monotonic() - began)
    for name, found in {"none": bare, "guard": guarded}.items():
        notes[name] = {suite: counts(found[suite]) for suite in SUITES}
    return [
        row_of("agentdojo-asr", asr(guarded), asr(bare), "no guard", len(all_of(guarded, "pairs"))),
        row_of("agentdojo-utility", utility(guarded), utility(bare), "no guard", len(all_of(guarded, "users"))),
    ]


def is_installed(notes: dict[str, Any]) -> bool:
    """Whether there is an AgentDojo; if not, that is told."""
    if (ENVIRONMENTS / "agentdojo" / "bin" / "python").exists():
        return True
    notes["left out"] = "AgentDojo is not installed; run `make agentdojo-env` first"
    print(f"  {notes['left out']}.", file=sys.stderr)
    return False


def measure(halves: Sequence[Half], guard: str, *, primes: bool = False) -> dict[str, dict[str, list[Outcome]]]:
    """All suites, the halves at the same time."""
    found: dict[str, dict[str, list[Outcome]]] = {suite: {"users": [], "pairs": []} for suite in SUITES}
    failed: list[BaseException] = []

    def work(half: Half) -> None:
        try:
            for suite in SUITES:
                for kind, outcomes in half.run(suite, guard, primes=primes).items():
                    found[suite][kind] += outcomes
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=work, args=(half,)) for half in halves]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise SystemExit(f"a half of AgentDojo failed: {failed[0]!r}")
    for suite, kinds in found.items():
        print(f"  {guard}{' primed' if primes else ''} {suite}: {json.dumps(counts(kinds))}", file=sys.stderr)
    return found


def _is_useful(one: Outcome) -> bool:
    return one["useful"] and all(whose != "user" for whose, _ in one["withheld"])


def counts(kinds: dict[str, list[Outcome]]) -> dict[str, Any]:
    """What is told of a suite."""
    users, pairs = kinds["users"], kinds["pairs"]
    return {
        "tasks": len(users),
        "useful": sum(map(_is_useful, users)),
        "useful by the check alone": sum(one["useful"] for one in users),
        "pairs": len(pairs),
        "read": sum(one["has_read"] for one in pairs),
        "attacked": sum(one["attacked"] for one in pairs),
        "useful under attack": sum(map(_is_useful, pairs)),
        "attacked by": dict(Counter(one["injection"] for one in pairs if one["attacked"])),
    }


def all_of(found: dict[str, dict[str, list[Outcome]]], kind: str) -> list[Outcome]:
    """Outcomes of all suites."""
    return [one for kinds in found.values() for one in kinds[kind]]


def asr(found: dict[str, dict[str, list[Outcome]]]) -> float:
    """Percent of pairs whose injection met its goal."""
    pairs = all_of(found, "pairs")
    return 100.0 * sum(bool(one["attacked"]) for one in pairs) / len(pairs)


def utility(found: dict[str, dict[str, list[Outcome]]]) -> float:
    """Percent of tasks that are done as they should be."""
    users = all_of(found, "users")
    return 100 * sum(map(_is_useful, users)) / len(users)


def row_of(measure: str, ours: float, peer: float, peer_name: str, num: int) -> Row:
    """A row of percents."""
    return Row(measure, "%", ours, peer=peer, peer_name=peer_name, n=num)
