"""Shapes of files and batches for the OpenAPI document: the form of an upload, and what clients may rely on in answers.

Only the document is made from them. Encoders do not use them, so that tests can hold each against the other.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from headrace.api.files import MAX_LISTED_FILES
from headrace.api.openapi_operation import Operation

Purpose = Literal["assistants", "batch", "evals", "fine-tune", "user_data", "vision"]
Anchor = Literal["created_at"] | msgspec.UnsetType
Lifetime = Annotated[int, msgspec.Meta(ge=3600, le=2_592_000)]


class UploadForm(msgspec.Struct, forbid_unknown_fields=True):
    """The parts of an upload."""

    file: Annotated[str, msgspec.Meta(extra_json_schema={"format": "binary"})]
    purpose: Purpose
    anchor: Literal["created_at"] | msgspec.UnsetType = msgspec.field(
        name="expires_after[anchor]", default=msgspec.UNSET
    )
    seconds: Lifetime | msgspec.UnsetType = msgspec.field(name="expires_after[seconds]", default=msgspec.UNSET)


class FileAnswer(msgspec.Struct):
    """`file`."""

    id: str
    object: Literal["file"]
    bytes: int
    created_at: int
    expires_at: int | None
    filename: str
    purpose: str
    status: Literal["processed"]


class FileList(msgspec.Struct):
    """A page of files."""

    object: Literal["list"]
    data: list[FileAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(msgspec.Struct):
    """What is erased."""

    id: str
    object: Literal["file"]
    deleted: Literal[True]


class OutputExpiry(msgspec.Struct, forbid_unknown_fields=True):
    """How long results are kept."""

    anchor: Literal["created_at"]
    seconds: Lifetime


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """An order for a batch."""

    input_file_id: str
    endpoint: Literal[
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/score",
    ]
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None
    output_expires_after: OutputExpiry | None = None


class RequestCounts(msgspec.Struct):
    """Lines of a batch."""

    total: int
    completed: int
    failed: int


class BatchAnswer(msgspec.Struct):
    """`batch`."""

    id: str
    object: Literal["batch"]
    endpoint: str
    errors: dict[str, Any] | None
    input_file_id: str
    completion_window: str
    status: Literal[
        "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
    ]
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    request_counts: RequestCounts
    metadata: dict[str, str] | None


class BatchList(msgspec.Struct):
    """A page of batches."""

    object: Literal["list"]
    data: list[BatchAnswer]
    first_id: str | None
    last_id: str | None
    has_more: bool


FILE_QUERY: dict[str, Any] = {
    "after": str,
    "limit": Annotated[int, msgspec.Meta(ge=1, le=MAX_LISTED_FILES)],
    "order": Literal["asc", "desc"],
    "purpose": Literal[
        "assistants",
        "assistants_output",
        "batch",
        "batch_output",
        "evals",
        "fine-tune",
        "fine-tune-results",
        "user_data",
        "vision",
    ],
}
BATCH_QUERY: dict[str, Any] = {"after": str, "limit": Annotated[int, msgspec.Meta(ge=1, le=100)]}

FILE_OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", "/v1/files"): Operation("Upload a file.", UploadForm, FileAnswer, takes="multipart/form-data"),
    ("GET", "/v1/files"): Operation("Your files.", answer=FileList, query=FILE_QUERY),
    ("GET", "/v1/files/{id}"): Operation("What is known of a file.", answer=FileAnswer),
    ("DELETE", "/v1/files/{id}"): Operation("Erase a file.", answer=FileDeleted),
    ("GET", "/v1/files/{id}/content"): Operation("The bytes of a file.", media=("application/octet-stream",)),
    ("POST", "/v1/batches"): Operation("Run a file's lines when nobody waits.", BatchBody, BatchAnswer),
    ("GET", "/v1/batches"): Operation("Your batches.", answer=BatchList, query=BATCH_QUERY),
    ("GET", "/v1/batches/{id}"): Operation("A batch as it stands.", answer=BatchAnswer),
    ("POST", "/v1/batches/{id}/cancel"): Operation("Stop a batch.", answer=BatchAnswer),
}
