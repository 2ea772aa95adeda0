"""What is asked: the lengths and shared beginnings of made-up conversations, and files of one's own."""

import json
from pathlib import Path

import pytest

from headrace.core.errors import InvalidRequest
from headrace.loadtest.plan import Protocol
from headrace.loadtest.workload import Conversation, MadeUp, Ratio, Sizes, read_file

RATIO = Ratio(1.25, 20.0, True)


def made(protocol: Protocol = "chat", seed: int = 0, **sizes: int) -> MadeUp:
    return MadeUp(Sizes(**sizes), seed, RATIO, protocol)


def num_words(conversation: Conversation, role: str) -> int:
    return sum(len(one["content"].split()) for one in conversation.turns[0] if one["role"] == role)


def test_words_come_to_the_tokens_that_were_asked_for_by_the_measured_ratio() -> None:
    conversation = made(prompt_tokens=520, prefix_tokens=250, output_tokens=7).conversation(0)
    assert num_words(conversation, "system") == 200  # 250 tokens of 1.25 a word
    assert num_words(conversation, "user") == 200  # what is left after the beginning and what stands around it
    assert conversation.body([], "chat")["max_tokens"] == 7


def test_a_ratio_is_the_line_through_two_counts_and_one_token_a_word_where_they_say_nothing() -> None:
    assert Ratio.of((16, 40), (272, 360)) == Ratio(1.25, 20.0, True)
    assert Ratio.of((16, 5), (272, 5)) == Ratio(1.0, 0.0, False)


def test_the_same_seed_asks_the_same_and_no_two_prompts_are_alike() -> None:
    texts = [made(seed=3).conversation(index).turns[0][-1]["content"] for index in range(50)]
    assert texts == [made(seed=3).conversation(index).turns[0][-1]["content"] for index in range(50)]
    assert len(set(texts)) == 50
    assert texts[0] != made(seed=4).conversation(0).turns[0][-1]["content"]


def test_so_many_different_beginnings_are_shared() -> None:
    work = made(prompt_tokens=300, prefix_tokens=200, num_prefixes=4)
    beginnings = {work.conversation(index).turns[0][0]["content"] for index in range(200)}
    assert len(beginnings) == 4


def test_a_later_turn_holds_what_was_answered_before() -> None:
    conversation = made(prompt_tokens=60, turns=3, turn_tokens=10).conversation(0)
    messages = conversation.body(["One.", "Two."], "chat")["messages"]
    assert [one["role"] for one in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert [one["content"] for one in messages[1::2]] == ["One.", "Two."]
    assert len(messages[2]["content"].split()) == 8


def test_a_file_gives_its_requests_in_order_again_and_again_with_all_their_fields(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    lines = [
        {"messages": [{"role": "user", "content": "a"}], "temperature": 0.5},
        {"custom_id": "x", "body": {"messages": [{"role": "user", "content": "b"}], "max_completion_tokens": 3}},
    ]
    file.write_text("\n\n".join(map(json.dumps, lines)), "utf-8")
    work = read_file(file, 64, "chat")
    bodies = [work.conversation(index).body([], "chat") for index in range(3)]
    assert bodies[0] == {"messages": [{"role": "user", "content": "a"}], "temperature": 0.5, "max_tokens": 64}
    assert bodies[1] == {"messages": [{"role": "user", "content": "b"}], "max_completion_tokens": 3}
    assert bodies[2] == bodies[0]


def test_prompts_of_a_file_stay_as_they_are(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"prompt": "Once", "max_tokens": 2}\n', "utf-8")
    assert read_file(file, 64, "completions").conversation(0).body([], "completions") == {
        "prompt": "Once",
        "max_tokens": 2,
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no request"),
        ("{}\n", "line 1 of .* has no messages"),
        ('{"messages": [{}]}\nno\n', "line 2 of .* is no JSON"),
        ("[]", "is no object"),
        ('{"messages": ["hi"]}', "has no messages"),
    ],
)
def test_a_line_that_is_no_request_is_named(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(text, "utf-8")
    with pytest.raises(InvalidRequest, match=said):
        read_file(file, 64, "chat")


def test_sizes_that_cannot_be_are_refused_by_their_option() -> None:
    with pytest.raises(InvalidRequest, match="--prefix-tokens"):
        Sizes(prompt_tokens=10, prefix_tokens=11)
    with pytest.raises(InvalidRequest, match="--prefixes"):
        Sizes(num_prefixes=0)
