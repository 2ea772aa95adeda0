"""What lies in a directory of cached pages, for people, and how it is erased; beside a running server or without one.

A server whose files are erased under it finds that out when it reads them, and computes. Works on headers alone, needs
no key, and touches nothing but pages of ours.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from headrace.engine.kv.page_file import Flaw, Unusable, check_header, is_encrypted
from headrace.engine.kv.page_folder import FoundFile, PageFolder


@dataclass(slots=True)
class FolderStats:
    """Pages of one tenant and one model, by their directories. Times are Unix seconds."""

    tenant: str
    model: str
    num_pages: int = 0
    num_bytes: int = 0
    num_encrypted: int = 0
    oldest_s: float = 0.0
    newest_s: float = 0.0

    def add(self, found: FoundFile, *, encrypted: bool) -> None:
        """Count a page."""
        used_s = found.used_ns / 1e9
        self.oldest_s = used_s if self.num_pages == 0 else min(self.oldest_s, used_s)
        self.newest_s = max(self.newest_s, used_s)
        self.num_pages += 1
        self.num_bytes += found.size
        self.num_encrypted += encrypted


@dataclass(slots=True)
class Survey:
    """All of a directory; `num_foreign` are files that are no pages."""

    folders: list[FolderStats] = field(default_factory=list)
    num_foreign: int = 0
    num_unreadable: int = 0


def survey(root: Path, tenant: str | None = None, model: str | None = None) -> Survey:
    """Count what is there, of one tenant (its name) or model (its digest) if named."""
    folder = PageFolder(root)
    result = Survey()
    by_place: dict[tuple[str, str], FolderStats] = {}
    for found in folder.scan(tenant, model):
        place = (found.path.parent.parent.name, found.path.parent.name)
        kind = _kind(folder, found)
        if kind is None:
            result.num_unreadable += 1
        elif kind is Flaw.FOREIGN:
            result.num_foreign += 1
        else:
            by_place.setdefault(place, FolderStats(*place)).add(found, encrypted=kind == "encrypted")
    result.folders = [by_place[place] for place in sorted(by_place)]
    return result


def erase(root: Path, tenant: str | None = None, model: str | None = None) -> tuple[int, int]:
    """Delete the pages of a tenant (its name), of a model (its digest) or all; returns pages and bytes.

    Also those that are encrypted or damaged, by their name. Raises OSError where one cannot be deleted.
    """
    folder = PageFolder(root)
    num_pages = num_bytes = 0
    for found in _ours(folder, tenant, model):
        folder.remove(found.path)
        num_pages += 1
        num_bytes += found.size
    folder.remove_partials(math.inf, tenant, model)
    folder.remove_empty(tenant)
    return num_pages, num_bytes


def _ours(folder: PageFolder, tenant: str | None, model: str | None) -> Iterator[FoundFile]:
    for found in folder.scan(tenant, model):
        if found.name and _kind(folder, found) is not Flaw.FOREIGN:
            yield found


def _kind(folder: PageFolder, found: FoundFile) -> str | None:
    """A page's kind, FOREIGN, or None for what the system does not let us read."""
    if not found.name:
        return Flaw.FOREIGN
    try:
        start = folder.read_start(found.path)
        check_header(start)
    except Unusable as error:
        if error.flaw in {Flaw.OTHER_KEY, Flaw.OTHER_VERSION}:
            return "encrypted" if is_encrypted(start) else "plain"
        return error.flaw
    except OSError:
        return None
    return "plain"
