"""What Gemini's native API says on the wire, as types, and its counts as ours.

Its JSON is proto3's: a field that is zero or empty is left out, so an index that is not there is 0. `promptTokenCount`
holds what came from a cache; thoughts are not among `candidatesTokenCount`. Only what is acted on has a field. Knows no
order of chunks.
"""

from typing import Annotated, Any, Final

import msgspec

from headrace.core.errors import UpstreamFault
from headrace.core.events import Usage

PROTOCOL: Final = "Gemini's API"

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Index = Annotated[int, msgspec.Meta(ge=0, lt=128)]


class Counts(msgspec.Struct, rename="camel"):
    """`usageMetadata`: the whole so far."""

    prompt_token_count: Count = 0
    cached_content_token_count: Count = 0
    candidates_token_count: Count = 0
    thoughts_token_count: Count = 0
    tool_use_prompt_token_count: Count = 0

    @property
    def usage(self) -> Usage:
        """As ours."""
        prompt = self.prompt_token_count + self.tool_use_prompt_token_count
        return Usage(
            prompt,
            self.candidates_token_count + self.thoughts_token_count,
            min(self.cached_content_token_count, prompt),
            reasoning_tokens=self.thoughts_token_count,
        )


class FunctionCall(msgspec.Struct):
    """A call; `id` is not always told."""

    name: str = ""
    id: str = ""
    args: dict[str, Any] = {}


class Part(msgspec.Struct, rename="camel"):
    """A piece of an answer. One of the last fields is set in pieces that only server-side tools make."""

    text: str | None = None
    thought: bool = False
    thought_signature: str = ""
    function_call: FunctionCall | None = None
    inline_data: Any = None
    file_data: Any = None
    executable_code: Any = None
    code_execution_result: Any = None

    @property
    def foreign(self) -> str | None:
        """The name of a field that nobody asked for, None without one."""
        names = ("inline_data", "file_data", "executable_code", "code_execution_result")
        return next((name for name in names if getattr(self, name) is not None), None)


class Content(msgspec.Struct):
    """What a candidate says."""

    parts: list[Part] | None = None


class ChosenToken(msgspec.Struct, rename="camel"):
    """A token and how likely it was."""

    token: str = ""
    token_id: int | None = None
    log_probability: float = 0.0


class TopTokens(msgspec.Struct):
    """The likeliest tokens of one position, best first."""

    candidates: list[ChosenToken] | None = None


class Logprobs(msgspec.Struct, rename="camel"):
    """Both lists are as long as the text has tokens."""

    chosen_candidates: list[ChosenToken] | None = None
    top_candidates: list[TopTokens] | None = None


class Candidate(msgspec.Struct, rename="camel"):
    """More of one choice."""

    index: Index = 0
    content: Content | None = None
    finish_reason: str | None = None
    finish_message: str = ""
    logprobs_result: Logprobs | None = None


class Feedback(msgspec.Struct, rename="camel"):
    """What was said about the prompt instead of an answer."""

    block_reason: str | None = None


class Detail(msgspec.Struct, rename="camel"):
    """One of many kinds of details: when to try again, or why not."""

    retry_delay: Any = None
    reason: Any = None


class Status(msgspec.Struct):
    """An error."""

    code: int = 0
    message: str = ""
    status: str = ""
    details: list[Detail] | None = None


class Chunk(msgspec.Struct, rename="camel"):
    """One event of a stream."""

    candidates: list[Candidate] | None = None
    prompt_feedback: Feedback | None = None
    usage_metadata: Counts | None = None
    error: Status | None = None


class Values(msgspec.Struct):
    """A vector."""

    values: list[float] | None = None


class Embedded(msgspec.Struct, rename="camel"):
    """The answer of batchEmbedContents."""

    embeddings: list[Values] | None = None
    usage_metadata: Counts | None = None


class Counted(msgspec.Struct, rename="camel"):
    """The answer of countTokens. Nothing that can be asked counts no token, so that its count is always there."""

    total_tokens: Count
    cached_content_token_count: Count = 0


ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)

_chunks: Final = msgspec.json.Decoder(Chunk)


def read_chunk(data: bytes) -> Chunk:
    """What an event says. Raises UpstreamFault for what is none."""
    try:
        return _chunks.decode(data)
    except ERRORS as error:
        raise fault(f"sent an event that is none of {PROTOCOL}: {str(error)[:200]}") from None


def fault(what: str) -> UpstreamFault:
    """What a backend did wrong."""
    return UpstreamFault(f"the backend {what}.")
