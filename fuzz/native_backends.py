"""Fuzz what backends of Anthropic's and Google's native protocols answer: whatever comes, it is events in a legal
order, or a fault of the backend, or a refusal of ours that can be sent. Scanners give back the bytes that they got.
"""

from fuzz.target import Check, Target

from headrace.api.anthropic import Call
from headrace.api.anthropic_answers import StreamWriter
from headrace.api.errors import ANTHROPIC, OPENAI
from headrace.api.openai_answers import CHAT, AnswerHead
from headrace.api.openai_stream import StreamWriter as ChatWriter
from headrace.api.outbound.codec import OutboundCodec
from headrace.api.outbound.frames import FrameParser
from headrace.api.outbound.gemini import GEMINI
from headrace.api.outbound.messages import MESSAGES
from headrace.core.errors import EngineFault, HeadraceError, UpstreamFault
from headrace.core.events import Event
from headrace.core.gateway import RawBody
from headrace.core.ledger import Ledger
from headrace.core.request import Input, Message, Request, Role, Task, TextPart

_ASKED = Request(id="fuzz", model="m", messages=(Message(Role.USER, (TextPart("Hi"),)),))
_COUNTED = Request(id="fuzz", model="m", task=Task.COUNT, messages=_ASKED.messages)
_EMBEDDED = Request(id="fuzz", model="m", task=Task.EMBED, inputs=(Input("a"), Input("b")), dimensions=2)
_RAW = RawBody(dialect="messages", path="/v1/messages", fields={})

MESSAGES_STREAMS = [
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message","role":"assistant",'
    b'"model":"m","content":[],"stop_reason":null,"usage":{"input_tokens":9,"cache_read_input_tokens":2,'
    b'"cache_creation_input_tokens":7,"cache_creation":{"ephemeral_5m_input_tokens":3,"ephemeral_1h_input_tokens":4},'
    b'"output_tokens":1}}}\n\nevent: ping\ndata: {"type":"ping"}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"thinking",'
    b'"thinking":"","signature":""}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta",'
    b'"thinking":"Hm"}}\n\nevent: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":1,"content_block":{"type":"tool_use",'
    b'"id":"toolu_1","name":"f","input":{}}}\n\n'
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta",'
    b'"partial_json":"{\\"a\\":1}"}}\n\nevent: content_block_stop\ndata: {"type":"content_block_stop","index":1}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"tool_use","stop_sequence":null},'
    b'"usage":{"output_tokens":12,"output_tokens_details":{"thinking_tokens":3}}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Busy."}}\n\n',
]
GEMINI_STREAMS = [
    b'data: {"candidates":[{"content":{"role":"model","parts":[{"text":"Hm","thought":true},{"text":"Yes."}]}}],'
    b'"usageMetadata":{"promptTokenCount":9,"cachedContentTokenCount":2},"modelVersion":"m"}\n\n'
    b'data: {"candidates":[{"index":0,"content":{"role":"model","parts":[{"functionCall":{"name":"f","args":{"a":1}},'
    b'"thoughtSignature":"c2ln"}]},"finishReason":"STOP","logprobsResult":{"chosenCandidates":[{"token":"a","tokenId":1,'
    b'"logProbability":-0.5}],"topCandidates":[{"candidates":[{"token":"a","logProbability":-0.5}]}]}}],"usageMetadata":'
    b'{"promptTokenCount":9,"candidatesTokenCount":5,"thoughtsTokenCount":2}}\n\n',
    b'data: {"promptFeedback":{"blockReason":"SAFETY"},"usageMetadata":{"promptTokenCount":9}}\n\n',
    b'data: {"error":{"code":503,"message":"Busy.","status":"UNAVAILABLE","details":[{"retryDelay":"3s"}]}}\n\n',
]
_WHOLE = [
    b'{"input_tokens":12}',
    b'{"totalTokens":12,"cachedContentTokenCount":3}',
    b'{"embeddings":[{"values":[1,2]},{"values":[0,1e300]}],"usageMetadata":{"promptTokenCount":4}}',
    b'[{"error":{"code":400,"message":"No.","status":"INVALID_ARGUMENT"}}]',
    b'{"type":"error","error":{"type":"rate_limit_error","message":"No."}}',
    b'{"usage":{"input_tokens":3,"output_tokens":4}}',
]


def _write(events: list[Event]) -> None:
    """Say the events in two dialects: a fault of ours would be one that the reader let through."""
    for event in events:
        usage = getattr(event, "usage", None)
        if usage is not None:
            Ledger.of(usage)
    StreamWriter(Call(_ASKED), lambda _: None).encode(events)
    ChatWriter(AnswerHead(CHAT, "x", 5, 1, include_usage=True)).encode(events)


def _sendable(error: HeadraceError) -> None:
    """An error that a backend may cause: no defect of ours, and one that every client can be told."""
    assert not isinstance(error, EngineFault), repr(error)
    for dialect in (OPENAI, ANTHROPIC):
        assert len(dialect.body(error, "req_fuzz")) < 16_000


def _reading(codec: OutboundCodec) -> Check:
    def check(data: bytes) -> bool:
        events: list[Event] = []
        reader = codec.reader(_ASKED, "m")
        try:
            for name, said in FrameParser().feed(data):
                events += reader.feed(name, said)
            events += reader.end()
        except HeadraceError as error:
            _sendable(error)
        assert reader.is_done == (bool(events) and type(events[-1]).__name__ == "Finished")
        _write(events)
        return reader.is_done

    return check


def _scanning(data: bytes) -> bool:
    scanner = MESSAGES.scanner(_RAW)
    try:
        assert data.startswith(scanner.feed(data))
    except HeadraceError as error:
        _sendable(error)
        return False
    if scanner.usage is not None:
        Ledger.of(scanner.usage)
    return scanner.is_done


def _whole(data: bytes) -> bool:
    """Answers that come whole, and refusals."""
    is_read = False
    for codec, request in ((MESSAGES, _COUNTED), (GEMINI, _COUNTED), (GEMINI, _EMBEDDED)):
        try:
            list(codec.decode(request, "m", data))
            is_read = True
        except UpstreamFault as error:
            _sendable(error)
        codec.usage_of(data)
        for status in (400, 401, 429, 500):
            _sendable(codec.read_error(status, [], data))
    return is_read


TARGETS = [
    Target("messages-backend", MESSAGES_STREAMS, _reading(MESSAGES), num_refused=1),
    Target("messages-passed", MESSAGES_STREAMS, _scanning, num_refused=1),
    Target("gemini-backend", GEMINI_STREAMS, _reading(GEMINI), num_refused=1),
    Target("native-whole", _WHOLE, _whole, num_refused=3),
]
