"""Fuzz the codecs of backends: whatever a backend sends is an answer in order, or one error that does not blame us."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from fuzz.target import Target

from headrace.api.openai_answers import CHAT as CHAT_ROUTE
from headrace.api.openai_answers import AnswerHead, Order
from headrace.api.outbound.codec import OutboundCodec
from headrace.api.outbound.frames import FrameParser
from headrace.api.outbound.registry import CODECS
from headrace.core.errors import EngineFault, HeadraceError
from headrace.core.events import Event, Finished
from headrace.core.gateway import RawBody
from headrace.core.ledger import Ledger
from headrace.core.request import Input, Message, Request, Role, Sampling, Task, TextPart

ASKED = Request(
    id="req_1",
    model="m",
    messages=(Message(Role.USER, (TextPart("Hi"),)),),
    sampling=Sampling(num_choices=2),
    logprobs=1,
)
EMBEDS = Request(id="req_1", model="m", task=Task.EMBED, inputs=(Input("a"), Input("b")))
SCORES = Request(id="req_1", model="m", task=Task.SCORE, inputs=(Input("a", "b"), Input("a", "c")))

CHAT_STREAMS = [
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{"content":"Hel"},"logprobs":{"content":[{"token":"Hel","logprob":-0.5,'
    b'"bytes":[72,101,108],"top_logprobs":[{"token":"x","logprob":-1,"bytes":null}]}]},"finish_reason":null}]}\n\n'
    b'data: {"choices":[{"index":1,"delta":{"reasoning_content":"hm","reasoning":"hm"}}],"usage":null}\n\n'
    b'data: {"choices":[{"index":1,"delta":{"tool_calls":[{"index":0,"id":"c","type":"function","function":{"name":"f",'
    b'"arguments":""}}]}}]}\n\n'
    b'data: {"choices":[{"index":1,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{}"}}]}}]}\n\n'
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop","stop_reason":"x"}]}\n\n'
    b'data: {"choices":[{"index":1,"delta":{},"finish_reason":"tool_calls"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":5,"total_tokens":14,"prompt_tokens_details":'
    b'{"cached_tokens":3,"cache_write_tokens":2},"completion_tokens_details":{"reasoning_tokens":1}}}\n\n'
    b"data: [DONE]\n\n",
    b': hello\r\n\r\nevent: x\r\ndata: {"choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text",'
    b'"text":"a"}]},{"type":"text","text":"b"}],"refusal":"no"},"finish_reason":"length"},{"index":1,"message":{'
    b'"content":"x","function_call":{"name":"f","arguments":{"a":1}}},"finish_reason":"function_call"}],"usage":{'
    b'"prompt_tokens":4,"prompt_cache_hit_tokens":2,"completion_tokens":2,"total_tokens":6}}\r\n\r\n',
    b'data: {"error":{"message":"boom","type":"server_error","code":500}}\n\n',
]
RESPONSE_STREAMS = [
    b'event: response.created\ndata: {"type":"response.created","response":{"status":"in_progress","usage":null}}\n\n'
    b'event: response.output_item.added\ndata: {"type":"response.output_item.added","output_index":0,"item":{"type":'
    b'"reasoning","summary":[]}}\n\n'
    b'data: {"type":"response.reasoning_text.delta","output_index":0,"content_index":0,"delta":"hm"}\n\n'
    b'data: {"type":"response.output_text.delta","output_index":1,"content_index":0,"delta":"Hi","logprobs":[{"token":'
    b'"Hi","logprob":-1,"bytes":[72,105],"top_logprobs":[]}]}\n\n'
    b'data: {"type":"response.output_item.added","output_index":2,"item":{"type":"function_call","call_id":"c","name":'
    b'"f","arguments":""}}\n\n'
    b'data: {"type":"response.function_call_arguments.delta","output_index":2,"delta":"{}"}\n\n'
    b'data: {"type":"response.function_call_arguments.done","output_index":2,"arguments":"{}"}\n\n'
    b'data: {"type":"response.completed","response":{"status":"completed","output":[{"type":"message","content":[{'
    b'"type":"output_text","text":"Hi"}]}],"usage":{"input_tokens":5,"input_tokens_details":{"cached_tokens":2,'
    b'"cache_write_tokens":1},"output_tokens":3,"output_tokens_details":{"reasoning_tokens":1}}}}\n\n',
    b'data: {"type":"response.incomplete","response":{"output":[{"type":"reasoning","summary":[{"text":"a"}]},{"type":'
    b'"function_call","call_id":"c","name":"f","arguments":"{}"},{"type":"message","content":[{"refusal":"no"}]}],'
    b'"incomplete_details":{"reason":"max_output_tokens"}}}\n\n',
    b'event: error\ndata: {"type":"error","code":"server_error","message":"boom"}\n\n',
]
EMBEDDINGS = [
    b'{"object":"list","data":[{"index":1,"embedding":[0.5,1]},{"index":0,"embedding":"AACAPwAAAEA="}],"model":"m",'
    b'"usage":{"prompt_tokens":4,"total_tokens":4}}'
]
RERANKINGS = [
    b'{"results":[{"index":1,"relevance_score":0.5},{"index":0,"relevance_score":0.1}],"usage":{"total_tokens":4}}',
    b'{"data":[{"index":0,"object":"score","score":0.5},{"index":1,"score":1}],"usage":{"prompt_tokens":4}}',
]
ERRORS = [
    b'{"error":{"message":"no","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}',
    b'{"detail":[{"loc":["body"],"msg":"wrong"}]}',
    b'{"error":"no"}',
    b"<html>no</html>",
]


def check_stream(codec: OutboundCodec, data: bytes) -> bool:
    """Hold a stream to the rule, read as events and passed through."""
    is_read = _is_read(partial(_read_stream, codec), data)
    raw = RawBody(dialect=min(codec.takes), path="", fields={"stream": b"true"}) if codec.takes else None
    if raw is not None:
        _is_read(lambda data: _scan(codec, raw, data), data)
    return is_read


def check_body(codec: OutboundCodec, request: Request, data: bytes) -> bool:
    """Hold a whole answer to the rule."""
    _is_read(codec.usage_of, data)
    return _is_read(lambda data: list(codec.decode(request, "m", data)), data)


def check_error(codec: OutboundCodec, data: bytes) -> bool:
    """Hold a refusal to the rule: an error of ours, with no more words than can be sent."""
    for status in (400, 401, 404, 422, 429, 500, 503):
        error = codec.read_error(status, [(b"retry-after", data[:20])], data)
        assert isinstance(error, HeadraceError)
        assert not isinstance(error, EngineFault)
        assert len(error.message) < 2_000
    return True


def _is_read(read: Callable[[bytes], object], data: bytes) -> bool:
    try:
        read(data)
    except HeadraceError as error:
        assert not isinstance(error, EngineFault), repr(error)
        return False
    return True


def _read_stream(codec: OutboundCodec, data: bytes) -> None:
    asked = ASKED if codec is _CHAT else replace(ASKED, sampling=Sampling())
    reader, parser = codec.reader(asked, "m"), FrameParser()
    order = Order(AnswerHead(CHAT_ROUTE, "x", 1, num_choices=asked.sampling.num_choices))
    for name, said in parser.feed(data):
        _follow(order, reader.feed(name, said))
    _follow(order, reader.end())
    assert reader.is_done


def _follow(order: Order, events: list[Event]) -> None:
    for event in events:
        order.step(event)
        if isinstance(event, Finished):
            Ledger.of(event.usage)


def _scan(codec: OutboundCodec, raw: RawBody, data: bytes) -> None:
    scanner = codec.scanner(raw)
    for start in range(0, len(data), 100):
        scanner.feed(data[start : start + 100])
    assert scanner.num_output_bytes >= 0


_CHAT = CODECS["chat"]

TARGETS = [
    Target("outbound chat", CHAT_STREAMS, partial(check_stream, _CHAT), num_refused=1),
    Target("outbound responses", RESPONSE_STREAMS, partial(check_stream, CODECS["responses"]), num_refused=1),
    Target("outbound embeddings", EMBEDDINGS, partial(check_body, _CHAT, EMBEDS)),
    Target("outbound rerank", RERANKINGS, partial(check_body, _CHAT, SCORES)),
    Target("outbound chat errors", ERRORS, partial(check_error, _CHAT)),
]
