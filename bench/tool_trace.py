"""A fixed trace of an agent: a beginning of 2,000 tokens, then a tool call a turn, each answered with 200 tokens.

What the model says is its own (greedy, one required call a turn, held to the tool's schema); everything else is drawn
once from a seed. Knows no transport: `Trace.bodies` makes what each way of sending needs of the same conversation.
"""

import random
from collections.abc import Callable, Sequence
from typing import Any, Final

Count = Callable[[str], int]
Item = dict[str, Any]

MAX_OUTPUT_TOKENS: Final = 48
TOOL: Final[Item] = {
    "type": "function",
    "name": "read_log",
    "description": "Read the next part of a log.",
    "parameters": {
        "type": "object",
        "properties": {"part": {"type": "integer", "minimum": 0, "maximum": 999}},
        "required": ["part"],
        "additionalProperties": False,
    },
}
_WORDS: Final = (
    "the pump at the mill reports a level of water that rises with rain and falls when grain is ground while "
    "sensor valve gate pressure normal high low warning closed open by operator after check before night shift "
    "temperature bearing oil belt speed motor current limit reached reset done again later wheel turns slow fast"
)


class Trace:
    """The texts of one conversation; `count` says how many tokens a text has."""

    def __init__(self, count: Count, *, num_turns: int, num_begin: int, num_added: int, seed: int = 6) -> None:
        self._draw = random.Random(seed)
        self.num_turns = num_turns
        self.begin = self._text(count, num_begin)
        self.outputs = [self._text(count, num_added) for _ in range(num_turns)]

    def _text(self, count: Count, num_tokens: int) -> str:
        """A text of just so many tokens, or one less where the next word would be too much."""
        text = "You read the log of a mill, part by part." if num_tokens > 1000 else "part:"
        while count(text) < num_tokens:
            line = " ".join(self._draw.choices(_WORDS.split(), k=12))
            for word in ("\n" + line).split(" "):
                longer = f"{text} {word}"
                if count(longer) > num_tokens:
                    return text
                text = longer
        return text

    def first(self) -> list[Item]:
        """The input of the first request."""
        return [{"type": "message", "role": "user", "content": self.begin}]

    def answer(self, turn: int, call: Item) -> list[Item]:
        """What the tool says to the call of a turn, counted from 0."""
        return [{"type": "function_call_output", "call_id": call["call_id"], "output": self.outputs[turn]}]


def body(model: str, items: Sequence[Item], **fields: Any) -> Item:
    """A request of the trace."""
    return {
        "model": model,
        "input": list(items),
        "tools": [TOOL],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "temperature": 0,
        "max_output_tokens": MAX_OUTPUT_TOKENS,
        **fields,
    }
