"""What a monitor has counted, in a file between two runs: replaced as a whole, or left as it was.

Nobody but its owner may read it. Knows nothing of what is in one.
"""

import contextlib
import os
from pathlib import Path

from headrace.core.errors import Unavailable

MAX_BYTES = 256 * 2**20


def load_state(path: Path) -> bytes | None:
    """The bytes, None if there are none yet. Raises Unavailable if they cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"the state {path} cannot be read ({error.strerror or error}); check it.") from error
    return data if len(data) <= MAX_BYTES else None


def save_state(path: Path, data: bytes) -> None:
    """Put these in the place of those before. Raises Unavailable if that cannot be."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise Unavailable(f"the state {path} cannot be written ({error.strerror or error}); make room.") from error
