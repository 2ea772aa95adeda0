"""Answers of Gemini's native API, inwards: chunks of a stream become events; vectors and counts come whole.

A chunk holds pieces of some candidates and the counts so far. A candidate ends with a finishReason; the answer ends
with the connection, as there is no last word. Calls come whole, and often without an id: theirs is then made from the
request's, the choice and the place, so that it is the same each time. Knows no sockets.
"""

import hashlib
import math
import struct
from collections.abc import Mapping
from typing import Final

import msgspec

from headrace.api.outbound.call_ids import sign_id
from headrace.api.outbound.gemini_error import make_error
from headrace.api.outbound.gemini_frames import (
    ERRORS,
    Candidate,
    ChosenToken,
    Chunk,
    Counted,
    Counts,
    Embedded,
    Logprobs,
    Part,
    fault,
    read_chunk,
)
from headrace.core.events import (
    ChoiceFinished,
    Embedding,
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
from headrace.core.request import Request, Task

# Why a candidate ended; those that are not here ended for a reason that is new, with all that they say.
FINISH_REASONS: Final[Mapping[str, FinishReason]] = {
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "CONTINUATION": FinishReason.LENGTH,
    "SAFETY": FinishReason.FILTERED,
    "RECITATION": FinishReason.FILTERED,
    "LANGUAGE": FinishReason.FILTERED,
    "OTHER": FinishReason.FILTERED,
    "BLOCKLIST": FinishReason.FILTERED,
    "PROHIBITED_CONTENT": FinishReason.FILTERED,
    "SPII": FinishReason.FILTERED,
    "ESCALATION": FinishReason.FILTERED,
    "MODEL_ARMOR": FinishReason.FILTERED,
    "PUP_LIMITED_DISABLED": FinishReason.FILTERED,
}
# The model made something that is no answer; asking again may help.
FAULTS: Final = frozenset(
    {
        "MALFORMED_FUNCTION_CALL",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
        "MALFORMED_RESPONSE",
        "MISSING_THOUGHT_SIGNATURE",
    }
)
_UNSPECIFIED: Final = "FINISH_REASON_UNSPECIFIED"


class GeminiReader:
    """One answer's chunks in, events out."""

    def __init__(self, request: Request, model: str) -> None:
        self._request = request
        self._model = model
        self._counts: Counts | None = None
        self._is_started = False
        self._is_done = False
        self._num_calls: dict[int, int] = {}
        self._ended: set[int] = set()

    @property
    def is_done(self) -> bool:
        """True once `Finished` was told."""
        return self._is_done

    def feed(self, event: str, data: bytes) -> list[Event]:
        """What one chunk says. Raises the error that it carries, and UpstreamFault."""
        chunk = read_chunk(data)
        if chunk.error is not None:
            raise make_error(chunk.error, chunk.error.code or 500)
        if self._is_done:
            raise fault("went on after the end of the answer")
        if chunk.usage_metadata is not None:
            self._counts = chunk.usage_metadata
        told = self._start()
        for candidate in chunk.candidates or ():
            told += self._take(candidate)
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
            told += self._block(chunk)
        return told

    def end(self) -> list[Event]:
        """The answer's end. Raises UpstreamFault if a candidate was not finished."""
        if self._is_done:
            return []
        if len(self._ended) < self._request.sampling.num_choices:
            raise fault("ended the stream before the answer was finished")
        self._is_done = True
        return [Finished((self._counts or Counts()).usage)]

    def _start(self) -> list[Event]:
        if self._is_started:
            return []
        self._is_started = True
        usage = (self._counts or Counts()).usage
        return [Started(self._request.id, self._model, usage.prompt_tokens, usage.cached_tokens)]

    def _block(self, chunk: Chunk) -> list[Event]:
        """A prompt that was blocked has no candidates: every choice is withheld."""
        if chunk.candidates or self._ended or self._num_calls:
            raise fault("blocked a prompt that it had begun to answer")
        choices = range(self._request.sampling.num_choices)
        self._ended |= set(choices)
        return [ChoiceFinished(choice, FinishReason.FILTERED) for choice in choices]

    def _take(self, candidate: Candidate) -> list[Event]:
        choice = candidate.index
        parts = (candidate.content and candidate.content.parts) or []
        reason = candidate.finish_reason
        if choice >= self._request.sampling.num_choices or (choice in self._ended and parts):
            raise fault(f"said more of candidate {choice} than it was asked for")
        if choice in self._ended:
            return []
        told: list[Event] = []
        for part in parts:
            told += self._piece(choice, part)
        _add_logprobs(told, choice, candidate.logprobs_result)
        if reason is None or reason == _UNSPECIFIED:
            return told
        if reason in FAULTS:
            raise fault(f"ended the answer with {reason}: {candidate.finish_message[:200] or 'it said no more'}")
        self._ended.add(choice)
        ended = FINISH_REASONS.get(reason, FinishReason.STOP)
        if ended is FinishReason.STOP and self._num_calls.get(choice):
            ended = FinishReason.TOOL_CALLS
        return [*told, ChoiceFinished(choice, ended)]

    def _piece(self, choice: int, part: Part) -> list[Event]:
        if part.foreign is not None:
            raise fault(f"answered with {part.foreign}, which nobody asked for")
        if part.function_call is not None:
            return [self._call(choice, part)]
        if not part.text:
            return []
        kind = ReasoningDelta if part.thought else TextDelta
        return [kind(choice, part.text, 0)]

    def _call(self, choice: int, part: Part) -> Event:
        call = part.function_call
        assert call is not None
        if not call.name:
            raise fault("called a tool without a name")
        index = self._num_calls.get(choice, 0)
        self._num_calls[choice] = index + 1
        call_id = call.id or _made_id(self._request.id, choice, index)
        arguments = msgspec.json.encode(call.args).decode()
        return ToolCallDelta(choice, index, arguments, 0, sign_id(call_id, part.thought_signature), call.name)


def _made_id(request_id: str, choice: int, index: int) -> str:
    return "call_" + hashlib.sha256(f"{request_id}\0{choice}\0{index}".encode("utf-8", "replace")).hexdigest()[:24]


def _add_logprobs(told: list[Event], choice: int, given: Logprobs | None) -> None:
    """Put the log-probabilities of a chunk on its last text; without a text they are told alone."""
    chosen = (given and given.chosen_candidates) or []
    if given is None or not chosen:
        return
    tops = [top.candidates or [] for top in given.top_candidates or []]
    logprobs = tuple(_logprob(token, tops[at] if at < len(tops) else []) for at, token in enumerate(chosen))
    for at in range(len(told) - 1, -1, -1):
        event = told[at]
        if isinstance(event, TextDelta):
            told[at] = TextDelta(choice, event.text, event.num_tokens, logprobs)
            return
    told.append(TextDelta(choice, "", 0, logprobs))


def _logprob(token: ChosenToken, tops: list[ChosenToken]) -> TokenLogprob:
    return TokenLogprob(
        token.token,
        token.token.encode(),
        token.log_probability,
        tuple((one.token, one.token.encode(), one.log_probability) for one in tops),
        token.token_id,
        tuple(one.token_id for one in tops if one.token_id is not None),
    )


def decode(request: Request, model: str, body: bytes) -> list[Event]:
    """A whole answer: vectors or a count. Raises UpstreamFault."""
    try:
        if request.task is Task.COUNT:
            counted = msgspec.json.decode(body, type=Counted)
            cached = min(counted.cached_content_token_count, counted.total_tokens)
            return [
                Started(request.id, model, counted.total_tokens, cached),
                Finished(Usage(counted.total_tokens, 0, cached)),
            ]
        embedded = msgspec.json.decode(body, type=Embedded)
    except ERRORS as error:
        raise fault(f"answered with what is no {request.task}: {str(error)[:200]}") from None
    return _vectors(request, model, embedded)


def _vectors(request: Request, model: str, embedded: Embedded) -> list[Event]:
    inputs, vectors = request.inputs or (), embedded.embeddings or []
    if len(vectors) != len(inputs) or not all(one.values for one in vectors):
        raise fault(f"answered {len(inputs)} inputs with {len(vectors)} vectors, or with empty ones")
    # Who tells no counts is charged by what no tokenizer exceeds.
    bounds = [len(one.text.encode("utf-8", "replace")) for one in inputs if isinstance(one.text, str)]
    counts = embedded.usage_metadata
    total = sum(bounds) if counts is None or not counts.prompt_token_count else counts.prompt_token_count
    told: list[Event] = [Started(request.id, model, total)]
    for index, one in enumerate(vectors):
        values = one.values or []
        told.append(Embedding(index, _packed(values, is_cut=request.dimensions is not None), 0))
    return [*told, Finished(Usage(total, 0))]


def _packed(values: list[float], *, is_cut: bool) -> bytes:
    """A vector as bytes; one that was cut has lost its length of 1, and gets it again."""
    norm = math.hypot(*values) if is_cut else 1.0
    try:
        return struct.pack(f"<{len(values)}f", *(value / (norm or 1.0) for value in values))
    except (OverflowError, struct.error):
        raise fault("answered with a vector whose numbers are too large") from None


def usage_of(body: bytes) -> Usage | None:
    """What a whole answer told; None if nothing."""
    try:
        chunk = msgspec.json.decode(body, type=Chunk)
    except ERRORS:
        return None
    return None if chunk.usage_metadata is None else chunk.usage_metadata.usage
