"""Which start of the machine this is: what was written to files survives a process, but not always its machine.

Knows nothing of what depends on it.
"""

from pathlib import Path
from typing import Final
from uuid import uuid4

_LINUX: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The same text until the machine starts anew. Where that cannot be told, another one each time: whoever compares
    then takes the worse case."""
    try:
        return _LINUX.read_text("ascii").strip()
    except OSError:
        return uuid4().hex
