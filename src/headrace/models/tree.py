"""The files that a model consists of, as they lie on the disk: names, links, digests. Follows no link out of a folder
and reads nothing but bytes to hash; whether they are what they should be is not known here.
"""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from headrace.core.errors import ModelFileError
from headrace.models.digest import Hasher, Stamp, stamp

MAX_FILES = 100_000


@dataclass(frozen=True, slots=True)
class TreeFile:
    """One file. `name` is its path below the root, `.` if the root is a file. `target` is where a link leads, by its
    path below the root, empty if that is elsewhere or nowhere."""

    name: str
    path: Path
    is_link: bool = False
    target: str = ""


def list_files(root: Path) -> tuple[TreeFile, ...]:
    """Every file of a model, sorted by name; links to folders are listed and not followed. Raises ModelFileError."""
    try:
        if not root.is_dir():
            return (_file(root, root, "."),)
        found: list[TreeFile] = []
        for folder, folders, files in os.walk(root, onerror=_raise):
            here = Path(folder)
            links = [name for name in folders if (here / name).is_symlink()]
            for name in (*files, *links):
                path = here / name
                found.append(_file(root, path, path.relative_to(root).as_posix()))
            if len(found) > MAX_FILES:
                raise ModelFileError(f"{root}: holds more than {MAX_FILES} files; a model has fewer: name its folder.")
    except OSError as error:
        raise ModelFileError(f"{root}: cannot be read ({error}); check the disk and permissions.") from error
    return tuple(sorted(found, key=lambda one: one.name))


def _raise(error: OSError) -> None:
    raise error


def _file(root: Path, path: Path, name: str) -> TreeFile:
    if not path.is_symlink():
        if not path.is_file():
            raise ModelFileError(f"{path}: is no file; a model consists of files and folders alone.")
        return TreeFile(name, path)
    home, target = root.resolve(), path.resolve()
    is_inside = root.is_dir() and target.is_relative_to(home) and target.is_file()
    return TreeFile(name, path, True, target.relative_to(home).as_posix() if is_inside else "")


def digests_of(files: Iterable[TreeFile], hasher: Hasher) -> Mapping[str, str]:
    """Hexadecimal SHA-256 by name, as many files at once as there are processors. Raises ModelFileError."""
    listed = list(files)
    try:
        with ThreadPoolExecutor(os.cpu_count() or 1, "headrace-digest") as pool:
            found = list(pool.map(lambda one: hasher(one.path).removeprefix("sha256:"), listed))
    except OSError as error:
        raise ModelFileError(f"a model's file cannot be read ({error}); check the disk and permissions.") from error
    return {one.name: digest for one, digest in zip(listed, found, strict=True)}


def stamps_of(files: Iterable[TreeFile]) -> tuple[Stamp, ...]:
    """By what one sees that a file has changed. Raises ModelFileError."""
    try:
        return tuple(stamp(one.path) for one in files)
    except OSError as error:
        raise ModelFileError(f"a model's file has gone ({error}); check the disk.") from error
