"""One streamed answer while it is read: when its pieces came, what it said of itself, how it ended.

OpenAI's Chat Completions and Completions as they are streamed (API reference, `stream` and `stream_options`). What is
wrong with an answer is one `Failed` with a kind that is counted. Times are given in; knows no sockets and no clock.
"""

from array import array
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headrace.api.outbound.frames import FrameParser
from headrace.core.errors import UpstreamFault

MAX_TEXT_CHARS: Final = 1_000_000
"""Of an answer that is kept, to go on with in the next turn."""
OK: Final = "ok"
MAX_DETAIL_CHARS: Final = 300


class Failed(Exception):
    """A request that came to no good end. `kind` is what it is counted under, `detail` what was said, which may be
    anything."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail[:MAX_DETAIL_CHARS]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What one request did. Seconds are those of the run's clock: `due_s` when it was to be sent, `sent_s` when it
    was, None if never; `first_s` its first piece, `end_s` its end. `gaps_s` between its pieces. `output_tokens` are the
    server's count if `is_counted`, else one for each piece. `outcome` is `ok` or the kind of failure."""

    index: int
    turn: int
    is_warm: bool
    due_s: float
    sent_s: float | None
    first_s: float | None
    end_s: float
    num_pieces: int
    gaps_s: "array[float]"
    output_tokens: int
    is_counted: bool
    prompt_tokens: int | None
    cached_tokens: int | None
    cost: float | None
    status: int
    outcome: str
    detail: str = ""


class Reading:
    """An answer that arrives. `sent_s`, `status` and `cost` are filled in by whoever asks."""

    def __init__(self) -> None:
        self._frames = FrameParser()
        self._text: list[str] = []
        self._num_chars = 0
        self._last_s = 0.0
        self._usage: dict[str, Any] = {}
        self._has_end = False
        self.sent_s: float | None = None
        self.first_s: float | None = None
        self.status = 0
        self.cost: float | None = None
        self.gaps_s: array[float] = array("f")
        self.num_pieces = 0
        self.is_done = False

    @property
    def text(self) -> str:
        """What was answered so far."""
        return "".join(self._text)

    def feed(self, data: bytes, now_s: float) -> None:
        """Bytes that arrived at a moment. Raises Failed: `malformed`, or what an error within the stream says."""
        try:
            events = self._frames.feed(data)
        except UpstreamFault as error:
            raise Failed("malformed", str(error)) from None
        for _, said in events:
            if said == b"[DONE]":
                self.is_done = True
            else:
                self._take(said, now_s)

    def check(self) -> None:
        """Raise Failed unless the answer came to its end: `cut` in its midst, `empty` without a token."""
        if not self._has_end and not self.is_done:
            raise Failed("cut", f"the stream ended after {self.num_pieces} pieces without having been finished")
        if not self.num_pieces and not self._usage.get("completion_tokens"):
            raise Failed("empty", "the answer has no token")

    def point(
        self, *, index: int, turn: int, is_warm: bool, due_s: float, end_s: float, failed: Failed | None
    ) -> Point:
        """What became of it."""
        output = _count(self._usage.get("completion_tokens"))
        details = self._usage.get("prompt_tokens_details")
        cached = _count(details.get("cached_tokens")) if isinstance(details, dict) else None
        return Point(
            index=index,
            turn=turn,
            is_warm=is_warm,
            due_s=due_s,
            sent_s=self.sent_s,
            first_s=self.first_s,
            end_s=end_s,
            num_pieces=self.num_pieces,
            gaps_s=self.gaps_s,
            output_tokens=self.num_pieces if output is None else output,
            is_counted=output is not None,
            prompt_tokens=_count(self._usage.get("prompt_tokens")),
            cached_tokens=cached,
            cost=self.cost,
            status=self.status,
            outcome=OK if failed is None else failed.kind,
            detail="" if failed is None else failed.detail,
        )

    def _take(self, said: bytes, now_s: float) -> None:
        try:
            chunk = msgspec.json.decode(said)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Failed("malformed", f"an event is no JSON ({error}): {said[:80]!r}") from None
        if not isinstance(chunk, dict):
            raise Failed("malformed", f"an event is no object: {said[:80]!r}")
        if chunk.get("error"):
            raise Failed("stream-error", error_text(chunk))
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._usage = usage
            cost = usage.get("cost")
            if isinstance(cost, int | float) and cost >= 0:
                self.cost = float(cost)
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                self._take_choice(choice, now_s)

    def _take_choice(self, choice: dict[str, Any], now_s: float) -> None:
        self._has_end = self._has_end or bool(choice.get("finish_reason"))
        delta = choice.get("delta")
        said = delta if isinstance(delta, dict) else choice
        text = said.get("content") or (choice.get("text") if delta is None else None)
        if isinstance(text, str) and text and self._num_chars < MAX_TEXT_CHARS:
            self._text.append(text)
            self._num_chars += len(text)
        if not (text or said.get("reasoning_content") or said.get("reasoning") or said.get("tool_calls")):
            return
        self.num_pieces += 1
        if self.first_s is None:
            self.first_s = now_s
        else:
            self.gaps_s.append(now_s - self._last_s)
        self._last_s = now_s


def error_text(body: Any) -> str:
    """What an error in OpenAI's form says, or something like it."""
    error = body.get("error") if isinstance(body, dict) else body
    if isinstance(error, dict):
        return str(error.get("message") or error)
    return str(error)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
