"""Gives out a log's files by the paths of C2SP tlog-tiles, and no others. Knows no HTTP."""

import asyncio
from typing import Final

from headrace.core.public_log import PublicFile
from headrace.memory.log_files import CHECKPOINT, WITNESSED, LogFolder
from headrace.trust.log.tiles import parse_path

_TEXT: Final = "text/plain; charset=utf-8"
_BYTES: Final = "application/octet-stream"


class LogShelf:
    """Implements `core.public_log.PublicLog`."""

    def __init__(self, folder: LogFolder) -> None:
        self._folder = folder

    async def read(self, path: str) -> PublicFile | None:
        """See the protocol. A path is parsed and written anew before it meets the disk. Raises Unavailable."""
        if path in (CHECKPOINT, WITNESSED):
            data = await asyncio.to_thread(self._folder.read, path)
            return None if data is None else PublicFile(data, _TEXT, is_lasting=False)
        tile = parse_path(path)
        if tile is None:
            return None
        data = await asyncio.to_thread(self._folder.read, tile.path)
        # Nobody hashes an empty file: it is one that a loss of power left, and is made again.
        return PublicFile(data, _BYTES, is_lasting=True) if data else None
