"""What does trust cost, and what is it worth? Each part is a module of this package with

    def rows(options: argparse.Namespace, notes: dict[str, Any]) -> list[Row]

which measures, and says in `notes` under which conditions. `--only` names parts.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any, Final

from bench.report import Row, publish

PARTS: Final = ("governance", "waits", "policy", "log", "agentdojo", "agentdojo_adaptive", "theft", "windows")
"""Modules of this package, in the order in which they are run."""


def arguments() -> argparse.Namespace:
    """The command line, for all parts."""
    parser = argparse.ArgumentParser(prog="python -m bench.trust", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--only", help=f"some of: {', '.join(PARTS)}; commas between several")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of what is measured by turns")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each round")
    parser.add_argument("--rate", type=float, default=500.0, help="requests a second, where they come by themselves")
    parser.add_argument("--log-seconds", type=float, default=60.0, help="how long the log takes entries")
    parser.add_argument("--log-entries", type=int, default=1_000_000, help="of the log that is proved and audited")
    parser.add_argument("--windows-jobs", type=int, default=os.cpu_count(), help="processes that ask about windows")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Measure and publish."""
    options = arguments()
    wanted = options.only.split(",") if options.only else list(PARTS)
    unknown = [name for name in wanted if name not in PARTS]
    if unknown:
        sys.exit(f"--only: {', '.join(unknown)} is no part; there are {', '.join(PARTS)}.")
    made: list[Row] = []
    config: dict[str, Any] = {"parts": wanted, "seconds": options.seconds, "repeats": options.repeats}
    for name in wanted:
        notes: dict[str, Any] = {}
        made += importlib.import_module(f"bench.trust.{name}").rows(options, notes)
        config[name] = notes
    config["load average at the end"] = os.getloadavg()[0]
    publish("trust", config, made, options.json)


if __name__ == "__main__":
    main()
