"""What every reader of a backend's stream keeps: which choices are open, which calls have begun, what was used.

Holds an answer to the order of `core.events` whatever a provider sends: choices that exist, calls counted from 0 with
an id and a name before their arguments, nothing after an end, an end for everybody. Knows no wire names.
"""

from dataclasses import dataclass
from typing import Final

from headrace.core.errors import UpstreamFault
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from headrace.core.request import Request
from headrace.core.shape import Shape

_LEFT_OUT: Final = -1
"""The number of a call that is not told."""


@dataclass(slots=True)
class _Choice:
    """How far one choice has come."""

    num_calls: int = 0
    is_refused: bool = False
    is_finished: bool = False


class AnswerState:
    """Turns what a protocol's reader understood into events. `model` names the target."""

    def __init__(self, request: Request, model: str) -> None:
        self._request = request
        self._model = model
        self._choices = [_Choice() for _ in range(request.sampling.num_choices)]
        self._num_open = len(self._choices)
        self._max_calls = request.tool_choice.max_calls
        self._num_bytes = 0
        self._is_begun = False
        self._out: list[Event] = []
        self.usage: Usage | None = None
        self.is_done = False

    @property
    def is_ended(self) -> bool:
        """Whether every choice has ended."""
        return self._num_open == 0

    def take(self) -> list[Event]:
        """The events that were made since the last time."""
        out, self._out = self._out, []
        return out

    def begin(self, usage: Usage | None = None) -> None:
        """The answer is there. Only the first time says something."""
        if not self._is_begun:
            self._is_begun = True
            told = Usage(0, 0) if usage is None else usage
            prompt, cached = told.prompt_tokens, told.cached_tokens
            self._out.append(Started(self._request.id, self._model, prompt, cached, cache_writes=told.cache_writes))

    def add_text(self, choice: int, text: str, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        """More text. Raises UpstreamFault, as all of these do, for a choice that is not open."""
        if text or logprobs:
            self._open(choice)
            self._num_bytes += len(text.encode("utf-8", "surrogatepass"))
            self._out.append(TextDelta(choice, text, len(logprobs) or 1, logprobs))

    def add_reasoning(self, choice: int, text: str) -> None:
        """More reasoning."""
        if text:
            self._open(choice)
            self._num_bytes += len(text.encode("utf-8", "surrogatepass"))
            self._out.append(ReasoningDelta(choice, text, 1))

    def begin_call(self, choice: int, call_id: str | None, name: str, arguments: str) -> int:
        """A call has begun; its number. One without an id gets one; one more than were asked for is left out, which not
        every protocol can be told."""
        state = self._open(choice)
        if state.num_calls == self._max_calls:
            return _LEFT_OUT
        made = call_id or self.make_id(choice)
        index, state.num_calls = state.num_calls, state.num_calls + 1
        self._num_bytes += len(name) + len(arguments.encode("utf-8", "surrogatepass"))
        self._out.append(ToolCallDelta(choice, index, arguments, 1, made, name))
        return index

    def make_id(self, choice: int) -> str:
        """An id for the next call of a choice, the same each time."""
        return f"call_{self._request.id.rpartition('_')[2]}_{choice}_{self._choice(choice).num_calls}"

    def add_arguments(self, choice: int, index: int, arguments: str) -> None:
        """More of a call that has begun."""
        state = self._open(choice)
        if index == _LEFT_OUT:
            return
        if not 0 <= index < state.num_calls:
            raise UpstreamFault(f"the backend went on with tool call {index}, which had not begun.")
        if arguments:
            self._num_bytes += len(arguments.encode("utf-8", "surrogatepass"))
            self._out.append(ToolCallDelta(choice, index, arguments, 1))

    def refuse(self, choice: int) -> None:
        """What a choice says is a refusal: it ends as withheld."""
        self._open(choice).is_refused = True

    def finish_choice(self, choice: int, reason: FinishReason, stop_match: str | None = None) -> None:
        """One choice has ended; a second end of it says nothing. What called tools ended for that, whatever it says."""
        state = self._choice(choice)
        if state.is_finished:
            return
        self.begin()
        state.is_finished = True
        self._num_open -= 1
        if reason is FinishReason.STOP and (state.num_calls or state.is_refused):
            reason = FinishReason.FILTERED if state.is_refused else FinishReason.TOOL_CALLS
        self._out.append(ChoiceFinished(choice, reason, stop_match))

    def finish(self) -> None:
        """The answer has ended. Raises UpstreamFault if a choice has not."""
        if self.is_done:
            return
        if not self._is_begun or self._num_open:
            raise UpstreamFault("the backend's stream ended before its answer did.")
        self.is_done = True
        self._out.append(Finished(self.usage or self._estimate()))

    def _estimate(self) -> Usage:
        """What the answer used at most: no tokenizer makes more tokens than bytes."""
        return Usage(Shape.of(self._request).prompt_bound, self._num_bytes, is_estimated=True)

    def _open(self, choice: int) -> _Choice:
        state = self._choice(choice)
        if state.is_finished or self.is_done:
            raise UpstreamFault(f"the backend went on with choice {choice}, which had ended.")
        self.begin()
        return state

    def _choice(self, choice: int) -> _Choice:
        if not 0 <= choice < len(self._choices):
            raise UpstreamFault(f"the backend sent choice {choice}; {len(self._choices)} were asked for.")
        return self._choices[choice]
