"""Answers of Gemini's native API, inwards: chunks of a stream become events; vectors and counts come whole.

A chunk holds pieces of some candidates and the counts so far. A candidate ends with a finishReason; the answer ends
with the connection, as there is no last word. Calls come whole, and often without an id. Knows no sockets.
"""

import math
import struct
from collections.abc import Mapping
from typing import Final

import msgspec

from headrace.api.outbound.answer_state import AnswerState
from headrace.api.outbound.call_ids import sign_id
from headrace.api.outbound.gemini_error import explain
from headrace.api.outbound.gemini_frames import (
    ERRORS,
    Candidate,
    ChosenToken,
    Chunk,
    Counted,
    Embedded,
    Logprobs,
    Part,
    fault,
    read_chunk,
)
from headrace.core.events import Embedding, Event, Finished, FinishReason, Started, TokenLogprob, Usage
from headrace.core.request import Request, Task
from headrace.core.shape import Shape

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
        self._num_choices = request.sampling.num_choices
        self._answer = AnswerState(request, model)
        self._has_begun_to_answer = False

    @property
    def is_done(self) -> bool:
        """True once `Finished` was told."""
        return self._answer.is_done

    def feed(self, event: str, data: bytes) -> list[Event]:
        """What one chunk says. Raises the error that it carries, and UpstreamFault."""
        chunk = read_chunk(data)
        if chunk.error is not None:
            raise explain(chunk.error, chunk.error.code or 500)
        if self.is_done:
            raise fault("went on after the end of the answer")
        if chunk.usage_metadata is not None:
            self._answer.usage = chunk.usage_metadata.usage
        self._answer.begin(self._answer.usage)
        for candidate in chunk.candidates or ():
            self._take(candidate)
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
            self._block()
        return self._answer.take()

    def end(self) -> list[Event]:
        """The answer's end. Raises UpstreamFault if a candidate was not finished."""
        self._answer.finish()
        return self._answer.take()

    def _block(self) -> None:
        """A prompt that was blocked has no candidates: every choice is withheld."""
        if self._has_begun_to_answer:
            raise fault("blocked a prompt that it had begun to answer")
        for choice in range(self._num_choices):
            self._answer.finish_choice(choice, FinishReason.FILTERED)

    def _take(self, candidate: Candidate) -> None:
        self._has_begun_to_answer = True
        choice = candidate.index
        logprobs = _logprobs(candidate.logprobs_result)
        for part in (candidate.content and candidate.content.parts) or ():
            if part.text and not part.thought and part.function_call is None:
                self._answer.add_text(choice, part.text, logprobs)
                logprobs = ()
            else:
                self._add(choice, part)
        self._answer.add_text(choice, "", logprobs)  # those of a chunk without a text are told alone
        reason = candidate.finish_reason
        if reason is None or reason == _UNSPECIFIED:
            return
        if reason in FAULTS:
            raise fault(f"ended the answer with {reason}: {candidate.finish_message[:200] or 'it said no more'}")
        self._answer.finish_choice(choice, FINISH_REASONS.get(reason, FinishReason.STOP))

    def _add(self, choice: int, part: Part) -> None:
        """A piece that is no text."""
        if part.foreign is not None:
            raise fault(f"answered with {part.foreign}, which nobody asked for")
        call = part.function_call
        if call is None:
            self._answer.add_reasoning(choice, part.text or "")
            return
        if not call.name:
            raise fault("called a tool without a name")
        arguments = msgspec.json.encode(call.args).decode()
        call_id = call.id or self._answer.make_id(choice)
        self._answer.begin_call(choice, sign_id(call_id, part.thought_signature), call.name, arguments)


def _logprobs(given: Logprobs | None) -> tuple[TokenLogprob, ...]:
    """The log-probabilities of a chunk."""
    chosen = (given and given.chosen_candidates) or []
    tops = [top.candidates or [] for top in (given and given.top_candidates) or []]
    return tuple(_logprob(token, tops[at] if at < len(tops) else []) for at, token in enumerate(chosen))


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
    counts = embedded.usage_metadata
    is_told = counts is not None and counts.prompt_token_count > 0
    total = (
        counts.prompt_token_count if counts is not None and is_told else Shape.of(request).num_bytes
    )  # no template is laid around these
    told: list[Event] = [Started(request.id, model, total)]
    for index, one in enumerate(vectors):
        values = one.values or []
        told.append(Embedding(index, _packed(values, is_cut=request.dimensions is not None), 0))
    return [*told, Finished(Usage(total, 0, is_estimated=not is_told))]


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
