"""Which process is at the other end of a Unix socket, as the kernel tells: ids, program, and the program's digest.

    SO_PEERCRED    pid, uid and gid of whoever connected
    SO_PEERPIDFD   a handle of that very process (Linux 6.5); before, `pidfd_open` of its number
    /proc/PID/exe  the program that it runs now: its path, and its bytes even where the path has others by now

What it does not show: a process of the same user may control another (ptrace, its memory, its environment), an
interpreter is the same program whatever script it runs, and a connection may be handed on. SPIRE's attestors ask more
(cgroups, Kubernetes). A process that ends meanwhile is refused, and so is one whose number was given to another.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import select
import socket
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Final

from headrace.core.workload import Attested

MAX_PROGRAM_BYTES: Final = 2 * 2**30
"""Of a program that is read to be known by its digest."""

_SO_PEERPIDFD: Final = 77  # not in Python's socket module
_CREDENTIALS: Final = struct.Struct("3i")  # struct ucred: pid, uid, gid
_MAX_DIGESTS: Final = 256
_DELETED: Final = " (deleted)"

_Version = tuple[int, int, int, int, int]


class NotAttested(Exception):
    """A process of which nothing can be said, so that it gets no name."""


class Digests:
    """SHA-256 of programs, each computed once for as long as its file does not change."""

    def __init__(self) -> None:
        self._known: OrderedDict[_Version, str] = OrderedDict()

    def of(self, descriptor: int) -> str:
        """The digest of an open file; reads all of it if it is not known. Raises OSError for one that is too long."""
        about = os.fstat(descriptor)
        if about.st_size > MAX_PROGRAM_BYTES:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        version = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)
        if (known := self._known.get(version)) is not None:
            self._known.move_to_end(version)
            return known
        with open(descriptor, "rb", closefd=False) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._known[version] = digest
        if len(self._known) > _MAX_DIGESTS:
            self._known.popitem(last=False)
        return digest


class Peer:
    """A process, named by the kernel. `close` lets go of its handle."""

    def __init__(self, credentials: tuple[int, int, int], handle: int, digests: Digests) -> None:
        """`credentials` are pid, uid and gid; `handle` is a descriptor of the process."""
        self.pid, self.uid, self.gid = credentials
        self._handle = handle
        self._digests = digests

    @classmethod
    def of(cls, connection: socket.socket, digests: Digests) -> "Peer":
        """The process at the other end of a connection. Raises NotAttested if the kernel does not name it: it lives in
        another namespace, or has ended."""
        given = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(given)
        if pid <= 0:
            raise NotAttested("the process cannot be seen from here")
        try:
            return cls((pid, uid, gid), _open_handle(connection, pid), digests)
        except OSError:
            raise NotAttested("the process has ended") from None

    @classmethod
    def of_pid(cls, pid: int, digests: Digests) -> "Peer":
        """A process by its number, to tell which names it would get. Raises NotAttested."""
        try:
            handle = os.pidfd_open(pid)
            about = Path(f"/proc/{pid}").stat()
        except (OSError, OverflowError):
            raise NotAttested("there is no process of this number") from None
        return cls((pid, about.st_uid, about.st_gid), handle, digests)

    async def attest(self) -> Attested:
        """What it is now; it may have become another program since it connected. Raises NotAttested."""
        return await asyncio.to_thread(self._attest)

    def close(self) -> None:
        """Forget it."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _attest(self) -> Attested:
        try:
            exe, digest = self._program()
        except PermissionError:
            # Another user's, and this process is not root: its ids are known, and entries that ask for more do not fit.
            exe, digest = "", ""
        except OSError as error:
            raise NotAttested(f"its program cannot be read ({error.strerror})") from None
        # Only now: while the process of the handle lives, its number is nobody else's, so that what was read is its.
        if not self._is_alive():
            raise NotAttested("the process has ended")
        return Attested(pid=self.pid, uid=self.uid, gid=self.gid, exe=exe, sha256=digest)

    def _program(self) -> tuple[str, str]:
        """Path and digest; no path if it is another file's by now, or nobody's."""
        descriptor = os.open(f"/proc/{self.pid}/exe", os.O_RDONLY | os.O_CLOEXEC)
        try:
            digest = self._digests.of(descriptor)
            exe = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        finally:
            os.close(descriptor)
        return ("" if exe.endswith(_DELETED) else exe), digest

    def _is_alive(self) -> bool:
        """A handle can be read once its process has ended."""
        if self._handle < 0:
            return False
        poll = select.poll()
        poll.register(self._handle, select.POLLIN)
        return not poll.poll(0)


def _open_handle(connection: socket.socket, pid: int) -> int:
    with contextlib.suppress(OSError):  # an older kernel
        given = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD, 4)
        return int.from_bytes(given, "little")
    return os.pidfd_open(pid)
