"""Whatever comes in is a request or a refusal; whatever goes out says what the events said."""

import json

from fuzz.openai_codec import SEEDS, check_input
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.api.openai_answers import CHAT, AnswerHead, AnswerWriter, StreamWriter
from headrace.api.openai_fields import ChatBody, CompletionBody
from headrace.core.events import ChoiceFinished, Event, Finished, FinishReason, Started, TextDelta, Usage

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
FIELDS = sorted({*ChatBody.__struct_fields__, *CompletionBody.__struct_fields__})
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "assistant", "tool", "x"]), "content": VALUES}),
    max_size=3,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_refusal(data: bytes) -> None:
    check_input(data)


@given(st.sampled_from(SEEDS), st.integers(0, 300), st.integers(0, 20), st.binary(max_size=12))
@settings(max_examples=300)
def test_damaged_requests_are_a_request_or_a_refusal(seed: bytes, start: int, length: int, patch: bytes) -> None:
    check_input(seed[:start] + patch + seed[start + length :])


@given(st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=6), MESSAGES, VALUES)
@settings(max_examples=300)
def test_any_value_in_any_field_is_a_request_or_a_refusal(
    fields: dict[str, object], messages: list[object], prompt: object
) -> None:
    for required in ({"messages": messages}, {"prompt": prompt}):
        check_input(json.dumps({"model": "m"} | required | fields).encode("utf-8", "surrogatepass"))


@given(st.lists(st.tuples(st.integers(0, 2), st.text(max_size=8)), max_size=30), st.lists(st.integers(1, 5)))
def test_a_stream_says_the_same_as_a_whole_answer_however_it_is_cut(
    words: list[tuple[int, str]], cuts: list[int]
) -> None:
    events: list[Event] = [Started("id", "m", 3)]
    events += [TextDelta(choice, word, 1) for choice, word in words]
    events += [ChoiceFinished(choice, FinishReason.STOP) for choice in range(3)]
    events += [Finished(Usage(3, len(words)))]
    head = AnswerHead(CHAT, "id", 1, num_choices=3, include_usage=True)
    whole, stream = AnswerWriter(head), StreamWriter(head)
    whole.add(events)
    sent = b""
    for cut in [*cuts, len(events)]:
        sent += stream.encode(events[:cut])
        events = events[cut:]
    frames = [json.loads(line[6:]) for line in sent.decode().split("\n\n")[:-1] if line != "data: [DONE]"]
    texts = ["", "", ""]
    for frame in frames:
        for choice in frame["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
    answer = json.loads(whole.encode())
    assert [choice["message"]["content"] for choice in answer["choices"]] == texts
    assert frames[-1]["usage"] == answer["usage"]
    assert stream.is_done
