"""Files that callers keep on the server: what is known of one, and what routes may do with them. Values and a protocol.

Knows neither where bytes lie (`memory/files.py`) nor how a file looks on the wire (`api/files.py`).
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

BATCH_INPUT = "batch"
BATCH_OUTPUT = "batch_output"
# What another dialect's batch was sent with; never listed, because its owner did not upload it.
BATCH_SPOOL = "batch_spool"

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What is known of a file. Times are Unix seconds; `expires_s` None: kept until it is deleted."""

    id: str
    tenant: str
    filename: str
    purpose: str
    num_bytes: int
    created_s: int
    expires_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileNote:
    """What an uploader says of the bytes. `lifetime_s` None: kept until they are deleted."""

    filename: str
    purpose: str
    lifetime_s: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListQuery:
    """A page of a list that is ordered by time: what follows the object `after`, at most `limit` of it."""

    limit: int
    after: str | None = None
    is_descending: bool = True
    purpose: str | None = None


@dataclass(frozen=True, slots=True)
class Page(Generic[_Item]):
    """Some objects of a list, and whether more follow."""

    items: tuple[_Item, ...]
    has_more: bool


class Upload(Protocol):
    """Bytes that are arriving. Ends by `commit` or `abort`; before the first nobody sees anything of it."""

    async def write(self, data: bytes) -> None:
        """Add bytes. Raises PayloadTooLarge above the size of a file or the tenant's quota, DiskFull, Unavailable."""
        ...

    async def commit(self, note: FileNote) -> FileRecord:
        """Make them a file that outlives a crash. Raises as `write` does, and nothing is left then."""
        ...

    async def abort(self) -> None:
        """Forget them; also possible after `commit`, where it does nothing."""
        ...


class Files(Protocol):
    """Files of tenants. Whoever names another tenant's file is told that there is none: NotFound."""

    @property
    def max_file_bytes(self) -> int:
        """The size of the largest file."""
        ...

    async def begin(self, tenant: str) -> Upload:
        """Begin to take in a file. Raises DiskFull, Unavailable."""
        ...

    async def get(self, tenant: str, file_id: str) -> FileRecord:
        """What is known of a file. Raises NotFound."""
        ...

    async def list(self, tenant: str, query: ListQuery) -> Page[FileRecord]:
        """A page of the tenant's files. Raises NotFound if `query.after` is none of them."""
        ...

    def read(self, record: FileRecord) -> AsyncGenerator[bytes, None]:
        """The bytes of a file, in pieces. Raises NotFound when it goes meanwhile, Unavailable."""
        ...

    async def delete(self, tenant: str, file_id: str) -> None:
        """Erase a file. Raises NotFound, and Conflict while a batch reads it."""
        ...
