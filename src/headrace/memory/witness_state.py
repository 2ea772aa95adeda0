"""What a witness remembers: for each log the latest checkpoint that it cosigned, a file each, whole and synced before
anybody hears of it. One process keeps a folder. Knows nothing of what is in a checkpoint."""

from hashlib import sha256
from pathlib import Path

from headrace.core.errors import Conflict
from headrace.memory.log_files import LogFiles


class WitnessState:
    """A folder, open. `close` it."""

    def __init__(self, folder: Path) -> None:
        """Raises Conflict while another process keeps it, Unavailable if it cannot be used."""
        try:
            self._files = LogFiles.take(folder)
        except Conflict as error:
            raise Conflict(
                f"another witness keeps {folder}; two would sign what neither has checked. Stop it, or choose another "
                "folder.",
                code="witness_taken",
            ) from error

    def read(self, origin: str) -> bytes | None:
        """What was remembered of a log; None: nothing. Raises Unavailable."""
        return self._files.read(_name(origin))

    def write(self, origin: str, note: bytes) -> None:
        """Remember this of a log from now on. Raises DiskFull or Unavailable; then it is as it was."""
        self._files.write([(_name(origin), note)])

    def by_hash(self, origin_hash: str) -> bytes | None:
        """What was remembered of the log whose origin has this SHA-256, in hexadecimal."""
        is_hash = len(origin_hash) == 64 and set(origin_hash) <= set("0123456789abcdef")
        return self._files.read(origin_hash) if is_hash else None

    def close(self) -> None:
        """Let others keep it."""
        self._files.close()


def _name(origin: str) -> str:
    return sha256(origin.encode()).hexdigest()
