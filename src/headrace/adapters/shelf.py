"""The adapters of one model: which files may be loaded, which are in memory, and which make room for others.

Files come from one folder only: a name is that of a folder or of a .gguf file (without its ending) directly in it, and
nothing is followed that leads out of it. What is loaded stays until the bytes are needed: then the ones that were not
used for the longest time go, but never one in use. An adapter taken off while it is in use serves those who hold it to
the end; its bytes count until then.

Calls are safe from any thread. `take` and `list` return at once; `load` reads files and takes its time.
"""

import itertools
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from headrace.adapters.load import LoadedAdapter, load_adapter
from headrace.adapters.peft import CONFIG, WEIGHTS
from headrace.adapters.program import AdaptableProgram
from headrace.core.errors import InvalidRequest, ModelFileError, NotFound, Unavailable

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SUFFIX = ".gguf"
MAX_LISTED = 1000
"""More files of a folder than this are not looked at."""


class Lease:
    """An adapter that somebody uses; `release` it once, and it may be put away."""

    def __init__(self, shelf: "Shelf", entry: "_Entry") -> None:
        self.adapter = entry.adapter
        self._shelf = shelf
        self._entry: _Entry | None = entry

    def release(self) -> None:
        """Give it back; again does nothing."""
        entry, self._entry = self._entry, None
        if entry is not None:
            self._shelf._give_back(entry)


@dataclass(slots=True)
class _Entry:
    adapter: LoadedAdapter
    last_used: int
    num_users: int = 0


class Shelf:
    """See the file's head. `memory_bytes` bounds what all adapters of the model take together; `check` is told the path
    of one before it is read, and raises if it must not be."""

    def __init__(
        self,
        folder: Path,
        program: AdaptableProgram,
        architecture: str,
        memory_bytes: int,
        check: Callable[[Path], object] | None = None,
    ) -> None:
        self.folder = folder
        self.memory_bytes = memory_bytes
        self._program = program
        self._architecture = architecture
        self._check = check
        self._entries: dict[str, _Entry] = {}
        self._leaving: list[_Entry] = []
        self._uses = itertools.count()
        self._lock = threading.Lock()
        self._loading = threading.Lock()  # one at a time, so that room made for one is not taken by another

    def offered(self) -> tuple[str, ...]:
        """Names of all adapters in the folder, sorted."""
        try:
            with os.scandir(self.folder) as entries:
                names = {entry.name for entry in itertools.islice(entries, MAX_LISTED)}
        except OSError:
            return ()
        return tuple(sorted({name for found in names if (name := self._name_of(found)) is not None}))

    def loaded(self) -> dict[str, LoadedAdapter]:
        """What is in memory, by name."""
        with self._lock:
            return {name: entry.adapter for name, entry in self._entries.items()}

    def take(self, name: str) -> Lease | None:
        """Use an adapter that is in memory; None: it is not, `load` it."""
        with self._lock:
            entry = self._entries.get(name)
            return None if entry is None else self._lease(entry)

    def load(self, name: str) -> Lease:
        """Use an adapter, reading it if it is not in memory.

        Raises:
            NotFound: the folder offers no such adapter; the message names those that it does.
            ModelFileError: it cannot be read or trusted, or is not for this model.
            InvalidRequest: it takes more than all adapters may take together.
            Unavailable: those in use leave no room for it; retryable.
        """
        with self._loading:
            if (lease := self.take(name)) is not None:
                return lease
            path = self._path(name)
            if self._check is not None:
                self._check(path)
            adapter = load_adapter(
                path,
                self._program,
                name=name,
                architecture=self._architecture,
                reserve=lambda num_bytes: self._make_room(name, num_bytes),
            )
            with self._lock:
                entry = self._entries[name] = _Entry(adapter, next(self._uses))
                return self._lease(entry)

    def unload(self, name: str) -> None:
        """Take an adapter off, at once for new users. Raises NotFound if it is not in memory."""
        with self._lock:
            entry = self._entries.pop(name, None)
            if entry is None:
                names = ", ".join(sorted(self._entries)) or "none"
                raise NotFound(f"lora_name: {name[:100]!r} is not loaded; loaded: {names}.", param="lora_name")
            if entry.num_users:
                self._leaving.append(entry)

    @property
    def used_bytes(self) -> int:
        """What adapters take now, those that leave when their users have ended included."""
        with self._lock:
            return self._used_bytes()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _lease(self, entry: _Entry) -> Lease:
        entry.num_users += 1
        entry.last_used = next(self._uses)
        return Lease(self, entry)

    def _give_back(self, entry: _Entry) -> None:
        with self._lock:
            entry.num_users -= 1
            if not entry.num_users and entry in self._leaving:
                self._leaving.remove(entry)

    def _used_bytes(self) -> int:
        return sum(entry.adapter.num_bytes for entry in [*self._entries.values(), *self._leaving])

    def _make_room(self, name: str, num_bytes: int) -> None:
        """Put away what was not used for the longest time until so many bytes are free."""
        if num_bytes > self.memory_bytes:
            raise InvalidRequest(
                f"adapter {name!r} takes {num_bytes} bytes, more than the {self.memory_bytes} that all adapters may "
                "take together; raise adapter_memory or train a lower rank.",
                param="adapter_memory",
            )
        with self._lock:
            idle = sorted((e.last_used, n) for n, e in self._entries.items() if not e.num_users)
            freeable = sum(self._entries[each].adapter.num_bytes for _, each in idle)
            if self._used_bytes() - freeable + num_bytes > self.memory_bytes:
                raise Unavailable(
                    f"adapter {name!r} takes {num_bytes} bytes, and the adapters in use leave less of the "
                    f"{self.memory_bytes} that all may take together; try again, or raise adapter_memory.",
                    retry_after_s=1.0,
                )
            for _, each in idle:
                if self._used_bytes() + num_bytes <= self.memory_bytes:
                    break
                del self._entries[each]

    def _name_of(self, file_name: str) -> str | None:
        """The adapter that a file or folder of this name is; None if it is none or leads elsewhere."""
        name = file_name.removesuffix(_SUFFIX)
        if not _NAME.fullmatch(name):
            return None
        path = self.folder / file_name
        is_adapter = (path / CONFIG).is_file() if path.is_dir() else file_name.endswith(_SUFFIX) and path.is_file()
        return name if is_adapter and self._is_inside(path) else None

    def _path(self, name: str) -> Path:
        for file_name in (name, f"{name}{_SUFFIX}"):
            if _NAME.fullmatch(name) and self._name_of(file_name) == name:
                return self.folder / file_name
        offered = ", ".join(self.offered()) or "none"
        raise NotFound(
            f"adapter {name[:100]!r} is not in the folder of adapters; there are: {offered}.",
            param="model",
            code="model_not_found",
        )

    def _is_inside(self, path: Path) -> bool:
        """Whether the adapter's files lie in the folder, wherever links lead."""
        try:
            root = self.folder.resolve(strict=True)
            files = [path, path / CONFIG, path / WEIGHTS] if path.is_dir() else [path]
            return all(file.resolve().is_relative_to(root) for file in files)
        except OSError as error:
            raise ModelFileError(f"{path}: cannot be read ({error}); check the folder of adapters.") from error
