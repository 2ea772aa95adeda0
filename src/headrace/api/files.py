"""OpenAI's Files API: what a form says of a file, what a list's query asks for, and how a file looks in JSON.

https://platform.openai.com/docs/api-reference/files as the SDK types it. Bytes pass by elsewhere.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from headrace.api.openai_refusal import show
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.file import FileNote, FileRecord, ListQuery, Page

PURPOSES: Final = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
OUTPUT_PURPOSES: Final = ("assistants_output", "batch_output", "fine-tune-results")
MIN_LIFETIME_S: Final = 3600
MAX_LIFETIME_S: Final = 2_592_000
# OpenAI's own: files of batches go by themselves, all others are kept.
BATCH_LIFETIME_S: Final = 2_592_000
MAX_LISTED_FILES: Final = 10_000

_ANCHOR, _SECONDS = "expires_after[anchor]", "expires_after[seconds]"
_FIELDS = ("purpose", _ANCHOR, _SECONDS)

_encode_json = msgspec.json.Encoder().encode


def read_note(fields: Mapping[str, str], filename: str) -> FileNote:
    """What the fields of an upload's form say. Raises InvalidRequest."""
    for name in fields:
        if name not in _FIELDS:
            raise InvalidRequest(
                f"{name[:100]}: is not a field of this route; possible are file, {', '.join(_FIELDS)}.",
                param=name[:100],
                code="unknown_parameter",
            )
    purpose = fields.get("purpose")
    if purpose is None:
        raise InvalidRequest(
            f"purpose: is missing; send one of {', '.join(PURPOSES)}.",
            param="purpose",
            code="missing_required_parameter",
        )
    if purpose not in PURPOSES:
        raise InvalidRequest(f"purpose: {show(purpose)} is not one of {', '.join(PURPOSES)}.", param="purpose")
    return FileNote(filename=filename, purpose=purpose, lifetime_s=_lifetime_s(fields, purpose))


def _lifetime_s(fields: Mapping[str, str], purpose: str) -> int | None:
    anchor, seconds = fields.get(_ANCHOR), fields.get(_SECONDS)
    if anchor is None and seconds is None:
        return BATCH_LIFETIME_S if purpose == "batch" else None
    if seconds is None or not (seconds.isascii() and seconds.isdecimal()):
        raise InvalidRequest(f"{_SECONDS}: {show(seconds)} is not a number of seconds; give one.", param=_SECONDS)
    return read_lifetime(anchor, int(seconds[:20]), "expires_after[{}]")


def read_lifetime(anchor: str | None, seconds: int, path: str) -> int:
    """How long a file is kept; `path` is the name of a field with a place for its last part. Raises InvalidRequest."""
    if anchor != "created_at":
        name = path.format("anchor")
        raise InvalidRequest(f"{name}: {show(anchor)} is not supported; send 'created_at'.", param=name)
    if not MIN_LIFETIME_S <= seconds <= MAX_LIFETIME_S:
        name = path.format("seconds")
        raise InvalidRequest(
            f"{name}: {show(seconds)} is not in [{MIN_LIFETIME_S}, {MAX_LIFETIME_S}]; give a number inside.", param=name
        )
    return seconds


def read_list_query(
    query: Mapping[str, list[str]], *, default: int, most: int, extra: tuple[str, ...] = ()
) -> ListQuery:
    """What a list's query asks for: `limit` of `default`, at most `most`; `extra` may be given besides `after`.

    Raises InvalidRequest and UnsupportedField by name.
    """
    for name in query:
        if name not in ("after", "limit", *extra):
            raise UnsupportedField(
                f"{name[:100]}: is not supported in this list; possible are after, limit{', '.join(('', *extra))}.",
                param=name[:100],
            )
    given = {name: values[-1] for name, values in query.items()}
    limit = given.get("limit", str(default))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 10 and 1 <= int(limit) <= most):
        raise InvalidRequest(f"limit: {show(limit)} is not a whole number in [1, {most}].", param="limit")
    order = given.get("order", "desc")
    if order not in ("asc", "desc"):
        raise InvalidRequest(f"order: {show(order)} is neither asc nor desc.", param="order")
    purpose = given.get("purpose")
    if purpose is not None and purpose not in (*PURPOSES, *OUTPUT_PURPOSES):
        known = ", ".join((*PURPOSES, *OUTPUT_PURPOSES))
        raise InvalidRequest(f"purpose: {show(purpose)} is not one of {known}.", param="purpose")
    return ListQuery(
        limit=int(limit), after=given.get("after"), is_descending=order == "desc", purpose=given.get("purpose")
    )


def encode_file(record: FileRecord) -> bytes:
    """A file object."""
    return _encode_json(_file(record))


def encode_files(page: Page[FileRecord]) -> bytes:
    """A page of file objects."""
    return encode_page(page, _file)


def encode_page(page: Page[Any], shape: Callable[[Any], dict[str, Any]]) -> bytes:
    """A page of any objects, each in its shape, as OpenAI's cursors want it."""
    data = [shape(item) for item in page.items]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return _encode_json({"object": "list", "data": data, **ends, "has_more": page.has_more})


def encode_file_deleted(file_id: str) -> bytes:
    """The answer to a deletion."""
    return _encode_json({"id": file_id, "object": "file", "deleted": True})


def _file(record: FileRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.num_bytes,
        "created_at": record.created_s,
        "expires_at": record.expires_s,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": "processed",
        "status_details": None,
    }
