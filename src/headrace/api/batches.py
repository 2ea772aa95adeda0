"""OpenAI's Batch API: the order for a batch, the lines of its input and of its results, and how a batch looks in JSON.

https://platform.openai.com/docs/api-reference/batch, as the SDK types it, and the guide's lines: `{"custom_id",
"method", "url", "body"}` in, `{"id", "custom_id", "response", "error"}` out. How an endpoint reads a line and writes
its answer is `batch_lines.py`'s knowledge.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from headrace.api.batch_lines import BatchDialect, LineNames, ReadLine
from headrace.api.errors import OPENAI
from headrace.api.files import encode_page, read_lifetime
from headrace.api.openai_refusal import show
from headrace.core.batch import Batch, BatchOrder, BatchStatus, LineProblem
from headrace.core.errors import HeadraceError, InvalidRequest, UnsupportedField
from headrace.core.file import Page

NAME: Final = "openai"
ENDPOINTS: Final = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/embeddings",
    "/v1/rerank",
    "/v1/score",
)
WINDOWS_S: Final = {"24h": 86_400}
MAX_METADATA: Final = 16
MAX_KEY_CHARS: Final = 64
MAX_VALUE_CHARS: Final = 512
MAX_CUSTOM_ID_CHARS: Final = 512
MAX_LISTED_BATCHES: Final = 100

_encode_json = msgspec.json.Encoder().encode


class _Expiry(msgspec.Struct, forbid_unknown_fields=True):
    anchor: str
    seconds: int


class _Order(msgspec.Struct, forbid_unknown_fields=True):
    input_file_id: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str] | None = None
    output_expires_after: _Expiry | None = None


class _Line(msgspec.Struct):
    custom_id: str
    method: str
    url: str
    body: msgspec.Raw


class _Body(msgspec.Struct):
    model: str = ""


_decode_order = msgspec.json.Decoder(_Order).decode
_decode_line = msgspec.json.Decoder(_Line).decode
_decode_body = msgspec.json.Decoder(_Body).decode


def decode_order(data: bytes) -> BatchOrder:
    """Read the body of `POST /v1/batches`. Raises InvalidRequest or UnsupportedField by name."""
    try:
        body = _decode_order(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"the body is no order for a batch: {error}.", code="invalid_body") from None
    if body.completion_window not in WINDOWS_S:
        raise InvalidRequest(
            f"completion_window: {show(body.completion_window)} is not supported; send {' or '.join(WINDOWS_S)}.",
            param="completion_window",
        )
    if body.endpoint not in ENDPOINTS:
        raise UnsupportedField(
            f"endpoint: {show(body.endpoint)} cannot be asked in batches; possible are {', '.join(ENDPOINTS)}.",
            param="endpoint",
        )
    lifetime_s = None
    if (expiry := body.output_expires_after) is not None:
        lifetime_s = read_lifetime(expiry.anchor, expiry.seconds, "output_expires_after.{}")
    return BatchOrder(
        dialect=NAME,
        endpoint=body.endpoint,
        input_file_id=body.input_file_id,
        window=body.completion_window,
        window_s=WINDOWS_S[body.completion_window],
        metadata=_metadata(body.metadata),
        output_lifetime_s=lifetime_s,
    )


def _metadata(given: Mapping[str, str] | None) -> Mapping[str, str] | None:
    if given is None:
        return None
    if len(given) > MAX_METADATA:
        raise InvalidRequest(f"metadata: {len(given)} pairs given; at most {MAX_METADATA}.", param="metadata")
    for key, value in given.items():
        if len(key) > MAX_KEY_CHARS or len(value) > MAX_VALUE_CHARS:
            raise InvalidRequest(
                f"metadata: {show(key)} has more than {MAX_KEY_CHARS} characters, or its value more than "
                f"{MAX_VALUE_CHARS}; shorten it.",
                param="metadata",
            )
    return given


def read_line(data: bytes, endpoint: str) -> ReadLine:
    """A line of the input. Raises InvalidRequest with OpenAI's code for what is wrong with it."""
    try:
        line = _decode_line(data)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the line is no request: {error}.", code="invalid_request") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"the line is not valid JSON: {error}.", code="invalid_json_line") from None
    if not 1 <= len(line.custom_id) <= MAX_CUSTOM_ID_CHARS:
        raise InvalidRequest(
            f"custom_id: {show(line.custom_id)} must have 1 to {MAX_CUSTOM_ID_CHARS} characters.",
            param="custom_id",
            code="invalid_custom_id",
        )
    if line.method != "POST":
        raise InvalidRequest(
            f"method: {show(line.method)} is not possible; send 'POST'.", param="method", code="invalid_method"
        )
    if line.url != endpoint:
        raise InvalidRequest(
            f"url: {show(line.url)} is not the batch's endpoint {endpoint}; a batch asks one endpoint.",
            param="url",
            code="invalid_url" if line.url not in ENDPOINTS else "mismatched_url",
        )
    return ReadLine(line.custom_id, bytes(line.body), read_model(bytes(line.body)))


def read_model(body: bytes) -> str:
    """The model that a body names. Raises InvalidRequest if the body is no object or names none."""
    try:
        model = _decode_body(body).model
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"body: is no request: {error}.", param="body", code="invalid_request") from None
    if not model:
        raise InvalidRequest(
            "body.model: is missing; it is required.", param="body.model", code="missing_required_parameter"
        )
    return model


def _succeeded(names: LineNames, body: bytes) -> bytes:
    return _result(names, {"status_code": 200, "request_id": names.request_id, "body": msgspec.Raw(body)}, None)


def _failed(names: LineNames, error: HeadraceError) -> bytes:
    body = msgspec.Raw(OPENAI.body(error, names.request_id))
    return _result(names, {"status_code": OPENAI.status(error), "request_id": names.request_id, "body": body}, None)


_UNRUN = {
    "cancelled": "This request was not executed, because its batch was cancelled.",
    "expired": "This request could not be executed before the completion window expired.",
}


def _unrun(names: LineNames, why: str) -> bytes:
    return _result(names, None, {"code": f"batch_{why}", "message": _UNRUN[why]})


def _result(names: LineNames, response: Mapping[str, Any] | None, error: Mapping[str, str] | None) -> bytes:
    return _encode_json({"id": names.id, "custom_id": names.custom_id, "response": response, "error": error})


DIALECT: Final = BatchDialect(NAME, OPENAI, read_line, _succeeded, _failed, _unrun, splits=True)


def encode_batch(batch: Batch) -> bytes:
    """A batch object."""
    return _encode_json(_batch(batch))


def encode_batches(page: Page[Batch]) -> bytes:
    """A page of batch objects."""
    return encode_page(page, _batch)


def _batch(batch: Batch) -> dict[str, Any]:
    order, usage = batch.order, batch.usage
    times = {f"{status.value}_at": batch.times_s.get(status) for status in BatchStatus}
    del times["validating_at"]  # what it is created with
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": order.endpoint,
        "errors": {"object": "list", "data": [_problem(one) for one in batch.problems]} if batch.problems else None,
        "input_file_id": order.input_file_id,
        "completion_window": order.window,
        "status": batch.status.value,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": batch.created_s,
        "expires_at": batch.expires_s,
        **times,
        "request_counts": {
            "total": batch.num_lines,
            "completed": batch.num_ended - batch.num_failed,
            "failed": batch.num_failed,
        },
        "metadata": order.metadata,
        "model": batch.model,
        "usage": {
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }


def _problem(problem: LineProblem) -> dict[str, Any]:
    return {"code": problem.code, "line": problem.line, "message": problem.message, "param": problem.param}
