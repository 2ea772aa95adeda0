"""Frames of the Responses WebSocket: what a client may send, and what is wrapped around events and errors.

    {"type": "response.create", ...fields of POST /v1/responses}   + stream_id, generate; `stream` is a matter of course
    {"type": "response.steer", "previous_response_id", "input"}

Reads the envelope only: the fields of a response are read by `responses.py`, from the same bytes as over HTTP. Source:
the event types of OpenAI's SDK (`responses_client_event`, `response_steer_*`) and its guide to WebSocket mode.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import msgspec

from headrace.api.errors import OPENAI, error_fields, error_headers
from headrace.api.responses_service import ResponseEvent
from headrace.core.errors import HeadraceError, InvalidRequest

MAX_STREAM_ID_CHARS: Final = 128
MAX_STEER_MESSAGES: Final = 64

_TYPES: Final = ("response.create", "response.steer")
_STEER_PARTS: Final = ("input_file", "input_image", "input_text")
_STEER_FIELDS: Final = frozenset({"type", "role", "content", "id", "status"})

_CALLS: Final = frozenset({"function_call", "custom_tool_call"})

Fields = Mapping[str, msgspec.Raw]


@dataclass(frozen=True, slots=True)
class Frame:
    """A message of a client as far as every type goes: its type, its lane, all its fields."""

    type: str
    stream_id: str | None
    fields: Fields


@dataclass(frozen=True, slots=True)
class Steer:
    """Input for a response that is being answered. `given` is as it came, `items` the messages in it; `id` names it
    once it is accepted."""

    previous_response_id: str
    given: Any
    items: tuple[Any, ...] = ()
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Create:
    """An order of a response. `fields` are those of `POST /v1/responses`, undecoded; `generates` false: prepare only;
    `is_automatic`: it follows from steering, and no client waits for an answer to it; `num_bytes`: of its fields."""

    stream_id: str | None
    fields: Fields = field(repr=False)
    previous_response_id: str | None = None
    generates: bool = True
    is_automatic: bool = False
    num_bytes: int = 0

    @property
    def is_steerable(self) -> bool:
        """Whether its response may be steered while it is answered."""
        return self.generates and not _is_given(self.fields, "conversation")

    @property
    def body(self) -> bytes:
        """The order as `POST /v1/responses` would bring it."""
        return msgspec.json.encode(self.fields)

    def prepend(self, steers: Sequence[Steer]) -> "Create":
        """The same order with earlier input before its own."""
        own = _decode(self.fields, "input")
        items = [_message(own)] if isinstance(own, str) else own if isinstance(own, list) else []
        return self._with_input([*_items(steers), *items])

    def successor(self, response_id: str, steers: Sequence[Steer]) -> "Create":
        """The order that continues from its response with the input that came meanwhile, all else as it was."""
        made = self._with_input(_items(steers))
        previous = msgspec.Raw(msgspec.json.encode(response_id))
        fields = {**made.fields, "previous_response_id": previous}
        return replace(made, fields=fields, previous_response_id=response_id, is_automatic=True, num_bytes=0)

    def _with_input(self, items: list[Any]) -> "Create":
        return replace(self, fields={**self.fields, "input": msgspec.Raw(msgspec.json.encode(items))})


def decode_frame(text: str) -> Frame:
    """Read a message's envelope. Raises InvalidRequest."""
    try:
        fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        raise InvalidRequest("the message is no JSON object; send one with a type.", code="invalid_type") from None
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        raise InvalidRequest(f"the message is not valid JSON: {error}.", code="invalid_json") from None
    stream_id = _text(fields, "stream_id")
    if stream_id is not None and not 0 < len(stream_id) <= MAX_STREAM_ID_CHARS:
        raise InvalidRequest(
            f"stream_id: {len(stream_id)} characters given; use 1 to {MAX_STREAM_ID_CHARS}.", param="stream_id"
        )
    kind = _text(fields, "type")
    if kind is None:
        raise InvalidRequest("type: is missing; it is required.", param="type", code="missing_required_parameter")
    if kind not in _TYPES:
        raise InvalidRequest(f"type: {kind[:80]!r} is not known; send {' or '.join(_TYPES)}.", param="type")
    return Frame(kind, stream_id, fields)


def decode_create_frame(frame: Frame) -> Create:
    """Read a `response.create` as far as a lane goes. Raises InvalidRequest."""
    fields = dict(frame.fields)
    for name, wanted in (("stream", True), ("background", False)):
        value = _flag(fields, name)
        if value is not None and value is not wanted:
            raise InvalidRequest(f"{name}: is always {str(wanted).lower()} on a WebSocket; leave it out.", param=name)
    generate = _flag(fields, "generate")
    if _take_prewarm(fields):
        generate = False
    for name in ("type", "stream_id", "stream", "background", "generate"):
        fields.pop(name, None)
    fields["stream"] = msgspec.Raw(b"true")
    previous, num_bytes = _text(fields, "previous_response_id"), sum(map(len, fields.values()))
    return Create(frame.stream_id, fields, previous, generate is not False, num_bytes=num_bytes)


def decode_steer(frame: Frame) -> Steer:
    """Read a `response.steer`. Raises InvalidSteer, which has the input in it."""
    try:
        given, previous = _decode(frame.fields, "input"), _decode(frame.fields, "previous_response_id")
    except InvalidRequest as error:
        raise InvalidSteer(Steer("", ""), error.message) from None
    steer = Steer(previous if isinstance(previous, str) else "", "" if given is None else given)
    for name in frame.fields:
        if name not in {"type", "previous_response_id", "input"}:
            raise InvalidSteer(steer, f"{name[:80]}: is not a field of response.steer; leave it out.")
    if not isinstance(previous, str) or not previous:
        raise InvalidSteer(steer, "previous_response_id: give the id of the response to steer.")
    if isinstance(given, str) and given:
        return replace(steer, items=(_message(given),))
    if not isinstance(given, list) or not 0 < len(given) <= MAX_STEER_MESSAGES:
        raise InvalidSteer(steer, f"input: give a text, or a list of 1 to {MAX_STEER_MESSAGES} messages of the user.")
    for index, item in enumerate(given):
        if (wrong := _wrong(item)) is not None:
            raise InvalidSteer(steer, f"input[{index}]{wrong}")
    return replace(steer, items=tuple(given))


class _Item(msgspec.Struct):
    type: str


class _Added(msgspec.Struct):
    item: _Item


class InvalidSteer(Exception):
    """Steering that cannot be taken as it is; `steer` is what was sent."""

    def __init__(self, steer: Steer, message: str) -> None:
        super().__init__(message)
        self.steer = steer
        self.message = message


def encode_event(event: ResponseEvent, number: int, stream_id: str | None) -> bytes:
    """An event as a message: with its number on this connection, and its lane if that has a name."""
    if number == event.sequence_number and stream_id is None:
        return event.data
    told = b'"sequence_number":%d}' % event.sequence_number
    assert event.data.endswith(told), event.data[-100:]
    lane = b"" if stream_id is None else b',"stream_id":' + msgspec.json.encode(stream_id)
    return event.data[: -len(told)] + b'"sequence_number":%d' % number + lane + b"}"


def begins_call(event: ResponseEvent) -> bool:
    """Whether a call of a tool begins with an event."""
    if event.type != "response.output_item.added":
        return False
    return msgspec.json.decode(event.data, type=_Added).item.type in _CALLS


def encode_error_frame(error: HeadraceError, request_id: str, stream_id: str | None = None) -> bytes:
    """An error as a message; headers that HTTP would have sent are in it."""
    told = [(name, value) for name, value in error_headers(error) if name != b"www-authenticate"]
    fields = error_fields(error)
    headers = {name.decode(): value.decode() for name, value in [*told, (b"x-request-id", request_id.encode())]}
    # The one error whose status differs from HTTP's: clients look for it on a 400.
    status = 400 if fields["code"] == "previous_response_not_found" else OPENAI.status(error)
    frame: dict[str, Any] = {"type": "error", "status": status, "error": {**fields, "headers": headers}}
    if stream_id is not None:
        frame["stream_id"] = stream_id
    return msgspec.json.encode(frame)


def encode_say(fields: Mapping[str, Any], number: int, stream_id: str | None) -> bytes:
    """A frame about steering."""
    frame = {"type": fields["type"], "sequence_number": number, **fields}
    return msgspec.json.encode(frame if stream_id is None else frame | {"stream_id": stream_id})


def encode_notice(expires_in_s: float) -> bytes:
    """The notice that the connection will soon have lived its time."""
    return msgspec.json.encode({"type": "headrace:connection.expiring", "expires_in_s": round(expires_in_s)})


def required_input(response: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Stubs of the answers that a response's calls want from its client."""
    stubs = []
    for item in response.get("output", ()):
        if item["type"] == "function_call":
            stubs.append({"type": "function_call_output", "call_id": item["call_id"], "name": item["name"]})
        elif item["type"] == "custom_tool_call":
            stubs.append({"type": "custom_tool_call_output", "call_id": item["call_id"]})
    return stubs


def _take_prewarm(fields: dict[str, msgspec.Raw]) -> bool:
    """Whether the cache options ask for no output; the wish is taken out of them."""
    options = _decode(fields, "prompt_cache_options")
    if not isinstance(options, dict) or options.get("prewarm") is not True:
        return False
    del options["prewarm"]
    fields["prompt_cache_options"] = msgspec.Raw(msgspec.json.encode(options))
    return True


def _is_given(fields: Fields, name: str) -> bool:
    return name in fields and bytes(fields[name]) != b"null"


def _decode(fields: Fields, name: str) -> Any:
    """The value of a field, None where it is missing. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(fields[name]) if name in fields else None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise InvalidRequest(f"{name}: is not valid JSON: {error}.", param=name, code="invalid_json") from None


def _text(fields: Fields, name: str) -> str | None:
    value = _decode(fields, name)
    if value is None or isinstance(value, str):
        return value
    raise InvalidRequest(f"{name}: a string is needed.", param=name, code="invalid_type")


def _flag(fields: Fields, name: str) -> bool | None:
    value = _decode(fields, name)
    if value is None or isinstance(value, bool):
        return value
    raise InvalidRequest(f"{name}: true or false is needed.", param=name, code="invalid_type")


def _message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text}


def _items(steers: Sequence[Steer]) -> list[Any]:
    return [item for steer in steers for item in steer.items]


def _wrong(item: Any) -> str | None:
    """What keeps an item from being a message of the user's; None if nothing does."""
    if not isinstance(item, dict):
        return ": a message is needed."
    unknown = next((name for name in item if name not in _STEER_FIELDS), None)
    if unknown is not None:
        return f".{unknown[:80]}: is not a field of such a message; leave it out."
    if item.get("type", "message") != "message" or item.get("role") != "user":
        return ": only messages whose role is 'user' can steer."
    content = item.get("content")
    parts = content if isinstance(content, list) else []
    is_right = all(isinstance(part, dict) and part.get("type") in _STEER_PARTS for part in parts)
    if content and (isinstance(content, str) or (parts and is_right)):
        return None
    return f".content: a text is needed, or parts of the types {', '.join(_STEER_PARTS)}."
