"""The order of events is held to its table, and a stream is written frame by frame as OpenAI writes it."""

import json

import pytest

from headrace.api.openai_answers import CHAT, COMPLETION, TRANSITIONS, AnswerHead, AnswerWriter, State
from headrace.api.openai_stream import StreamWriter
from headrace.core.errors import EngineFault
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)

START = Started("id", "m", 3, digests={"model": "sha256:abcdef0123456789"})
WORD = TextDelta(0, "w", 1)
END = ChoiceFinished(0, FinishReason.STOP)
FIN = Finished(Usage(3, 1))
IDENTITY = '"id":"x","object":"chat.completion.chunk","created":5,"model":"m","system_fingerprint":"fp_abcdef012345"'
OFF = '"logprobs":null,"finish_reason":null'


def head(num_choices: int = 1, *, include_usage: bool = False) -> AnswerHead:
    return AnswerHead(CHAT, "x", 5, num_choices, include_usage)


def test_a_chat_stream_byte_by_byte() -> None:
    sent = StreamWriter(head()).encode([START, TextDelta(0, 'é"\n', 1), END, FIN]).decode()
    assert sent.split("\n\n") == [
        f'data: {{{IDENTITY},"choices":[{{"index":0,'
        f'"delta":{{"role":"assistant","content":"","refusal":null}},{OFF}}}]}}',
        f'data: {{{IDENTITY},"choices":[{{"index":0,"delta":{{"content":"é\\"\\n"}},{OFF}}}]}}',
        f'data: {{{IDENTITY},"choices":[{{"index":0,"delta":{{}},"logprobs":null,"finish_reason":"stop"}}]}}',
        "data: [DONE]",
        "",
    ]


def test_a_completion_stream_has_text_and_no_roles() -> None:
    writer = StreamWriter(AnswerHead(COMPLETION, "cmpl-1", 5, include_usage=True))
    frames = [json.loads(line[6:]) for line in writer.encode([START, WORD, END, FIN]).decode().split("\n\n")[:-2]]
    assert [frame["object"] for frame in frames] == ["text_completion"] * 3
    assert [choice for frame in frames for choice in frame["choices"]] == [
        {"index": 0, "text": "w", "logprobs": None, "finish_reason": None},
        {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"},
    ]
    assert [frame["usage"] and frame["usage"]["total_tokens"] for frame in frames] == [None, None, 4]


def test_nothing_is_sent_until_there_is_something_to_say() -> None:
    writer = StreamWriter(head())
    assert writer.encode([START]) == b""
    assert writer.encode([TextDelta(0, "", 1)]) == b""
    assert b'"role"' in writer.encode([WORD])
    assert b'"role"' not in writer.encode([WORD])


def test_a_choice_that_says_nothing_still_has_a_role_and_an_end() -> None:
    sent = StreamWriter(head()).encode([START, END, FIN])
    assert sent.count(b"data: ") == 3
    assert b'"role":"assistant"' in sent


ILLEGAL: list[list[Event]] = [
    [WORD],
    [END],
    [FIN],
    [START, START],
    [START, FIN],
    [START, END, WORD],
    [START, END, END],
    [START, TextDelta(1, "w", 1)],
    [START, END, FIN, FIN],
    [START, END, FIN, WORD],
    [START, ToolCallDelta(0, 0, "{", 1)],
]


@pytest.mark.parametrize("events", ILLEGAL)
def test_an_order_that_is_not_in_the_table_is_a_defect_of_the_backend(events: list[Event]) -> None:
    with pytest.raises(EngineFault):
        StreamWriter(head()).encode(events)
    with pytest.raises(EngineFault):
        AnswerWriter(head()).add(events)


def test_the_table_begins_once_and_ends_once() -> None:
    assert [state for state, event in TRANSITIONS if event is Started] == [State.IDLE]
    assert [pair for pair, following in TRANSITIONS.items() if following is State.DONE] == [(State.OPEN, Finished)]
    assert not [pair for pair in TRANSITIONS if pair[0] is State.DONE]


def test_an_answer_without_its_end_is_no_answer() -> None:
    writer = AnswerWriter(head())
    writer.add([START, WORD, END])
    with pytest.raises(EngineFault):
        writer.encode()


def test_a_model_without_a_digest_has_no_fingerprint() -> None:
    writer = AnswerWriter(head())
    writer.add([Started("id", "m", 3), END, FIN])
    assert json.loads(writer.encode())["system_fingerprint"] is None
