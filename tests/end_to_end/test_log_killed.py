"""A few kills of a process that writes the log; `make log-soak` does five hundred."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_killed_at_any_moment_the_log_loses_nothing_acknowledged_and_never_forks() -> None:
    # A program of its own, because it forks, which a process with threads must not.
    command = [sys.executable, "-m", "tests.soak.log_killed", "--times", "8", "--seed", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = re.search(
        r"8 kills \(4 of them within a write\).*: (\d+) acknowledged items .*, (\d+) checkpoints", done.stdout
    )
    assert found is not None and int(found[1]) > 0 and int(found[2]) > 0
