"""Tools for models whose template knows none: told in a system turn, calls and results as turns of text.

The model is asked to write what `bare.GENERIC` reads. Results become turns of the user, those of one round together,
so that roles go on alternating, as some templates insist. Knows no template and no token.
"""

import json
from collections.abc import Sequence
from dataclasses import replace

from headrace.core.request import Message, Role, TextPart, Tool

_INTRODUCTION = (
    "You can call tools. Each is given here as a JSON object with its name, what it does and a JSON schema of its"
    " arguments:\n\n"
)
_INSTRUCTION = (
    "\n\nTo call a tool, answer with nothing but a JSON object on one line:\n"
    '{"name": "the tool\'s name", "arguments": {"an argument": "its value"}}\n'
    "To call several, write one such line for each. The results are in the next message. If no tool is needed, answer"
    " in plain words."
)


def tell_tools(messages: Sequence[Message], tools: Sequence[Tool]) -> tuple[Message, ...]:
    """The same conversation in turns that every template knows."""
    told = _results_joined([_in_words(message) for message in messages], messages)
    if not tools:
        return tuple(told)
    text = _INTRODUCTION + "\n".join(map(_describe, tools)) + _INSTRUCTION
    if told and told[0].role in {Role.SYSTEM, Role.DEVELOPER}:
        first = told[0]
        return (replace(first, parts=(TextPart(f"{first.text}\n\n{text}"),)), *told[1:])
    return (Message(Role.SYSTEM, (TextPart(text),)), *told)


def _describe(tool: Tool) -> str:
    value = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return json.dumps({key: part for key, part in value.items() if part}, ensure_ascii=False)


def _in_words(message: Message) -> Message:
    if message.role is Role.TOOL:
        return Message(Role.USER, (TextPart(f"Result of the call:\n{message.text}"),))
    if not message.tool_calls:
        return message
    calls = [
        f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments.strip() or "{}"}}}'
        for call in message.tool_calls
    ]
    text = "\n".join([message.text, *calls] if message.text else calls)
    return replace(message, parts=(TextPart(text),), tool_calls=())


def _results_joined(told: Sequence[Message], messages: Sequence[Message]) -> list[Message]:
    """Turns, in which results that follow each other are one."""
    joined: list[Message] = []
    for index, message in enumerate(told):
        if index and messages[index].role is messages[index - 1].role is Role.TOOL:
            text = f"{joined[-1].text}\n\n{message.text}"
            joined[-1] = replace(message, parts=(TextPart(text),))
        else:
            joined.append(message)
    return joined
