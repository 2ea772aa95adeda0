"""What does the guard of tools let through to an attacker who knows it, and what does it do with tools that nobody has
described? AgentDojo as in `agentdojo.py`.

    agentdojo-adaptive           % of pairs in which the attacker's goal is met, where each injection has look-ups made
                                 first that might vouch for its own names and addresses; beside it the plain injection
    agentdojo-guessed-asr        as agentdojo-asr, and
    agentdojo-guessed-utility    as agentdojo-utility, with nothing said of tools: all is guessed from their names
"""

import argparse
from contextlib import ExitStack
from typing import Any

from bench.report import Row
from bench.trust.agentdojo import PROCESSES, SUITES, Half, all_of, asr, counts, is_installed, measure, row_of, utility


def rows(_: argparse.Namespace, notes: dict[str, Any]) -> list[Row]:
    """The three rows; `notes` get every suite's counts."""
    if not is_installed(notes):
        return []
    with ExitStack() as stack:
        halves = [Half(part, stack) for part in range(PROCESSES)]
        plain = measure(halves, "guard")
        adaptive = measure(halves, "guard", primes=True)
        guessed = measure(halves, "guessed")
    for name, found in {"guard": plain, "adaptive": adaptive, "guessed": guessed}.items():
        notes[name] = {suite: counts(found[suite]) for suite in SUITES}
    num_pairs, num_tasks = len(all_of(plain, "pairs")), len(all_of(plain, "users"))
    return [
        row_of("agentdojo-adaptive", asr(adaptive), asr(plain), "plain injection", num_pairs),
        row_of("agentdojo-guessed-asr", asr(guessed), asr(plain), "described tools", num_pairs),
        row_of("agentdojo-guessed-utility", utility(guessed), utility(plain), "described tools", num_tasks),
    ]
