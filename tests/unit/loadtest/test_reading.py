"""One streamed answer: its pieces and their times, its counts, and every way to end badly."""

import json
from typing import Any

import pytest

from headrace.loadtest.reading import Failed, Point, Reading


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> bytes:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return f"data: {json.dumps({'choices': choices, **more})}\n\n".encode()


def say(text: str) -> bytes:
    return chunk({"content": text})


DONE = b"data: [DONE]\n\n"


def point(reading: Reading, failed: Failed | None = None) -> Point:
    return reading.point(index=0, turn=0, is_warm=False, due_s=1.0, end_s=9.0, failed=failed)


def test_times_are_those_of_pieces_with_content_and_not_of_the_role() -> None:
    reading = Reading()
    reading.feed(chunk({"role": "assistant", "content": ""}), 2.0)
    for at_s, text in ((3.0, "a"), (3.5, "b"), (4.25, "c")):
        reading.feed(say(text), at_s)
    reading.feed(chunk({}, "stop") + DONE, 5.0)
    reading.check()
    told = point(reading)
    assert (told.first_s, list(told.gaps_s), reading.text) == (3.0, [0.5, 0.75], "abc")
    assert (told.output_tokens, told.is_counted, told.outcome) == (3, False, "ok")


def test_the_servers_count_is_taken_where_there_is_one() -> None:
    usage = {"completion_tokens": 10, "prompt_tokens": 40, "prompt_tokens_details": {"cached_tokens": 32}, "cost": 0.25}
    reading = Reading()
    reading.feed(say("abc") + chunk({}, "stop") + chunk(usage=usage) + DONE, 1.0)
    told = point(reading)
    assert (told.output_tokens, told.is_counted, told.prompt_tokens, told.cached_tokens) == (10, True, 40, 32)
    assert told.cost == 0.25


def test_thoughts_calls_and_completions_are_pieces_too() -> None:
    reading = Reading()
    reading.feed(chunk({"reasoning_content": "hm"}), 1.0)
    reading.feed(chunk({"tool_calls": [{"index": 0}]}), 2.0)
    reading.feed(b'data: {"choices": [{"index": 0, "text": "t", "finish_reason": null}]}\n\n', 3.0)
    assert point(reading).num_pieces == 3


def test_pieces_are_found_however_the_bytes_are_parted() -> None:
    whole = chunk({"role": "assistant"}) + say("a") + b": ping\r\n\r\n" + say("b") + chunk({}, "stop") + DONE
    reading = Reading()
    for index in range(len(whole)):
        reading.feed(whole[index : index + 1], float(index))
    reading.check()
    assert reading.text == "ab" and reading.is_done


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"data: {not json}\n\n", "malformed"),
        (b"data: \xff\xfe\n\n", "malformed"),
        (b"data: 7\n\n", "malformed"),
        (b"data: " + b"x" * (17 * 2**20), "malformed"),
        (chunk(error={"message": "busy"}), "stream-error"),
    ],
)
def test_what_is_no_answer_is_told_by_kind(data: bytes, kind: str) -> None:
    with pytest.raises(Failed) as caught:
        Reading().feed(data, 1.0)
    assert caught.value.kind == kind and len(caught.value.detail) <= 300


def test_an_answer_that_breaks_off_is_cut_and_one_without_a_token_empty() -> None:
    cut = Reading()
    cut.feed(say("a"), 1.0)
    with pytest.raises(Failed) as caught:
        cut.check()
    assert caught.value.kind == "cut"
    empty = Reading()
    empty.feed(chunk({}, "stop") + DONE, 1.0)
    with pytest.raises(Failed) as caught:
        empty.check()
    assert caught.value.kind == "empty"


@pytest.mark.parametrize(
    "odd",
    [
        {"choices": "x"},
        {"choices": [None, 3]},
        {"choices": [{"delta": "x"}]},
        {"usage": 3},
        {"usage": {"completion_tokens": "many", "prompt_tokens": -1, "prompt_tokens_details": [], "cost": "free"}},
        {"choices": [{"delta": {"content": {"a": 1}}}]},
    ],
)
def test_fields_of_the_wrong_kind_count_nothing_and_break_nothing(odd: dict[str, Any]) -> None:
    reading = Reading()
    reading.feed(f"data: {json.dumps(odd)}\n\n".encode(), 1.0)
    told = point(reading)
    assert told.prompt_tokens is None and told.cost is None and reading.text == ""
