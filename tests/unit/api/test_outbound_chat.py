"""OpenAI's older routes as backends speak them: what providers do differently, and what passes through."""

import base64
import json
import struct
from collections.abc import Iterable
from typing import Any

import pytest
from openai.types.chat import ChatCompletionChunk
from openai.types.chat.chat_completion_chunk import (
    Choice,
    ChoiceDelta,
    ChoiceDeltaToolCall,
    ChoiceDeltaToolCallFunction,
)
from openai.types.completion_usage import CompletionTokensDetails, CompletionUsage, PromptTokensDetails

from headrace.api.outbound.chat import CHAT
from headrace.api.outbound.codec import Quirks
from headrace.core.errors import (
    ContextTooLong,
    HeadraceError,
    InvalidRequest,
    NotFound,
    Overloaded,
    PayloadTooLarge,
    RateLimited,
    UnsupportedField,
    UpstreamDenied,
    UpstreamFault,
    UpstreamTimeout,
)
from headrace.core.events import (
    ChoiceFinished,
    Embedding,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Score,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.gateway import RawBody
from headrace.core.request import Input, Message, Request, Role, Sampling, Task, TextPart
from headrace.core.shape import Shape

ASKED = Request(id="req_1", model="route", messages=(Message(Role.USER, (TextPart("Hi"),)),))
START = Started("req_1", "target", 0)
STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
COUNTS = {"choices": [], "usage": USAGE}
TOLD = Finished(Usage(9, 4))


def delta(index: int = 0, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": None}]}


def call(index: int | None, name: str | None, arguments: Any, call_id: str | None = None) -> dict[str, Any]:
    piece: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    if index is not None:
        piece["index"] = index
    if call_id is not None:
        piece["id"] = call_id
    return delta(tool_calls=[piece])


def read(chunks: Iterable[dict[str, Any]], request: Request = ASKED, *, done: bool = True) -> list[Event]:
    """What a stream of chunks says."""
    reader = CHAT.reader(request, "target")
    events = [event for chunk in chunks for event in reader.feed("", json.dumps(chunk).encode())]
    if done:
        events += reader.feed("", b"[DONE]")
        assert reader.is_done
    return events + reader.end()


def calls_of(events: list[Event]) -> list[tuple[int, str | None, str | None, str]]:
    return [(one.index, one.id, one.name, one.arguments) for one in events if isinstance(one, ToolCallDelta)]


def test_a_stream_made_of_the_official_types_is_read() -> None:
    def chunk(said: ChoiceDelta | None, reason: Any = None, usage: CompletionUsage | None = None) -> dict[str, Any]:
        choices = [] if said is None else [Choice(index=0, delta=said, finish_reason=reason)]
        made = ChatCompletionChunk(
            id="c", created=1, model="gpt", object="chat.completion.chunk", choices=choices, usage=usage
        )
        told: dict[str, Any] = made.model_dump()
        return told

    function = ChoiceDeltaToolCallFunction(name="f", arguments="")
    more = ChoiceDeltaToolCallFunction(arguments='{"a":1}')
    usage = CompletionUsage(
        prompt_tokens=20,
        completion_tokens=8,
        total_tokens=28,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=12, cache_write_tokens=4),
        completion_tokens_details=CompletionTokensDetails(reasoning_tokens=3),
    )
    events = read(
        [
            chunk(ChoiceDelta(role="assistant", content="")),
            chunk(ChoiceDelta(content="Hello")),
            chunk(ChoiceDelta(tool_calls=[ChoiceDeltaToolCall(index=0, id="c1", type="function", function=function)])),
            chunk(ChoiceDelta(tool_calls=[ChoiceDeltaToolCall(index=0, function=more)])),
            chunk(ChoiceDelta(), "tool_calls"),
            chunk(None, usage=usage),
        ]
    )
    assert events == [
        START,
        TextDelta(0, "Hello", 1),
        ToolCallDelta(0, 0, "", 1, "c1", "f"),
        ToolCallDelta(0, 0, '{"a":1}', 1),
        ChoiceFinished(0, FinishReason.TOOL_CALLS),
        Finished(Usage(20, 8, 12, 0, ((1800.0, 4),), 3)),
    ]


@pytest.mark.parametrize(
    ("said", "events"),
    [
        ({"reasoning_content": "hm"}, [ReasoningDelta(0, "hm", 1)]),
        ({"reasoning": "hm"}, [ReasoningDelta(0, "hm", 1)]),
        ({"reasoning_content": "hm", "reasoning": "hm", "content": "x"},
         [ReasoningDelta(0, "hm", 1), TextDelta(0, "x", 1)]),
        ({"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"text": "x"}]},
         [ReasoningDelta(0, "hm", 1), TextDelta(0, "x", 1)]),
        ({"content": None, "tool_calls": None}, []),
    ],
)  # fmt: skip
def test_reasoning_is_read_under_every_name(said: dict[str, Any], events: list[Event]) -> None:
    assert read([delta(**said), STOP, COUNTS]) == [START, *events, ChoiceFinished(0, FinishReason.STOP), TOLD]


@pytest.mark.parametrize(
    ("chunks", "calls"),
    [
        # Whole calls in one chunk each; all with index 0; without an index; without ids.
        ([call(0, "f", "{}", "a"), call(1, "g", "{}", "b")], [(0, "a", "f", "{}"), (1, "b", "g", "{}")]),
        ([call(0, "f", "{}", "a"), call(0, "g", "{}", "b")], [(0, "a", "f", "{}"), (1, "b", "g", "{}")]),
        ([call(None, "f", "{}", "a"), call(None, "g", "{}", "b")], [(0, "a", "f", "{}"), (1, "b", "g", "{}")]),
        ([call(0, "f", "{}"), call(0, "f", "{}")], [(0, "call_1_0_0", "f", "{}"), (1, "call_1_0_1", "f", "{}")]),
        ([call(None, "f", "{"), call(None, None, "}")], [(0, "call_1_0_0", "f", "{"), (0, None, None, "}")]),
        # The id and the name again on every piece; the id anew on every piece.
        ([call(0, "f", "{", "a"), call(0, "f", "}", "a")], [(0, "a", "f", "{"), (0, None, None, "}")]),
        ([call(0, "f", "{", "a"), call(0, "", "}", "b")], [(0, "a", "f", "{"), (0, None, None, "}")]),
        # The id before the name, arguments before both; arguments that are an object.
        ([call(0, None, None, "a"), call(0, "f", "{}")], [(0, "a", "f", "{}")]),
        ([call(0, None, "{", "a"), call(0, "f", "}")], [(0, "a", "f", "{}")]),
        ([call(0, "f", {"a": 1}, "a")], [(0, "a", "f", '{"a":1}')]),
        # Pieces of two calls in turn.
        ([call(0, "f", "", "a"), call(1, "g", "", "b"), call(0, None, "{}"), call(1, None, "[]")],
         [(0, "a", "f", ""), (1, "b", "g", ""), (0, None, None, "{}"), (1, None, None, "[]")]),
        # OpenAI's older words.
        ([delta(function_call={"name": "f", "arguments": ""}), delta(function_call={"arguments": "{}"})],
         [(0, "call_1_0_0", "f", ""), (0, None, None, "{}")]),
    ],
)  # fmt: skip
def test_calls_are_told_apart_whatever_a_provider_sends(chunks: list[dict[str, Any]], calls: list[Any]) -> None:
    events = read([*chunks, STOP, COUNTS])
    assert calls_of(events) == calls
    assert events[-2] == ChoiceFinished(0, FinishReason.TOOL_CALLS)  # some say stop, and mean the calls


@pytest.mark.parametrize(
    ("reason", "meant"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("model_length", FinishReason.LENGTH),
        ("content_filter", FinishReason.FILTERED),
        ("SAFETY", FinishReason.FILTERED),
        ("tool_calls", FinishReason.TOOL_CALLS),
    ],
)
def test_reasons_are_read(reason: str, meant: FinishReason) -> None:
    end = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": reason}]}
    assert read([end, COUNTS])[2] == ChoiceFinished(0, meant)


def test_a_refusal_is_text_that_was_withheld() -> None:
    events = read([delta(refusal="No."), STOP, COUNTS])
    assert events == [START, TextDelta(0, "No.", 1), ChoiceFinished(0, FinishReason.FILTERED), TOLD]


def test_the_string_that_ended_an_answer_is_told() -> None:
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop", "stop_reason": "END"}]}
    assert read([delta(content="x"), end, COUNTS])[2] == ChoiceFinished(0, FinishReason.STOP, "END")


@pytest.mark.parametrize(
    ("usage", "told"),
    [
        (USAGE, Usage(9, 4)),
        (USAGE | {"prompt_cache_hit_tokens": 6, "prompt_cache_miss_tokens": 3}, Usage(9, 4, 6)),  # DeepSeek
        (USAGE | {"prompt_tokens_details": None, "completion_tokens_details": {}}, Usage(9, 4)),
        # xAI counts reasoning apart; counts that contradict each other are never charged as less.
        ({"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 20,
          "completion_tokens_details": {"reasoning_tokens": 7}}, Usage(9, 11, reasoning_tokens=7)),
        ({"prompt_tokens": 1, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}, Usage(5, 4, 5)),
    ],
)  # fmt: skip
def test_usage_is_read_under_every_name(usage: dict[str, Any], told: Usage) -> None:
    last = {"choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    for chunks in ([delta(content="x"), STOP, {"choices": [], "usage": usage}], [last]):
        assert read(chunks)[-1] == Finished(told)
    assert CHAT.usage_of(json.dumps({"choices": [], "usage": usage}).encode()) == told


def test_an_answer_without_usage_is_counted_by_bounds_and_says_so() -> None:
    events = read([delta(content="héllo"), STOP])
    assert events[-1] == Finished(Usage(Shape.of(ASKED).prompt_bound, 6, is_estimated=True))


def test_a_stream_may_end_without_its_last_word_but_not_without_an_end() -> None:
    assert read([delta(content="x"), STOP, COUNTS], done=False)[-1] == TOLD
    with pytest.raises(UpstreamFault, match="ended before its answer did"):
        read([delta(content="x")], done=False)
    with pytest.raises(UpstreamFault, match="ended before its answer did"):
        read([delta(content="x")])
    with pytest.raises(UpstreamFault, match="ended before its answer did"):
        read([], done=False)


def test_every_choice_has_to_end() -> None:
    two = Request(id="req_1", model="m", messages=ASKED.messages, sampling=Sampling(num_choices=2))
    with pytest.raises(UpstreamFault):
        read([delta(content="x"), STOP, COUNTS], two)


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        ([delta(2, content="x")], "choice 2; 1 were asked for"),
        ([STOP, delta(content="x")], "had ended"),
        ([delta(content=5)], "not its protocol"),
        ([call(0, None, "{}", "a"), STOP], "did not say which"),
        ([{"choices": [{"index": 0, "finish_reason": "insufficient_system_resource"}]}], "broke the answer off"),
        ([{"choices": [], "usage": {"prompt_tokens": -1}}], "below 0"),
        ([{"choices": "x"}], "not its protocol"),
    ],
)  # fmt: skip
def test_contradictions_are_faults_of_the_backend(chunks: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(UpstreamFault, match=words):
        read(chunks)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"message": "slow down", "code": 429}, RateLimited),
        ({"message": "boom", "type": "server_error"}, UpstreamFault),
        ({"message": "bad", "type": "invalid_request_error", "param": "tools"}, InvalidRequest),
        ({"message": "too long", "type": "x", "code": "context_length_exceeded"}, ContextTooLong),
        ({"message": "Incorrect API key: sk-123", "code": "invalid_api_key"}, UpstreamFault),
        ("boom", UpstreamFault),
    ],
)
def test_an_error_in_a_stream_is_raised(error: Any, kind: type[HeadraceError]) -> None:
    with pytest.raises(kind) as raised:
        read([{"error": error}])
    assert type(raised.value) is kind
    assert "sk-123" not in raised.value.message


NAMED = [
    ("error", {"error": {"message": "slow", "code": 429}}),
    ("error", {"message": "slow", "code": 429}),
    ("", {"object": "error", "message": "slow", "code": 429}),
]


@pytest.mark.parametrize(("name", "said"), NAMED)
def test_an_error_is_one_by_the_events_name_or_by_its_object_too(name: str, said: dict[str, Any]) -> None:
    data = json.dumps(said).encode()
    with pytest.raises(RateLimited):
        CHAT.reader(ASKED, "m").feed(name, data)
    sent = (f"event: {name}\n".encode() if name else b"") + b"data: " + data + b"\n\n"
    with pytest.raises(RateLimited):
        CHAT.scanner(raw(BODY)).feed(sent)
    scanner = CHAT.scanner(raw(BODY))
    scanner.feed(frame(delta(content="x")) + frame(STOP))
    assert scanner.feed(sent + b"data: [DONE]\n\n")
    assert not scanner.can_end


def raw(body: dict[str, Any], dialect: str = "chat") -> RawBody:
    return RawBody(dialect=dialect, path="", fields={name: json.dumps(value).encode() for name, value in body.items()})


BODY = {"model": "route", "messages": [{"role": "user", "content": "Hi"}], "x_vendor": {"a": [1.50, None]}}


@pytest.mark.parametrize(
    ("given", "max_tokens", "quirks", "changed"),
    [
        ({}, None, Quirks(), {}),
        ({}, 50, Quirks(), {"max_completion_tokens": 50}),
        ({}, 50, Quirks(max_tokens_field="max_tokens"), {"max_tokens": 50}),
        ({"max_tokens": 20}, 50, Quirks(), {"max_completion_tokens": 20}),
        ({"max_tokens": 20}, None, Quirks(), {"max_completion_tokens": 20}),
        ({"max_tokens": 80}, 50, Quirks(max_tokens_field="max_tokens"), {"max_tokens": 50}),
        ({"max_tokens": 80, "max_completion_tokens": 30}, 50, Quirks(), {"max_completion_tokens": 30}),
        ({"max_completion_tokens": None}, 50, Quirks(), {"max_completion_tokens": 50}),
        # a bound by a name that only some servers go by bounds what all of them do
        ({"max_tokens": 9, "n_predict": 80}, None, Quirks(max_tokens_field="max_tokens"), {"max_tokens": 9}),
        ({"max_tokens": 9, "n_predict": 80}, 50, Quirks(max_tokens_field="max_tokens"), {"max_tokens": 9}),
        ({"n_predict": 80}, 50, Quirks(max_tokens_field="max_tokens"), {"max_tokens": 50}),
        ({"max_new_tokens": 30}, None, Quirks(), {"max_completion_tokens": 30}),
        ({"max_tokens": None, "max_completion_tokens": 5}, None, Quirks(max_tokens_field="max_tokens"),
         {"max_tokens": 5}),
        ({"stream": True}, None, Quirks(), {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": True, "stream_options": None}, None, Quirks(),
         {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": True, "stream_options": {"include_obfuscation": False}}, None, Quirks(),
         {"stream": True, "stream_options": {"include_obfuscation": False, "include_usage": True}}),
        ({"stream": True, "stream_options": {"include_usage": False}}, None, Quirks(),
         {"stream": True, "stream_options": {"include_usage": True}}),
        ({"stream": True, "stream_options": {"a": 1}}, None, Quirks(has_usage_option=False), {"stream": True}),
        ({"stream": False}, None, Quirks(), {"stream": False}),
        ({"user": "u", "seed": 5}, None, Quirks(drops=frozenset({"user", "seed"})), {"seed": 5}),
        ({"a": 1}, None, Quirks(adds={"a": 2, "b": 3}), {"a": 1, "b": 3}),
    ],
)  # fmt: skip
def test_a_body_passes_through_but_for_what_a_gateway_may_change(
    given: dict[str, Any], max_tokens: int | None, quirks: Quirks, changed: dict[str, Any]
) -> None:
    called = CHAT.reframe(raw(BODY | given), "big", max_tokens, quirks)
    assert json.loads(called.body) == BODY | {"model": "big"} | changed
    assert b'{"a": [1.5, null]}' in called.body  # as it came, byte by byte
    assert called.is_stream == (given.get("stream") is True)
    assert called.path == "/chat/completions"


@pytest.mark.parametrize("dialect", ["chat", "completions"])
@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_a_bound_of_nothing_is_not_sent_on_for_some_servers_read_it_as_none(dialect: str, name: str) -> None:
    with pytest.raises(UnsupportedField) as caught:
        CHAT.reframe(raw(BODY | {name: 0}, dialect), "big", None, Quirks())
    assert caught.value.param == "max_tokens"


def test_completions_and_embeddings_pass_through_too() -> None:
    prompt = {"model": "route", "prompt": "Hi", "max_tokens": 99}
    called = CHAT.reframe(raw(prompt, "completions"), "big", 50, Quirks())
    assert (called.path, json.loads(called.body)) == ("/completions", prompt | {"model": "big", "max_tokens": 50})
    texts = {"model": "route", "input": ["a", "b"], "encoding_format": "base64"}
    called = CHAT.reframe(raw(texts, "embeddings"), "big", 50, Quirks())
    assert (called.path, json.loads(called.body)) == ("/embeddings", texts | {"model": "big"})


@pytest.mark.parametrize("value", ["x", -1, 1.5, True, [], 10**30])
def test_a_bound_that_is_no_number_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidRequest, match=r"^max_tokens: ") as raised:
        CHAT.reframe(raw(BODY | {"max_tokens": value}), "big", 50, Quirks())
    assert raised.value.param == "max_tokens"


def frame(chunk: Any) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def test_a_scanner_keeps_usage_from_those_who_did_not_ask() -> None:
    words = frame(delta(content='say "usage": {"x"}')) + frame(STOP)
    for asked, kept in ((False, b""), (True, frame(COUNTS))):
        options = {"stream_options": {"include_usage": True}} if asked else {}
        scanner = CHAT.scanner(raw(BODY | options))
        assert scanner.feed(words) == words
        assert scanner.usage is None
        assert not scanner.is_done
        assert scanner.can_end
        assert scanner.feed(frame(COUNTS) + b"data: [DONE]\n\n") == kept + b"data: [DONE]\n\n"
        assert scanner.usage == Usage(9, 4)
        assert scanner.is_done


def test_a_scanner_passes_usage_that_stands_beside_an_answer() -> None:
    last = frame(STOP | {"usage": USAGE})
    scanner = CHAT.scanner(raw(BODY))
    assert scanner.feed(last) == last
    assert scanner.usage == Usage(9, 4)


def test_a_scanner_raises_an_error_that_comes_first_and_passes_a_later_one() -> None:
    failure = frame({"error": {"message": "boom", "code": 429}})
    with pytest.raises(RateLimited):
        CHAT.scanner(raw(BODY)).feed(b": hello\n\n" + failure)
    scanner = CHAT.scanner(raw(BODY))
    scanner.feed(frame(delta(content="x")))
    assert scanner.feed(failure) == failure
    assert scanner.feed(b"data: [DONE]\n\n")  # vLLM says it all the same
    assert not scanner.is_done
    assert not scanner.can_end


def test_comments_begin_no_answer() -> None:
    scanner = CHAT.scanner(raw(BODY))
    assert scanner.feed(b": working\n\n") == b""
    with pytest.raises(RateLimited):
        scanner.feed(frame({"error": {"message": "slow", "code": 429}}))
    scanner = CHAT.scanner(raw(BODY))
    first = frame(delta(content="x"))
    assert scanner.feed(b": working\n\n" + first) == first
    assert scanner.feed(b": working\n\n") == b": working\n\n"
    with pytest.raises(UpstreamFault, match="before its answer began"):
        CHAT.scanner(raw(BODY)).feed(b"data: [DONE]\n\n")


def test_counts_that_cannot_be_break_no_answer_that_passes_through() -> None:
    for counts in ({"prompt_tokens": -1}, {"completion_tokens": 10**15}):
        scanner = CHAT.scanner(raw(BODY))
        last = frame(STOP | {"usage": USAGE | counts})
        assert scanner.feed(last) == last
        assert scanner.usage is None
        assert CHAT.usage_of(json.dumps({"choices": [], "usage": USAGE | counts}).encode()) is None


def test_a_scanner_refuses_what_is_no_answer_from_the_start() -> None:
    with pytest.raises(UpstreamFault, match="not its protocol"):
        CHAT.scanner(raw(BODY)).feed(b"data: <html>\n\n")
    scanner = CHAT.scanner(raw(BODY))
    assert scanner.feed(b"data: {") == b""
    assert not scanner.can_end


@pytest.mark.parametrize("words", ["one", "two words", 'quo"ted \\ é'])
def test_a_scanner_counts_about_the_bytes_of_the_answer(words: str) -> None:
    scanner = CHAT.scanner(raw(BODY))
    chunks = [delta(role="assistant", content=""), *[delta(content=words)] * 20]
    for chunk in chunks:
        scanner.feed(frame(chunk))
    exact = 20 * len(json.dumps(words)[1:-1])
    assert exact <= scanner.num_output_bytes <= exact + 600


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b"[]", b"{}", b'{"usage":{}}', b'{"choices":[],"usage":{"prompt_tokens":"x"}}']
)
def test_a_whole_body_that_is_no_answer_is_a_fault(body: bytes) -> None:
    with pytest.raises(UpstreamFault):
        CHAT.usage_of(body)


def test_a_whole_body_that_is_an_error_is_that_error() -> None:
    with pytest.raises(RateLimited):
        CHAT.usage_of(b'{"error":{"message":"slow","code":429}}')
    assert CHAT.usage_of(b'{"choices":[],"error":null}') is None


OURS = "the gateway's credentials"


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (400, {"error": {"message": "bad tools", "param": "tools"}}, InvalidRequest, "bad tools"),
        (400, {"error": {"message": "m", "code": "context_length_exceeded"}}, ContextTooLong, "m"),
        (400, {"error": {"message": "the maximum context length is 8", "code": 400}}, ContextTooLong, "maximum"),
        (400, "", InvalidRequest, "does not say why"),
        (401, {"error": {"message": "Incorrect API key: sk-123"}}, UpstreamFault, OURS),
        (402, {"error": {"message": "Insufficient Balance"}}, UpstreamFault, OURS),
        (403, {"error": {"message": "sk-123 may not"}}, UpstreamDenied, OURS),
        (429, {"error": {"message": "sk-123 quota", "code": "insufficient_quota"}}, UpstreamFault, OURS),
        (404, {"error": {"message": "no model x", "code": 404}}, NotFound, "no model x"),
        (404, "<html>nginx</html>", UpstreamFault, "no such route"),
        (408, "", UpstreamTimeout, "in time"),
        # What a client alone brings about is no fault of the backend's: else one client could open its breaker.
        (409, {"error": {"message": "the idempotency key is another's"}}, InvalidRequest, "another's"),
        (414, "<html>", InvalidRequest, "does not say why"),
        (431, "<html>", InvalidRequest, "headers"),
        (413, "<html>", PayloadTooLarge, "larger"),
        (422, {"detail": [{"loc": ["body"], "msg": "field required"}]}, InvalidRequest, "field required"),
        (422, {"detail": "wrong"}, InvalidRequest, "wrong"),
        (422, {"message": {"detail": [{"msg": "wrong"}]}}, InvalidRequest, "wrong"),
        (429, {"error": {"message": "slow"}}, RateLimited, "later"),
        (500, {"error": "model runner died"}, UpstreamFault, "status 500: model runner died"),
        (500, {"object": "error", "message": "boom"}, UpstreamFault, "status 500: boom"),
        (502, "<html>bad gateway</html>", UpstreamFault, "status 502."),
        (503, "", Overloaded, "overloaded"),
        (504, "", UpstreamTimeout, "in time"),
        (302, "", UpstreamFault, "status 302"),
    ],
)  # fmt: skip
def test_refusals_mean_what_they_mean_to_our_caller(
    status: int, body: Any, kind: type[HeadraceError], words: str
) -> None:
    sent = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    error = CHAT.read_error(status, [], sent)
    assert type(error) is kind
    assert words in error.message
    assert "sk-123" not in error.message
    assert "html" not in error.message


def test_a_refusal_tells_when_to_come_back() -> None:
    dates = [(b"retry-after", b"Fri, 31 Dec 1999 23:59:59 GMT"), (b"date", b"Fri, 31 Dec 1999 23:59:29 GMT")]
    headers: list[tuple[list[tuple[bytes, bytes]], float | None]] = [
        ([(b"retry-after", b"7")], 7.0),
        ([(b"retry-after", b"7"), (b"retry-after-ms", b"250")], 0.25),
        (dates, 30.0),
        (dates[:1], None),
        ([(b"retry-after", b"soon")], None),
        ([], None),
    ]
    for given, seconds in headers:
        for status in (429, 503):
            assert CHAT.read_error(status, given, b"").retry_after_s == seconds


VECTOR = struct.pack("<3f", 1.0, -2.0, 0.5)
EMBEDS = Request(id="req_1", model="m", task=Task.EMBED, inputs=(Input("a"), Input("b")))


def embeddings(*data: Any, **more: Any) -> bytes:
    return json.dumps(
        {"object": "list", "data": list(data), "usage": {"prompt_tokens": 6, "total_tokens": 6}, **more}
    ).encode()


def test_vectors_are_read_in_both_forms_and_in_the_order_of_the_inputs() -> None:
    body = embeddings(
        {"index": 1, "embedding": base64.b64encode(VECTOR).decode()}, {"index": 0, "embedding": [1.0, -2.0, 0.5]}
    )
    assert list(CHAT.decode(EMBEDS, "target", body)) == [
        Started("req_1", "target", 6),
        Embedding(0, VECTOR, 0),
        Embedding(1, VECTOR, 0),
        Finished(Usage(6, 0)),
    ]


@pytest.mark.parametrize(
    "data",
    [
        [{"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 2, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": "x"}, {"index": 1, "embedding": "x"}],
        [{"index": 0, "embedding": "AAA="}, {"index": 1, "embedding": "AAA="}],
        [{"index": 0, "embedding": [1e300]}, {"index": 1, "embedding": [1.0]}],
    ],
)
def test_vectors_that_do_not_belong_to_the_inputs_are_a_fault(data: list[Any]) -> None:
    with pytest.raises(UpstreamFault):
        list(CHAT.decode(EMBEDS, "target", embeddings(*data)))


@pytest.mark.parametrize(
    "body",
    [
        {"results": [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.2}]},
        {"data": [{"index": 0, "score": 0.2}, {"index": 1, "score": 0.9}]},
    ],
)
def test_scores_are_read_in_both_forms(body: dict[str, Any]) -> None:
    request = Request(id="req_1", model="m", task=Task.SCORE, inputs=(Input("q", "a"), Input("q", "b")))
    told = json.dumps(body | {"usage": {"total_tokens": 8}}).encode()
    assert list(CHAT.decode(request, "target", told)) == [
        Started("req_1", "target", 8),
        Score(0, 0.2, 0),
        Score(1, 0.9, 0),
        Finished(Usage(8, 0)),
    ]
    untold = list(CHAT.decode(request, "target", json.dumps(body).encode()))[-1]
    assert untold == Finished(Usage(Shape.of(request).prompt_bound, 0, is_estimated=True))


def test_credentials_are_shown_as_a_bearer() -> None:
    assert CHAT.secret_header("sk-1") == (b"authorization", b"Bearer sk-1")
