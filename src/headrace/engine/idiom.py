"""How one model writes calls and thoughts, and what follows from that for a request: what its answers are parted by,
what they are held to, what the template is told. Read once from the template's source.

Knows no tokens: which control tokens must be seen is said by their texts.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.core.request import Effort, FormatKind, Message, Reasoning, Request, ResponseFormat, Tool, ToolMode
from headrace.engine.grammar.composed import Calls, Composed, Opening
from headrace.engine.speech import Speech
from headrace.engine.thinking import MARKS, Marks, ThoughtSplitter
from headrace.engine.tools.fallback import tell_tools
from headrace.engine.tools.families import GENERIC, find_family
from headrace.engine.tools.family import Family
from headrace.engine.tools.parser import CallParser

_ON_OFF = frozenset({"enable_thinking", "thinking"})
_LEVEL = "reasoning_effort"
_SWITCHES = {
    "enable_thinking": re.compile(r"\benable_thinking\b"),
    "thinking": re.compile(r"\b(?:if|and|not)\s+thinking\b|(?<![.\w])thinking\s+is\s+(?:not\s+)?defined"),
    _LEVEL: re.compile(r"\breasoning_effort\b"),
}
_LEVELS = {Effort.MINIMAL: Effort.LOW, Effort.XHIGH: Effort.HIGH}  # what templates know instead


def has_tools(request: Request) -> bool:
    """Whether a request's answer may call tools."""
    return bool(request.tools) and request.tool_choice.mode is not ToolMode.NONE


@dataclass(frozen=True, slots=True)
class Idiom:
    """See the file's head. `is_told`: the template tells the model about tools; else the conversation must.

    `marks`: what stands around thoughts, of a model that thinks; `switches` are variables by which its template is told
    whether, or how much, to think.
    """

    family: Family
    is_told: bool
    marks: Marks | None = None
    switches: frozenset[str] = frozenset()

    @classmethod
    def of(cls, source: str, is_token: Callable[[str], bool] = lambda _: False) -> "Idiom":
        """Of a model, by the source of its chat template, empty if it has none; `is_token`: whether a text is a token
        of its own in its vocabulary, and no plain text."""
        family = find_family(source)
        marks = next((marks for marks in MARKS if marks.close in source or all(map(is_token, marks))), None)
        switches = frozenset(name for name, pattern in _SWITCHES.items() if pattern.search(source))
        return cls(family or GENERIC, family is not None, marks, switches)

    def markers(self, request: Request) -> frozenset[str]:
        """Texts of control tokens that must be seen in an answer, although they are none of its text."""
        seen = set[str]()
        if self._may_think(request):
            seen.update(self.marks or ())
        if has_tools(request):
            seen.update(self.family.markers)
        return frozenset(seen)

    def variables(self, reasoning: Reasoning) -> dict[str, Any]:
        """What the template is told about thinking; nothing if nothing was asked for, or nothing is understood."""
        effort = Effort.NONE if reasoning.max_tokens == 0 else reasoning.effort
        if effort is None:
            return {}
        told: dict[str, Any] = dict.fromkeys(self.switches & _ON_OFF, effort is not Effort.NONE)
        if _LEVEL in self.switches and (effort is not Effort.NONE or not told):
            told[_LEVEL] = _LEVELS.get(effort, effort).value
        return told

    def thought_limit(self, reasoning: Reasoning) -> int | None:
        """Tokens after which a thought is ended, whatever the template was told; None: it may take its time."""
        if self.marks is None:
            return None
        if reasoning.effort is Effort.NONE and not self.switches & _ON_OFF:
            return 0
        return reasoning.max_tokens

    def conversation(
        self, messages: tuple[Message, ...], tools: Sequence[Tool]
    ) -> tuple[tuple[Message, ...], Sequence[Tool]]:
        """Messages and tools as the template takes them."""
        if self.is_told:
            return messages, tools
        return tell_tools(messages, tools), ()

    def speech(self, request: Request, choice: int, *, is_open: bool) -> Speech | None:
        """What parts one choice's text; None if there is nothing to part. `is_open`: the prompt has begun a thought."""
        thoughts = ThoughtSplitter(self.marks, is_open=is_open) if self.marks and self._may_think(request) else None
        calls = None
        if has_tools(request):
            names = request.tool_choice.names
            tools = {tool.name: tool.parameters for tool in request.tools if not names or tool.name in names}
            calls = CallParser(self.family, tools)
        if thoughts is None and calls is None:
            return None
        return Speech(
            request.id,
            choice,
            thoughts=thoughts,
            calls=calls,
            stops=request.limits.stop,
            max_calls=self._most(request) if calls else None,
        )

    def form(self, request: Request, *, is_open: bool) -> ResponseFormat | Composed | None:
        """What the answer is held to; None: nothing."""
        answer, calls = request.response_format, self._calls(request)
        is_free = answer.kind is FormatKind.TEXT
        if calls is None and (is_free or answer.after or not self._may_think(request)):
            return None if is_free else answer
        if answer.after:
            return Composed(answer=answer, calls=calls, opening=Opening.BEGUN, marks=Marks("", answer.after))
        opening = Opening.NONE
        if self._may_think(request):
            opening = Opening.BEGUN if is_open else Opening.MAYBE
        return Composed(answer=answer, calls=calls, opening=opening, marks=self.marks)

    def _calls(self, request: Request) -> Calls | None:
        """How calls are held to their tools; None if they are not."""
        if not has_tools(request):
            return None
        choice = request.tool_choice
        tools = tuple(tool for tool in request.tools if not choice.names or tool.name in choice.names)
        is_required = choice.mode is ToolMode.REQUIRED
        held = frozenset(tool.name for tool in tools if tool.strict)
        # Without a mark, a call to another tool than those named is text, and nobody has to prevent it.
        is_narrowed = bool(choice.names) and not self.family.is_bare
        if not (is_required or held or is_narrowed or request.response_format.kind is not FormatKind.TEXT):
            return None
        return Calls(family=self.family, tools=tools, is_required=is_required, held=held, most=self._most(request))

    def _most(self, request: Request) -> int | None:
        """Calls in one answer. A named tool is called once; so is any by a model that was never taught when to stop."""
        choice = request.tool_choice
        if (
            choice.max_calls is None
            and choice.mode is ToolMode.REQUIRED
            and (len(choice.names) == 1 or not self.is_told)
        ):
            return 1
        return choice.max_calls

    def _may_think(self, request: Request) -> bool:
        return self.marks is not None and request.messages is not None
