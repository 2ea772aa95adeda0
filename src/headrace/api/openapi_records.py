"""Shapes of records for the OpenAPI document: a row for each route. Only the document is made from them."""

from typing import Annotated, Final, Literal

import msgspec

from headrace.api.openapi_operation import Operation


class ExhibitAnswer(msgspec.Struct):
    """A signed envelope, the log's entry for it, and the C2SP tlog-proof of that; null: erased, or not there yet."""

    envelope: str | None
    entry: str | None
    proof: str | None


class RecordAnswer(msgspec.Struct):
    """A record with what verifies it offline. `nonce` opens its commitments, null once it was erased."""

    checksum: str
    delegation: ExhibitAnswer
    format: Literal["headrace-record-bundle-v1"]
    id: str
    log_origin: str
    nonce: str | None
    record: ExhibitAnswer


class ErasedAnswer(msgspec.Struct):
    """What was erased."""

    object: Literal["provenance.erased"]
    id: str
    erased: bool


RECORD_OPERATIONS: Final = {
    ("GET", "/v1/provenance/{record_id}"): Operation(
        "A record of an answer, with what verifies it offline.",
        answer=RecordAnswer,
        query={"wait_s": Annotated[float, msgspec.Meta(ge=0, le=30)]},
    ),
    ("GET", "/v1/provenance/trust-file"): Operation(
        "The trust file that the server tells of itself: its node's key, its log's, its witnesses.",
        media=("text/plain",),
    ),
    ("DELETE", "/v1/provenance/{record_id}"): Operation("Erase what opens a record.", answer=ErasedAnswer),
}
