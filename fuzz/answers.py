"""Fuzz the answers of every dialect that generates.

Two targets. In `answers` any bytes become a turn of text, reasoning and tool calls, cut anywhere: whole and streamed,
all dialects must tell the same. In `orders` any bytes become events in any order, as no sound backend sends them: what
comes out is an answer or an error of ours, and never a defect.
"""

import asyncio
import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from fuzz.defects import Defects
from fuzz.target import Target
from tests.doubles_http import Client, ScriptedBackend
from tests.scripted import Call, Scripted, Turn, fitting

from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    PromptLogprobs,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from headrace.core.request import Request
from headrace.server.app import App

_SCHEMA = {"type": "object", "properties": {"a": {}}}
_FUNCTIONS = [{"type": "function", "function": {"name": name, "parameters": _SCHEMA}} for name in ("f", "g")]
_ASK = [{"role": "user", "content": "Hi"}]
_SHARE = 0.03
_MAX_CHARS = 200


class Told(NamedTuple):
    """What an answer said; arguments as values."""

    text: str
    reasoning: str
    calls: list[tuple[str, Any]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """A route, the fields of a body for it, and how its whole answers and its frames are read."""

    path: str
    body: dict[str, Any]
    read: Callable[[list[Any], bool], Told]
    has_events: bool = True


def _read_chat(parts: list[Any], stream: bool) -> Told:
    messages = [part["choices"][0]["delta" if stream else "message"] for part in parts if part["choices"]]
    names: dict[int, str] = {}
    texts: dict[int, str] = {}
    for message in messages:
        for place, call in enumerate(message.get("tool_calls") or ()):
            index = call.get("index", place)
            names[index] = names.get(index, "") + (call["function"].get("name") or "")
            texts[index] = texts.get(index, "") + (call["function"].get("arguments") or "")
    text = "".join(message.get("content") or "" for message in messages)
    reasoning = "".join(message.get("reasoning_content") or "" for message in messages)
    return Told(text, reasoning, [(names[index], json.loads(texts[index])) for index in sorted(names)])


def _read_messages(parts: list[Any], stream: bool) -> Told:
    if not stream:
        blocks = parts[0]["content"]
    else:
        blocks = []
        for part in parts:
            if part["type"] == "content_block_start":
                blocks.append(dict(part["content_block"], json=""))
            elif part["type"] == "content_block_delta":
                delta, block = part["delta"], blocks[part["index"]]
                for key, name in (("text", "text"), ("thinking", "thinking"), ("partial_json", "json")):
                    if key in delta:
                        block[name] = block.get(name, "") + delta[key]
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = json.loads(block["json"] or "{}")
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    reasoning = "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    return Told(text, reasoning, [(one["name"], one["input"]) for one in blocks if one["type"] == "tool_use"])


def _read_responses(parts: list[Any], stream: bool) -> Told:
    response = parts[-1]["response"] if stream else parts[0]
    text = reasoning = ""
    calls = []
    for item in response["output"]:
        if item["type"] == "function_call":
            calls.append((item["name"], json.loads(item["arguments"])))
        elif item["type"] == "reasoning":
            reasoning += "".join(one["text"] for one in item["content"])
        else:
            text += "".join(one["text"] for one in item["content"])
    if stream:
        streamed = "".join(part["delta"] for part in parts if part["type"] == "response.output_text.delta")
        assert streamed == text, (streamed, text)
        assert [part["sequence_number"] for part in parts] == list(range(len(parts)))
    return Told(text, reasoning, calls)


def _read_ollama(parts: list[Any], _: bool) -> Told:
    messages = [part["message"] for part in parts]
    calls = [call["function"] for message in messages for call in message.get("tool_calls") or ()]
    text = "".join(message.get("content") or "" for message in messages)
    reasoning = "".join(message.get("thinking") or "" for message in messages)
    return Told(text, reasoning, [(call["name"], call["arguments"]) for call in calls])


_THINKING = {"type": "enabled", "budget_tokens": 1024}
DIALECTS = [
    Dialect("/v1/chat/completions", {"messages": _ASK, "tools": _FUNCTIONS}, _read_chat),
    Dialect(
        "/v1/messages",
        {"messages": _ASK, "max_tokens": 100_000, "thinking": _THINKING}
        | {"tools": [{"name": name, "input_schema": _SCHEMA} for name in ("f", "g")]},
        _read_messages,
    ),
    Dialect(
        "/v1/responses",
        {"input": "Hi", "store": False}
        | {"tools": [{"type": "function", "name": name, "parameters": _SCHEMA} for name in ("f", "g")]},
        _read_responses,
    ),
    Dialect("/api/chat", {"messages": _ASK, "tools": _FUNCTIONS}, _read_ollama, has_events=False),
]


class Answers:
    """Both targets, on an application around a backend that plays what an input says."""

    def __init__(self, runner: asyncio.Runner, backend: "Playing", app: App, defects: Defects) -> None:
        self._runner = runner
        self._backend = backend
        self._app = app
        self._defects = defects

    def targets(self) -> list[Target]:
        """The two targets."""
        return [
            Target("answers", _TEXTS, self._check_answer, _SHARE),
            Target("orders", _TEXTS, self._check_order, _SHARE),
        ]

    def _check_answer(self, data: bytes) -> bool:
        turn = make_turn(data)
        self._backend.plays = turn
        expected = Told(turn.text, turn.reasoning, [(call.name, json.loads(call.text)) for call in turn.calls])
        for dialect in DIALECTS:
            for stream in (False, True):
                status, parts = self._ask(dialect, stream)
                assert status == 200, (dialect.path, stream, parts)
                told = dialect.read(parts, stream)
                assert told == expected, (dialect.path, stream, told, expected)
        return True

    def _check_order(self, data: bytes) -> bool:
        events = make_events(data)
        self._backend.plays = events
        for dialect in DIALECTS:
            for stream in (False, True):
                status, parts = self._ask(dialect, stream)
                assert status in {200, 400, 500}, (dialect.path, stream, status, parts)
                found = self._defects.take()
                assert not found, (dialect.path, stream, found, events)
        return True

    def _ask(self, dialect: Dialect, stream: bool) -> tuple[int, list[Any]]:
        body = json.dumps(dialect.body | {"model": "scripted", "stream": stream}).encode()
        reply = self._runner.run(Client(self._app, "POST", dialect.path, body).run())
        if not reply.headers["content-type"].startswith(("text/event-stream", "application/x-ndjson")):
            return reply.status, [json.loads(reply.body)]
        if not dialect.has_events:
            return reply.status, [json.loads(line) for line in reply.body.decode().splitlines()]
        lines = [line[6:] for line in reply.body.decode().split("\n") if line.startswith("data: ")]
        return reply.status, [json.loads(line) for line in lines if line != "[DONE]"]


class Playing(Scripted):
    """Plays a turn, or events as they are."""

    def __init__(self) -> None:
        super().__init__([Turn(text="Yes.")], any_model=True)
        self.plays: Turn | list[Event] = self.turns[0]
        self._raw = ScriptedBackend(lambda _: self.plays)  # type: ignore[arg-type, return-value]

    def _steps(self, request: Request) -> Iterator[Any]:
        self.requests.clear()
        self.streams.clear()
        if isinstance(self.plays, Turn):
            self.turns = (self.plays,)
            assert fitting(self.turns, request) is not None
            yield from super()._steps(request)
        else:
            yield from self.plays


def make_turn(data: bytes) -> Turn:
    """A turn that bytes stand for: pieces of them as text, reasoning and arguments, cut into deltas of any size."""
    random_ = random.Random(zlib.crc32(data))  # noqa: S311  (repeatable, not secret)
    text = data.decode("utf-8", "replace")[:_MAX_CHARS]
    places = sorted(random_.randrange(len(text) + 1) for _ in range(4))
    pieces = [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]
    calls = tuple(
        Call(random_.choice("fg"), json.dumps({"a": piece, piece[:9]: [piece[:3], None]}, ensure_ascii=index % 2 == 0))
        for index, piece in enumerate(pieces[2 : 2 + random_.randrange(4)])
    )
    sizes = tuple(random_.randint(1, 9) for _ in range(random_.randint(1, 3)))
    reasoning = pieces[1] if random_.randrange(2) else ""
    return Turn(text=pieces[0] or "x", reasoning=reasoning, calls=calls, sizes=sizes)


def make_events(data: bytes) -> list[Event]:
    """Events in any order, most often with a sound beginning."""
    random_ = random.Random(zlib.crc32(data))  # noqa: S311  (repeatable, not secret)
    text = data.decode("utf-8", "replace")[:_MAX_CHARS]
    token = TokenLogprob(text[:3], text[:3].encode(), -1.0)

    def one() -> Event:
        choice, index = random_.choice([0, 0, 0, 1]), random_.randrange(3)
        start = random_.randrange(len(text) + 1)
        piece = text[start : start + random_.randrange(20)]
        named: tuple[str | None, str | None] = random_.choice([("c1", "f"), (None, None), ("c2", None), (None, "g")])
        return random_.choice(
            [
                TextDelta(choice, piece, random_.randrange(3), random_.choice([(), (token,)])),
                TextDelta(choice, piece, 1),
                ReasoningDelta(choice, piece, 1),
                ToolCallDelta(choice, index, piece, 1, *named),
                ToolCallDelta(choice, index, piece, 1, *named),
                ChoiceFinished(choice, random_.choice(list(FinishReason)), random_.choice([None, piece])),
                Finished(Usage(3, 5, random_.randrange(4), 0, ((300.0, 1),), random_.randrange(5))),
                Started("r", "scripted", 3, 1),
                PromptLogprobs((None, token)),
            ]
        )

    begin: list[Event] = [Started("r", "scripted", 3, 1)] if random_.randrange(8) else []
    return begin + [one() for _ in range(random_.randrange(12))]


_TEXTS = [
    b'{"text":"Hello, w\xc3\xb6rld. \xf0\x9f\x98\x80 data: [DONE]"}',
    'Ein <think>Gedanke</think> \u2028\u2029\u0085 {"a": [1, 2]} \r\n\r\n event: error'.encode(),
    b"a",
    b'<tool_call>{"name": "f", "arguments": {"a": "\\ud83d"}}</tool_call>\x00\x1c\x1d\x1e end',
]
