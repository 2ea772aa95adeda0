"""The scripted backend keeps the contract: the order of events, honest counts, the same answer to the same words."""

import asyncio
import json
import subprocess
import sys
import urllib.request
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_http import Client, chat, make_app, run
from tests.scripted import CARD, Call, Gate, Scripted, Turn, has_tool, last_says, tool_results, vector
from tests.scripted_server import read_cards, read_turns

from headrace.core.errors import ContextTooLong, InvalidRequest, NotFound, Overloaded
from headrace.core.events import (
    ChoiceFinished,
    Embedding,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.request import (
    Breakpoint,
    CacheHints,
    Input,
    Limits,
    Message,
    Request,
    Role,
    Sampling,
    Task,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
)

READ = Tool("read", "Reads a file.", {"type": "object"})


def says(role: Role, text: str, **fields: Any) -> Message:
    return Message(role, (TextPart(text),), **fields)


def asked(*messages: Message, **fields: Any) -> Request:
    return Request(id="r", model="scripted", messages=messages or (says(Role.USER, "one two"),), **fields)


async def gathered(backend: Scripted, request: Request) -> list[Event]:
    async with aclosing(backend.run(request)) as events:
        return [event async for event in events]


def played(backend: Scripted, request: Request) -> list[Event]:
    return asyncio.run(gathered(backend, request))


def text_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


TASK = Scripted(
    [
        Turn(reasoning="I should look.", text="Looking.", calls=(Call("read", {"path": "a"}),), when=tool_results(0)),
        Turn(text="It says 42."),
    ]
)


def test_a_turn_is_reasoning_then_text_then_calls_with_counts_that_add_up() -> None:
    events = played(TASK, asked(tools=(READ,)))
    kinds = [type(event) for event in events]
    assert kinds == [Started, *[ReasoningDelta] * 3, TextDelta, *[ToolCallDelta] * 3, ChoiceFinished, Finished]
    calls = [event for event in events if isinstance(event, ToolCallDelta)]
    assert (calls[0].name, calls[0].id is None, calls[1].id) == ("read", False, None)
    assert json.loads("".join(call.arguments for call in calls)) == {"path": "a"}
    assert events[-2] == ChoiceFinished(0, FinishReason.TOOL_CALLS)
    # The tool: read, "Reads a file.", {"type": "object"}; the message: its role and two words.
    assert events[-1] == Finished(Usage(prompt_tokens=9, completion_tokens=7, reasoning_tokens=3))


def test_the_turn_follows_from_the_conversation() -> None:
    call = ToolCall("c", "read", "{}")
    request = asked(
        says(Role.USER, "go"),
        Message(Role.ASSISTANT, tool_calls=(call,)),
        says(Role.TOOL, "42", tool_call_id="c"),
        tools=(READ,),
    )
    assert text_of(played(TASK, request)) == text_of(played(TASK, request)) == "It says 42."
    backend = Scripted([Turn(text="b", when=last_says("two")), Turn(text="a", when=has_tool("read"))])
    assert text_of(played(backend, asked())) == "b"
    assert text_of(played(backend, asked(says(Role.USER, "x"), tools=(READ,)))) == "a"
    with pytest.raises(InvalidRequest, match="no turn"):
        played(backend, asked(says(Role.USER, "x")))


@pytest.mark.parametrize(
    ("choice", "num_calls"),
    [(ToolChoice(ToolMode.NONE), 0), (ToolChoice(max_calls=1), 1), (ToolChoice(ToolMode.REQUIRED, ("read",)), 2)],
)
def test_tool_choice_is_respected(choice: ToolChoice, num_calls: int) -> None:
    backend = Scripted([Turn(text="Text.", calls=(Call("read"), Call("read")))])
    events = played(backend, asked(tools=(READ,), tool_choice=choice))
    assert sum(isinstance(event, ToolCallDelta) and event.name is not None for event in events) == num_calls
    forced = played(Scripted([Turn(text="Text.")]), asked(tools=(READ,), tool_choice=ToolChoice(ToolMode.REQUIRED)))
    assert any(isinstance(event, ToolCallDelta) for event in forced)


def test_deltas_have_the_sizes_asked_for_and_keep_every_character() -> None:
    text = "Grüße, \U0001f600 und  mehr.\n"
    events = played(Scripted([Turn(text=text, sizes=(1, 4))]), asked())
    deltas = [event for event in events if isinstance(event, TextDelta)]
    assert text_of(events) == text
    assert [len(delta.text) for delta in deltas[:4]] == [1, 4, 1, 4]
    assert sum(delta.num_tokens for delta in deltas) == len(text.split())


def test_limits_end_an_answer() -> None:
    backend = Scripted([Turn(text="one two three")])
    events = played(backend, asked(limits=Limits(max_tokens=2)))
    assert (text_of(events), events[-2]) == ("one two ", ChoiceFinished(0, FinishReason.LENGTH))
    assert text_of(played(backend, asked(limits=Limits(max_tokens=0)))) == ""
    events = played(backend, asked(limits=Limits(stop=("thr",))))
    assert (text_of(events), events[-2]) == ("one two ", ChoiceFinished(0, FinishReason.STOP, "thr"))
    events = played(backend, asked(sampling=Sampling(num_choices=2)))
    assert [event.choice for event in events if isinstance(event, ChoiceFinished)] == [0, 1]


def test_errors_come_where_the_script_says_and_close_the_stream() -> None:
    backend = Scripted([Turn(text="one two", error=Overloaded("busy"), error_after=1)])
    with pytest.raises(Overloaded):
        played(backend, asked())
    (stream,) = backend.streams
    assert [type(event) for event in stream.events] == [Started, TextDelta]
    assert (stream.is_closed, stream.is_finished, backend.num_open) == (True, False, 0)
    with pytest.raises(NotFound):
        played(backend, Request(id="r", model="other", prompt="x"))
    small = Scripted([Turn(text="x")], cards=read_cards({"models": [{"context_length": 3}]}))
    with pytest.raises(ContextTooLong):
        played(small, asked(says(Role.USER, "one two three")))


def test_a_gate_holds_an_answer_until_its_client_leaves() -> None:
    gate = Gate()
    backend = Scripted([Turn(text="one two", gates={1: gate})])

    async def main() -> None:
        client = Client(make_app(backend), "POST", "/v1/chat/completions", chat(model="scripted", stream=True))
        task = client.start()
        await gate.reached.wait()
        assert backend.num_open == 1
        client.leave()
        await task

    run(main())
    assert (backend.num_open, backend.streams[0].is_finished) == (0, False)


def test_what_was_said_before_is_remembered_per_tenant() -> None:
    backend = Scripted([Turn(text="ok")], remembers=True)
    first, more = says(Role.USER, "one two three"), says(Role.USER, "four")
    keeps = CacheHints(breakpoints=(Breakpoint(0, 300.0), Breakpoint(1, 3600.0)))

    def usage(*messages: Message, **fields: Any) -> Usage:
        finished = played(backend, asked(*messages, **fields))[-1]
        assert isinstance(finished, Finished)
        return finished.usage

    assert usage(first).cached_tokens == 0
    cold = usage(first, more, cache=CacheHints(salt="other", breakpoints=keeps.breakpoints))
    assert (cold.cached_tokens, cold.cache_writes) == (0, ((300.0, 4), (3600.0, 2)))
    warm = usage(first, more, cache=keeps)
    assert (warm.cached_tokens, warm.cache_writes) == (4, ((3600.0, 2),))


def test_vectors_and_scores_follow_from_the_input() -> None:
    backend = Scripted([], seed=7)
    one, pair = Input("a b"), Input("a", "b c")
    events = played(backend, Request(id="r", model="scripted", task=Task.EMBED, inputs=(one,)))
    assert events[1] == Embedding(0, vector(7, one), 2)
    scored = Request(id="r", model="scripted", task=Task.SCORE, inputs=(pair, pair))
    assert played(backend, scored)[1:] == played(backend, scored)[1:]
    asyncio.run(backend.release("s", "t"))
    assert (backend.released, backend.models()) == ([("t", "s")], (CARD,))
    assert asyncio.run(backend.probe(asked())).prompt_tokens == 3


def test_a_script_in_json_is_served_by_a_process_of_its_own(tmp_path: Path) -> None:
    script = {
        "models": [{"id": "m", "aliases": ["alias"]}],
        "turns": [
            {"when": {"last_says": "fail"}, "error": {"kind": "Overloaded", "message": "busy", "retry_after_s": 1}},
            {"text": "Hello there.", "sizes": [2]},
        ],
    }
    assert [turn.text for turn in read_turns(script)] == ["", "Hello there."]
    (tmp_path / "script.json").write_text(json.dumps(script))
    record = tmp_path / "record.jsonl"
    command = ["-m", "tests.scripted", "--script", tmp_path / "script.json", "--record", record]
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            body = chat(model="alias", messages=[{"role": "user", "content": "Hi"}])
            asking = urllib.request.Request(
                f"{url}/v1/chat/completions", body, headers={"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(asking, timeout=10) as answer:
                assert json.load(answer)["choices"][0]["message"]["content"] == "Hello there."
        finally:
            server.terminate()
    assert server.returncode == 0
    (line,) = record.read_text().splitlines()
    assert [part["text"] for part in json.loads(line)["messages"][0]["parts"]] == ["Hi"]
