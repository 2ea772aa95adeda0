"""Recorded conversations, and what is left of a request when everything that dialects may spell their own way is gone.

`conversations/*.json` are neutral: what was said, which tools were there, and what the model answers next. `call` of a
tool's turn counts the calls made so far. Knows no dialect.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.scripted import Call, Turn

from headrace.core.request import Request, Role, ToolMode

FOLDER = Path(__file__).resolve().parent / "conversations"

TOOLS: dict[str, dict[str, Any]] = {
    "get_weather": {
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
    "get_time": {
        "description": "The time in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "format": {"type": "object"}}},
    },
}


@dataclass(frozen=True, slots=True)
class Said:
    """A turn without its spelling: `calls` are (name, arguments as values), `answers` the call that a result is of,
    counted from the first of the conversation."""

    role: str
    text: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    answers: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """One file."""

    name: str
    system: str | None
    messages: list[dict[str, Any]]
    tools: list[str]
    tool_choice: str
    answer: dict[str, Any]

    @property
    def turn(self) -> Turn:
        """What the backend plays: the answer, cut into small pieces."""
        calls = tuple(Call(one["name"], json.dumps(one["arguments"])) for one in self.answer.get("calls", ()))
        text, reasoning = self.answer.get("text", ""), self.answer.get("reasoning", "")
        return Turn(text=text, reasoning=reasoning, calls=calls, sizes=(1, 3, 7))

    @property
    def answered(self) -> Said:
        """The answer without its spelling."""
        return Said("assistant", self.answer.get("text", ""), self.answer.get("reasoning", ""), _calls(self.answer))

    def said(self) -> list[Said]:
        """Every turn without its spelling."""
        system = [] if self.system is None else [Said("system", self.system)]
        return system + [
            Said(one["role"], one.get("text", ""), one.get("reasoning", ""), _calls(one), one.get("call"))
            for one in self.messages
        ]

    def choice(self) -> tuple[ToolMode, tuple[str, ...]]:
        """`tool_choice` as a request has it; whether a tool that must be called may be called twice differs."""
        if self.tool_choice in TOOLS:
            return ToolMode.REQUIRED, (self.tool_choice,)
        return ToolMode(self.tool_choice), ()


def conversations() -> list[Conversation]:
    """All of them."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        whole = json.loads(path.read_text("utf-8"))
        found.append(
            Conversation(
                path.stem,
                whole.get("system"),
                whole["messages"],
                whole.get("tools", []),
                whole.get("tool_choice", "auto"),
                whole["answer"],
            )
        )
    return found


def shape(request: Request) -> list[Said]:
    """What a request says, turn by turn."""
    turns, ids = [], []
    for message in request.messages or ():
        # Whoever gives instructions may be called a developer.
        role = "system" if message.role is Role.DEVELOPER else str(message.role)
        calls = tuple((call.name, canonical(json.loads(call.arguments))) for call in message.tool_calls)
        answers = None if message.tool_call_id is None else ids.index(message.tool_call_id)
        ids += [call.id for call in message.tool_calls]
        assert len(set(ids)) == len(ids), "two calls have one id"
        turns.append(Said(role, message.text, message.reasoning, calls, answers))
    return turns


def canonical(value: Any) -> str:
    """Equal for equal values."""
    return json.dumps(value, sort_keys=True)


def call_ids(conversation: Conversation, prefix: str) -> list[str]:
    """An id for each call of the conversation, in order."""
    return [f"{prefix}{index}" for index in range(sum(len(one.get("calls", ())) for one in conversation.messages))]


def _calls(turn: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((one["name"], canonical(one["arguments"])) for one in turn.get("calls", ()))
