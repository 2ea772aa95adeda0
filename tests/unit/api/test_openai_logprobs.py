"""Log-probabilities, echoes and cache misses are written as OpenAI and vLLM write them, whole and streamed."""

import json
import math
from typing import Any

import pytest

from headrace.api.openai import Caller, decode_completion
from headrace.api.openai_answers import (
    CHAT,
    COMPLETION,
    AnswerHead,
    AnswerWriter,
    Dialect,
    Prompt,
    answer_head,
)
from headrace.api.openai_stream import StreamWriter
from headrace.core.errors import EngineFault, InvalidRequest
from headrace.core.events import (
    CacheMiss,
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    MissReason,
    PromptLogprobs,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
)
from headrace.core.request import Principal

START = Started("id", "m", 3)
END = ChoiceFinished(0, FinishReason.STOP)
FIN = Finished(Usage(3, 1))
PAR = TokenLogprob("Par", b"Par", -0.25, ((" P", b" P", -0.125), ("Par", b"Par", -0.25)), 7, (5, 7))
IS = TokenLogprob("is", b"is", -0.5, (("is", b"is", -0.5), ("\ufffd", b"\xe2", -1.5)), 8, (8, 9))
# Two tokens of one character each bring a half: the first shows nothing.
HALVES = (TokenLogprob("\ufffd", b"\xc3", -1.0), TokenLogprob("\ufffd", b"\xa9", -2.0))
WORDS: list[Event] = [TextDelta(0, "Par", 1, (PAR,)), TextDelta(0, "is", 1, (IS,))]
PROMPT = PromptLogprobs((None, PAR, IS), "é Paris")


def whole(head: AnswerHead, *events: Event) -> Any:
    writer = AnswerWriter(head)
    writer.add(events)
    return json.loads(writer.encode())


def streamed(head: AnswerHead, *events: Event) -> list[Any]:
    """Every frame, when each event comes alone."""
    writer = StreamWriter(head)
    sent = b"".join(writer.encode([event]) for event in events).decode()
    assert sent.endswith("data: [DONE]\n\n")
    return [json.loads(frame[6:]) for frame in sent.split("\n\n")[:-2]]


def head(dialect: Dialect = CHAT, **fields: Any) -> AnswerHead:
    return AnswerHead(dialect, "x", 5, **fields)


CHAT_ENTRIES = [
    {
        "token": "Par",
        "logprob": -0.25,
        "bytes": [80, 97, 114],
        "top_logprobs": [
            {"token": " P", "logprob": -0.125, "bytes": [32, 80]},
            {"token": "Par", "logprob": -0.25, "bytes": [80, 97, 114]},
        ],
    },
    {
        "token": "is",
        "logprob": -0.5,
        "bytes": [105, 115],
        "top_logprobs": [
            {"token": "is", "logprob": -0.5, "bytes": [105, 115]},
            {"token": "\ufffd", "logprob": -1.5, "bytes": [226]},
        ],
    },
]


def test_a_chat_answer_lists_its_tokens_under_content() -> None:
    (choice,) = whole(head(logprobs=2), START, *WORDS, END, FIN)["choices"]
    assert choice["logprobs"] == {"content": CHAT_ENTRIES, "refusal": None}
    (choice,) = whole(head(logprobs=0), START, *WORDS, END, FIN)["choices"]
    assert choice["logprobs"]["content"] == [entry | {"top_logprobs": []} for entry in CHAT_ENTRIES]
    (choice,) = whole(head(), START, *WORDS, END, FIN)["choices"]
    assert choice["logprobs"] is None


def test_a_chat_stream_carries_each_tokens_entry_with_its_text() -> None:
    frames = streamed(head(logprobs=2), START, *WORDS, END, FIN)
    assert [frame["choices"][0]["logprobs"] for frame in frames] == [
        None,
        {"content": CHAT_ENTRIES[:1], "refusal": None},
        {"content": CHAT_ENTRIES[1:], "refusal": None},
        None,
    ]
    assert [frame["choices"][0]["delta"].get("content") for frame in frames] == ["", "Par", "is", None]


def test_tokens_whose_text_is_held_back_are_told_when_they_come() -> None:
    events = [TextDelta(0, "", 1, (HALVES[0],)), TextDelta(0, "é", 1, (HALVES[1],)), TextDelta(0, " late", 0)]
    frames = streamed(head(logprobs=0), START, *events, END, FIN)
    said = [(frame["choices"][0]["delta"].get("content"), frame["choices"][0]["logprobs"]) for frame in frames]
    assert [text for text, _ in said] == ["", "", "é", " late", None]
    assert [logprobs and [entry["bytes"] for entry in logprobs["content"]] for _, logprobs in said] == [
        None,
        [[195]],
        [[169]],
        None,
        None,
    ]


def test_log_probabilities_that_nobody_asked_for_are_not_told() -> None:
    for frames in (
        streamed(head(), START, *WORDS, TextDelta(0, "", 1, (PAR,)), END, FIN),
        streamed(head(COMPLETION), START, *WORDS, TextDelta(0, "", 1, (PAR,)), END, FIN),
    ):
        assert all(frame["choices"][0]["logprobs"] is None for frame in frames)


def test_a_completion_lists_its_tokens_side_by_side() -> None:
    (choice,) = whole(head(COMPLETION, logprobs=2), START, *WORDS, END, FIN)["choices"]
    assert choice["logprobs"] == {
        "tokens": ["Par", "is"],
        "token_logprobs": [-0.25, -0.5],
        "top_logprobs": [{" P": -0.125, "Par": -0.25}, {"is": -0.5, "bytes:\\xe2": -1.5}],
        "text_offset": [0, 3],
    }
    (choice,) = whole(head(COMPLETION, logprobs=0), START, *WORDS, END, FIN)["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"Par": -0.25}, {"is": -0.5}]


def test_offsets_count_characters_over_the_whole_stream() -> None:
    events = [
        TextDelta(0, "", 1, (HALVES[0],)),
        TextDelta(0, "é", 1, (HALVES[1],)),
        TextDelta(1, "is", 1, (IS,)),
        TextDelta(0, "Par", 1, (PAR,)),
        TextDelta(1, "is", 1, (IS,)),
    ]
    ends = [END, ChoiceFinished(1, FinishReason.LENGTH), FIN]
    frames = streamed(head(COMPLETION, num_choices=2, logprobs=0), START, *events, *ends)
    found = [
        (choice["index"], choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"])
        for frame in frames
        for choice in frame["choices"]
        if choice["logprobs"]
    ]
    assert found == [
        (0, [0], ["bytes:\\xc3"]),
        (0, [0], ["bytes:\\xa9"]),
        (1, [0], ["is"]),
        (0, [1], ["Par"]),
        (1, [2], ["is"]),
    ]


@pytest.mark.parametrize("logprob", [-math.inf, math.inf])
def test_what_json_cannot_say_is_said_as_openai_says_it(logprob: float) -> None:
    token = TokenLogprob("a", b"a", logprob, (("b", b"b", logprob),))
    (choice,) = whole(head(logprobs=1), START, TextDelta(0, "a", 1, (token,)), END, FIN)["choices"]
    (entry,) = choice["logprobs"]["content"]
    assert (entry["logprob"], entry["top_logprobs"][0]["logprob"]) == (-9999.0, -9999.0)
    (choice,) = whole(head(COMPLETION, logprobs=1), START, TextDelta(0, "a", 1, (token,)), END, FIN)["choices"]
    assert choice["logprobs"]["top_logprobs"] == [{"a": -9999.0, "b": -9999.0}]


def test_a_whole_answer_holds_so_many_log_probabilities_and_a_stream_any_number() -> None:
    words: list[Event] = [START, *WORDS, TextDelta(0, "Par", 1, (PAR,)), END, FIN]  # each with two alternatives
    AnswerWriter(head(logprobs=2), 9).add(words)
    with pytest.raises(InvalidRequest, match="stream it, or ask for fewer") as caught:
        AnswerWriter(head(logprobs=2), 8).add(words)
    assert caught.value.param == "logprobs"
    AnswerWriter(head(), 0).add(words)
    assert len(streamed(head(logprobs=2), *words)) == 5


def call(**fields: Any) -> AnswerHead:
    """The head of the answer to a completion's body."""
    body = json.dumps({"model": "m"} | fields).encode()
    return answer_head(COMPLETION, decode_completion(body, Caller(request_id="x", principal=Principal())), 5)


ECHOED = {
    "tokens": ["é ", "Par", "is"],
    "token_logprobs": [None, -0.25, -0.5],
    "top_logprobs": [None, {" P": -0.125, "Par": -0.25}, {"is": -0.5}],
    "text_offset": [0, 2, 5],
}


def test_an_echo_begins_with_the_prompt_and_needs_nothing_of_the_backend() -> None:
    echo = call(prompt="é Paris", echo=True)
    (choice,) = whole(echo, START, TextDelta(0, "!", 1), END, FIN)["choices"]
    assert (choice["text"], choice["logprobs"]) == ("é Paris!", None)
    frames = streamed(echo, START, TextDelta(0, "!", 1), END, FIN)
    assert [frame["choices"][0]["text"] for frame in frames] == ["é Paris", "!", ""]


@pytest.mark.parametrize("prompt", ["é Paris", [1, 2, 3]])
def test_an_echo_with_log_probabilities_lists_the_prompts_tokens_first(prompt: Any) -> None:
    echo = call(prompt=prompt, echo=True, logprobs=1)
    mark = TokenLogprob("!", b"!", -3.0)
    events = [START, PROMPT, TextDelta(0, "!", 1, (mark,)), END, FIN]
    expected = {
        name: [*values, value]
        for (name, values), value in zip(ECHOED.items(), ["!", -3.0, {"!": -3.0}, 7], strict=True)
    }
    (choice,) = whole(echo, *events)["choices"]
    assert (choice["text"], choice["logprobs"]) == ("é Paris!", expected)
    assert "prompt_logprobs" not in choice
    frames = streamed(echo, *events)
    assert [frame["choices"][0]["text"] for frame in frames] == ["é Paris", "!", ""]
    assert frames[0]["choices"][0]["logprobs"] == ECHOED
    assert frames[1]["choices"][0]["logprobs"]["text_offset"] == [7]


def test_an_echo_of_token_ids_is_told_by_the_backend() -> None:
    for prompt, text in ((PROMPT, "é Paris"), (PromptLogprobs((None, PAR, IS)), "Paris")):
        echo = call(prompt=[1, 2, 3], echo=True)
        (choice,) = whole(echo, START, prompt, END, FIN)["choices"]
        assert (choice["text"], choice["logprobs"]) == (text, None)
        assert streamed(echo, START, prompt, END, FIN)[0]["choices"][0]["text"] == text


def test_every_choice_has_the_echo() -> None:
    echo = call(prompt="Hi", echo=True, n=2)
    events = [START, TextDelta(1, "b", 1), TextDelta(0, "a", 1), END, ChoiceFinished(1, FinishReason.STOP), FIN]
    assert [choice["text"] for choice in whole(echo, *events)["choices"]] == ["Hia", "Hib"]
    texts = ["", ""]
    for frame in streamed(echo, *events):
        for choice in frame["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == ["Hia", "Hib"]


VLLM = [
    None,
    {
        "7": {"logprob": -0.25, "rank": 2, "decoded_token": "Par"},
        "5": {"logprob": -0.125, "rank": 1, "decoded_token": " P"},
    },
    {"8": {"logprob": -0.5, "rank": 1, "decoded_token": "is"}},
]


def test_prompt_logprobs_have_vllms_shape_and_place() -> None:
    events = [START, PROMPT, *WORDS, END, FIN]
    answer = whole(call(prompt="é Paris", prompt_logprobs=1), *events)
    assert answer["choices"][0]["prompt_logprobs"] == VLLM
    assert "prompt_logprobs" not in answer
    answer = whole(head(prompt_logprobs=1, prompts=(Prompt(is_heard=True),)), *events)
    assert answer["prompt_logprobs"] == VLLM
    assert "prompt_logprobs" not in answer["choices"][0]


def test_a_backend_without_ids_is_shown_by_text_and_a_token_far_down_has_no_rank() -> None:
    far = TokenLogprob("z", b"z", -9.0, (("a", b"a", -0.5), ("b", b"b", -1.0)))
    answer = whole(
        head(prompt_logprobs=1, prompts=(Prompt(is_heard=True),)), START, PromptLogprobs((None, far)), END, FIN
    )
    assert answer["prompt_logprobs"][1] == {
        "z": {"logprob": -9.0, "rank": None, "decoded_token": "z"},
        "a": {"logprob": -0.5, "rank": 1, "decoded_token": "a"},
    }


ILLEGAL: list[tuple[bool, list[Event]]] = [
    (False, [START, PROMPT]),
    (True, [START, TextDelta(0, "a", 1)]),
    (True, [START, END]),
    (True, [START, PROMPT, PROMPT]),
    (True, [PROMPT]),
    (True, [START, PROMPT, TextDelta(0, "a", 1), PROMPT]),
]


@pytest.mark.parametrize(("hears", "events"), ILLEGAL)
def test_a_prompts_log_probabilities_come_once_first_and_when_asked_for(hears: bool, events: list[Event]) -> None:
    for add in (
        AnswerWriter(head(prompts=(Prompt(is_heard=hears),))).add,
        StreamWriter(head(prompts=(Prompt(is_heard=hears),))).encode,
    ):
        with pytest.raises(EngineFault):
            add(events)


MISS = Started("id", "m", 3, cache_miss=CacheMiss(MissReason.SALT_CHANGED, 32, 1))
EXPLAINED = {"cache_miss": {"reason": "salt_changed", "token": 32, "message": 1}}


@pytest.mark.parametrize("dialect", [CHAT, COMPLETION])
def test_a_miss_is_explained_at_the_end_and_only_when_that_was_asked_for(dialect: Dialect) -> None:
    ends = [END, ChoiceFinished(1, FinishReason.STOP), FIN]
    for include_usage in (False, True):
        asks = head(dialect, num_choices=2, explains_cache=True, include_usage=include_usage)
        assert whole(asks, MISS, *ends)["headrace"] == EXPLAINED
        frames = streamed(asks, MISS, TextDelta(0, "a", 1), *ends)
        assert [frame.get("headrace") for frame in frames] == [None] * (len(frames) - 1) + [EXPLAINED]
        assert bool(frames[-1].get("usage")) == include_usage
        quiet = head(dialect, num_choices=2, include_usage=include_usage)
        assert "headrace" not in whole(quiet, MISS, *ends)
        assert not any("headrace" in frame for frame in streamed(quiet, MISS, *ends))
    assert whole(head(explains_cache=True), START, END, FIN)["headrace"] == {"cache_miss": None}


def test_usage_tells_disk_and_written_tokens_where_there_are_any() -> None:
    usage = Usage(100, 1, cached_tokens=64, disk_tokens=32, cache_writes=((300.0, 8), (3600.0, 16)))
    details = whole(head(), START, END, Finished(usage))["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 64, "audio_tokens": 0, "disk_tokens": 32, "cache_write_tokens": 24}
    details = whole(head(), START, END, Finished(Usage(100, 1, cached_tokens=64)))["usage"]["prompt_tokens_details"]
    assert details == {"cached_tokens": 64, "audio_tokens": 0, "cache_write_tokens": 0}
