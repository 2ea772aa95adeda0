"""Anthropic's Message Batches: the requests of a batch, the lines of its results, and how a batch looks in JSON.

https://platform.claude.com/docs/en/api/creating-message-batches, as the SDK types it. A batch is kept like any other
(`core/batch.py`): its requests are written, one a line, to a file that nobody uploaded, and one file of results is read
when it has ended.
"""

import datetime
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from headrace.api.batch_lines import BatchDialect, LineNames, ReadLine
from headrace.api.batches import read_model
from headrace.api.errors import ANTHROPIC
from headrace.api.openai_refusal import refuse_body, show
from headrace.core.batch import Batch, BatchOrder, BatchStatus
from headrace.core.errors import HeadraceError, InvalidRequest, NotFound
from headrace.core.file import ListQuery, Page

NAME: Final = "anthropic"
ENDPOINT: Final = "/v1/messages"
WINDOW_S: Final = 86_400
MAX_LISTED: Final = 1000
DEFAULT_LISTED: Final = 20

# What we call a batch, and Anthropic's clients do.
_OURS, _THEIRS = "batch_", "msgbatch_"
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_COUNT: Final = "num_requests"

_encode_json = msgspec.json.Encoder().encode


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """One request of a batch."""

    custom_id: str
    params: msgspec.Raw


class BatchRequests(msgspec.Struct, forbid_unknown_fields=True):
    """`POST /v1/messages/batches`."""

    requests: list[BatchRequest]


class _Line(msgspec.Struct):
    custom_id: str
    params: msgspec.Raw


_decode_requests = msgspec.json.Decoder(BatchRequests).decode
_decode_line = msgspec.json.Decoder(_Line).decode


def decode_requests(data: bytes, knows_model: Callable[[str], bool], max_requests: int) -> list[bytes]:
    """Read the body of a new batch: its requests, a line each. What is wrong with the parameters of a request beyond
    their model is found out when it runs, and is its own result. Raises InvalidRequest."""
    try:
        body = _decode_requests(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, BatchRequests, {"requests[]": BatchRequest.__struct_fields__})
    if not 1 <= len(body.requests) <= max_requests:
        raise InvalidRequest(f"requests: {len(body.requests)} given; give 1 to {max_requests}.", param="requests")
    lines, seen = [], set()
    for index, one in enumerate(body.requests):
        path = f"requests[{index}]"
        if not _CUSTOM_ID.fullmatch(one.custom_id) or one.custom_id in seen:
            why = "was used before" if one.custom_id in seen else "must be 1 to 64 letters, digits, '_' or '-'"
            raise InvalidRequest(
                f"{path}.custom_id: {show(one.custom_id)} {why}; give each request its own.", param=f"{path}.custom_id"
            )
        seen.add(one.custom_id)
        lines.append(_line(one, path, knows_model))
    return lines


def _line(one: BatchRequest, path: str, knows_model: Callable[[str], bool]) -> bytes:
    try:
        params = msgspec.json.decode(one.params)  # on one line, and its text is text
        model = read_model(bytes(one.params))
    except InvalidRequest as error:
        raise InvalidRequest(f"{path}.params: {error.message}", param=f"{path}.params") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"{path}.params: is no JSON that can be read: {error}.", param=f"{path}.params") from None
    if not knows_model(model):
        raise NotFound(f"{path}.params.model: {show(model)} is not served here; GET /v1/models lists what is.")
    return _encode_json({"custom_id": one.custom_id, "params": params}) + b"\n"


def order(input_file_id: str, num_requests: int) -> BatchOrder:
    """What the batch service is asked for."""
    return BatchOrder(
        dialect=NAME,
        endpoint=ENDPOINT,
        input_file_id=input_file_id,
        window="24h",
        window_s=WINDOW_S,
        metadata={_COUNT: str(num_requests)},
    )


def read_batch_id(given: str) -> str:
    """Our name of a batch. Raises NotFound for what was never one of Anthropic's."""
    if not given.startswith(_THEIRS):
        raise NotFound(f"there is no message batch {given[:100]!r}; GET /v1/messages/batches lists yours.")
    return _OURS + given.removeprefix(_THEIRS)


def read_page_query(query: Mapping[str, list[str]]) -> tuple[ListQuery, bool]:
    """The page that a caller asks for, and whether it is one of what came before (`before_id`), which is then read from
    its end. Raises InvalidRequest."""
    for name in query:
        if name not in ("after_id", "before_id", "limit", "beta"):
            raise InvalidRequest(f"{name[:80]}: is not a field of this query; leave it out.", param=name[:80])
    after, before = (query.get(name, [None])[-1] for name in ("after_id", "before_id"))
    if after is not None and before is not None:
        raise InvalidRequest("before_id: after_id is given as well; send one of them.", param="before_id")
    text = query.get("limit", [str(DEFAULT_LISTED)])[-1]
    limit = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 1 <= limit <= MAX_LISTED:
        raise InvalidRequest(f"limit: {show(text)} is not in [1, {MAX_LISTED}]; give a number inside.", param="limit")
    start = after if before is None else before
    our_start = None if start is None else read_batch_id(start)
    return ListQuery(limit=limit, after=our_start, is_descending=before is None), before is not None


def encode_batch(batch: Batch) -> bytes:
    """A message batch. Raises NotFound for a batch that is no message batch."""
    return _encode_json(_batch(batch))


def encode_batches(page: Page[Batch], *, is_reversed: bool) -> bytes:
    """A page of them."""
    data = [_batch(batch) for batch in page.items]
    if is_reversed:
        data.reverse()
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return _encode_json({"data": data, "has_more": page.has_more, "first_id": first, "last_id": last})


def encode_deleted(batch_id: str) -> bytes:
    """That a batch is no more, given the caller's name for it."""
    return _encode_json({"id": batch_id, "type": "message_batch_deleted"})


def check_dialect(batch: Batch) -> Batch:
    """The batch. Raises NotFound if another protocol made it."""
    if batch.order.dialect != NAME:
        read_batch_id(batch.id)
    return batch


def _batch(batch: Batch) -> dict[str, Any]:
    shown = _THEIRS + batch.id.removeprefix(_OURS)
    times = batch.times_s
    ended = next((at for status, at in times.items() if status in _ENDS), None)
    results = f"{ENDPOINT}/batches/{shown}/results" if batch.is_over else None
    return {
        "id": shown,
        "type": "message_batch",
        "processing_status": _status(batch),
        "request_counts": _counts(batch),
        "created_at": _time(batch.created_s),
        "expires_at": _time(batch.expires_s),
        "ended_at": _time(ended),
        "cancel_initiated_at": _time(times.get(BatchStatus.CANCELLING)),
        "archived_at": None,
        "results_url": results,
    }


_ENDS: Final = (BatchStatus.COMPLETED, BatchStatus.FAILED, BatchStatus.EXPIRED, BatchStatus.CANCELLED)


def _status(batch: Batch) -> str:
    if batch.is_over:
        return "ended"
    return "canceling" if batch.status is BatchStatus.CANCELLING else "in_progress"


def _counts(batch: Batch) -> dict[str, int]:
    """All are processing until all have ended, as Anthropic's documentation has it."""
    total = max(batch.num_lines, int((batch.order.metadata or {}).get(_COUNT, "0")))
    counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
    if not batch.is_over:
        return counts | {"processing": total}
    if batch.status is BatchStatus.FAILED:  # the input was refused as a whole, which `decode_requests` should have done
        return counts | {"errored": total}
    unrun = "canceled" if batch.status is BatchStatus.CANCELLED else "expired"
    errored = batch.num_failed - batch.num_unrun
    return counts | {"succeeded": batch.num_ended - batch.num_failed, "errored": errored, unrun: batch.num_unrun}


def _time(unix_s: int | None) -> str | None:
    if unix_s is None:
        return None
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).isoformat().replace("+00:00", "Z")


def _read_line(data: bytes, _: str) -> ReadLine:
    try:
        line = _decode_line(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"the line is no request: {error}.", code="invalid_request") from None
    return ReadLine(line.custom_id, bytes(line.params), read_model(bytes(line.params)))


def _result(names: LineNames, result: Mapping[str, Any]) -> bytes:
    return _encode_json({"custom_id": names.custom_id, "result": result})


def _succeeded(names: LineNames, body: bytes) -> bytes:
    return _result(names, {"type": "succeeded", "message": msgspec.Raw(body)})


def _failed(names: LineNames, error: HeadraceError) -> bytes:
    return _result(names, {"type": "errored", "error": msgspec.Raw(ANTHROPIC.body(error, names.request_id))})


def _unrun(names: LineNames, why: str) -> bytes:
    return _result(names, {"type": {"cancelled": "canceled"}.get(why, why)})


DIALECT: Final = BatchDialect(NAME, ANTHROPIC, _read_line, _succeeded, _failed, _unrun, splits=False)
