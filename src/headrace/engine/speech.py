"""What one choice says, parted into thoughts, text and calls, and gathered into deltas.

Only choices whose request brings tools, or whose model thinks, have one. Stop strings are looked for in the text of the
answer: not in thoughts, and not in calls. Every token is counted once, with the delta that it made or the next one.
Log-probabilities go with text; those of marks, thoughts and calls are not told. Knows no sequence.
"""

import hashlib
from dataclasses import dataclass, field

from headrace.core.events import ReasoningDelta, TextDelta, TokenLogprob, ToolCallDelta
from headrace.engine.stop import StopMatcher
from headrace.engine.thinking import ThoughtSplitter
from headrace.engine.tools.parser import Argued, Called, CallParser, Piece, Said

_ID_CHARS = 24

Delta = TextDelta | ReasoningDelta | ToolCallDelta


def call_id(request_id: str, choice: int, index: int) -> str:
    """The id of a call: the same for the same request, and never twice."""
    digest = hashlib.sha256(f"{request_id}\0{choice}\0{index}".encode("utf-8", "surrogatepass")).hexdigest()
    return f"call_{digest[:_ID_CHARS]}"


@dataclass(slots=True)
class _Segment:
    """A delta in the making. `index`: of a call, else -1 for text and -2 for thoughts."""

    index: int
    text: str = ""
    num_tokens: int = 0
    id: str | None = None
    name: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)


_TEXT, _THOUGHT = -1, -2


class Speech:
    """See the file's head. `max_calls`: the choice is over when so many calls are complete."""

    __slots__ = (
        "_calls",
        "_choice",
        "_last",
        "_logprobs",
        "_matcher",
        "_max_calls",
        "_num_tokens",
        "_request_id",
        "_segments",
        "_thoughts",
        "num_reasoning",
        "stop_match",
    )

    def __init__(
        self,
        request_id: str,
        choice: int,
        *,
        thoughts: ThoughtSplitter | None,
        calls: CallParser | None,
        stops: tuple[str, ...],
        max_calls: int | None = None,
    ) -> None:
        self._request_id = request_id
        self._choice = choice
        self._thoughts = thoughts
        self._calls = calls
        self._matcher = StopMatcher(stops) if stops else None
        self._max_calls = max_calls
        self._segments: list[_Segment] = []
        self._last = _TEXT  # kind of the last segment
        self._num_tokens = 0  # not yet counted with a segment
        self._logprobs: list[TokenLogprob] = []
        self.num_reasoning = 0  # tokens
        self.stop_match: str | None = None

    @property
    def has_called(self) -> bool:
        """Whether there was a call, and every one is complete."""
        return self._calls is not None and 0 < self._calls.num_calls == self._calls.num_whole

    @property
    def is_over(self) -> bool:
        """Whether nothing more is wanted: a stop string has come, or the last call that may be made is complete."""
        if self.stop_match is not None:
            return True
        return self._max_calls is not None and self._calls is not None and self._calls.num_whole >= self._max_calls

    def push(self, text: str, *, num_tokens: int = 1) -> None:
        """Take the text that a token, or several, have made."""
        self._num_tokens += num_tokens
        if self._thoughts is None:
            self._answer(text)
            return
        was_thinking = self._thoughts.is_thinking
        thought, answer = self._thoughts.push(text)
        if was_thinking or self._thoughts.is_thinking:
            self.num_reasoning += num_tokens
        self._think(thought)
        if self._thoughts.is_over:
            self._thoughts = None
        self._answer(answer)

    def add_logprob(self, logprob: TokenLogprob) -> None:
        """Take the log-probability of the next token; called before its `push`."""
        self._logprobs.append(logprob)

    def flush(self) -> None:
        """No more text comes."""
        if self._thoughts is not None:
            thought, answer = self._thoughts.flush()
            self._think(thought)
            self._answer(answer)
            self._thoughts = None
        if self._calls is not None:
            self._take(self._calls.flush())
        if self._matcher is not None and self.stop_match is None:
            self._say(self._matcher.flush())

    def take_deltas(self, choice: int, *, is_last: bool) -> list[Delta]:
        """What has gathered since the last call, as deltas of `choice`; at the last, tokens that made nothing too."""
        if is_last and self._num_tokens:
            self._segment(self._last)
        segments, self._segments = self._segments, []
        return [_delta(choice, segment) for segment in segments]

    def _answer(self, text: str) -> None:
        if not text or self.stop_match is not None:
            return
        if self._calls is None:
            self._match(text)
        else:
            self._take(self._calls.push(text))

    def _take(self, pieces: list[Piece]) -> None:
        assert self._calls is not None
        index = self._calls.num_calls - sum(type(piece) is Called for piece in pieces) - 1
        for piece in pieces:
            if self.stop_match is not None:
                return
            if type(piece) is Said:
                if self.is_over and index + 1 == self._max_calls:
                    return
                self._match(piece.text)
            elif type(piece) is Called:
                index += 1
                if self._max_calls is not None and index >= self._max_calls:
                    return
                if self._matcher is not None:
                    self._say(self._matcher.flush())  # no stop string reaches over a call
                segment = self._segment(index)
                segment.id, segment.name = call_id(self._request_id, self._choice, index), piece.name
            else:
                assert type(piece) is Argued
                self._segment(index).text += piece.text

    def _match(self, text: str) -> None:
        if self._matcher is not None:
            text, self.stop_match = self._matcher.push(text)
        self._say(text)

    def _say(self, text: str) -> None:
        if text:
            segment = self._segment(_TEXT)
            segment.text += text

    def _think(self, text: str) -> None:
        if text:
            self._segment(_THOUGHT).text += text

    def _segment(self, index: int) -> _Segment:
        """The segment that goes on with `index`, with what is yet to be counted."""
        if not self._segments or self._segments[-1].index != index:
            self._segments.append(_Segment(index))
            self._last = index
        segment = self._segments[-1]
        segment.num_tokens += self._num_tokens
        if index == _TEXT:
            segment.logprobs += self._logprobs
        self._num_tokens, self._logprobs = 0, []
        return segment


def _delta(choice: int, segment: _Segment) -> Delta:
    if segment.index == _TEXT:
        return TextDelta(choice, segment.text, segment.num_tokens, tuple(segment.logprobs))
    if segment.index == _THOUGHT:
        return ReasoningDelta(choice, segment.text, segment.num_tokens)
    return ToolCallDelta(choice, segment.index, segment.text, segment.num_tokens, segment.id, segment.name)
