"""Whether a model's files are what was signed: a manifest and what is on the disk in, everything that is wrong out.

Knows neither disks nor signatures: who lists and hashes files is `models/tree.py`.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from headrace.trust.supply.statement import Manifest, colliding, is_plain

INERT: Final = frozenset({".git", ".github", ".gitattributes", ".gitignore"})
"""Beside a model, at its top: what a signature may leave out, because nothing of it is ever read."""
_UNSAFE_NAMES: Final = """
    bin ckpt dill dll dylib exe h5 hdf5 joblib keras llamafile mar nemo npy npz pb pickle pkl pt pth py pyc pyd pyo sh
    so t7 tar zip
"""
UNSAFE: Final = tuple(f".{name}" for name in _UNSAFE_NAMES.split())
"""Formats that run code when they are opened, or may hide such: a model that is trusted consists of none."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a model, by its path below the model's folder, `.` if it is the model. `target` is where a link leads,
    by its path below the same folder; empty: out of it."""

    name: str
    is_link: bool = False
    target: str = ""


def find_faults(
    manifest: Manifest, found: Iterable[Found], signature: str, digest: Callable[[str], str]
) -> Iterator[str]:
    """Everything in which files differ from what was signed, in sentences without an end. `signature` is the name of
    the signature's own file; `digest` gives the hexadecimal SHA-256 of a file."""
    listed = [one for one in found if one.name != signature]
    yield from find_unsafe(listed)
    present = {one.name for one in listed if not _is_inert(one.name)}
    for path in manifest.ignored:
        if path not in (signature, *INERT) and not is_absent(path, present):
            yield f"the signature says nothing about {path!r}, which is there"
    for one in listed:
        if one.is_link and not _is_inert(one.name) and not (manifest.allows_links and one.target):
            where = "out of the model's folder" if not one.target else "to another file, which the signature forbids"
            yield f"{one.name!r} is a link {where}"
    yield from (f"{name!r} was signed and is missing" for name in sorted(manifest.files.keys() - present))
    yield from (f"{name!r} is there and was not signed" for name in sorted(present - manifest.files.keys()))
    for name in sorted(present & manifest.files.keys()):
        if digest(name) != manifest.files[name]:
            yield f"{name!r} has other bytes than were signed"


def find_unsafe(found: Iterable[Found]) -> Iterator[str]:
    """Names that no model should have, signed or not."""
    names = [one.name for one in found if not _is_inert(one.name)]
    for name in names:
        if not is_plain(name):
            yield f"{name!r} is no name that means one file everywhere"
        elif any(part.lower().endswith(UNSAFE) for part in name.split("/")):
            yield f"{name!r} is of a format that can run code; keep weights as safetensors or GGUF, and remove it"
    if (pair := colliding(names)) is not None:
        yield f"{pair[0]!r} and {pair[1]!r} are one name on some disks"


def is_absent(path: str, names: Iterable[str]) -> bool:
    """Whether nothing lies at or below a path."""
    plain = path.removeprefix("./").rstrip("/")
    return not any(name == plain or name.startswith(f"{plain}/") for name in names)


def _is_inert(name: str) -> bool:
    return name.split("/", 1)[0] in INERT
