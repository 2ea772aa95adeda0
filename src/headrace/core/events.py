"""What a backend says while it works: a stream of frozen values.

Legal order for one request (`api` holds the same table per protocol):

    Started  PromptLogprobs?  (TextDelta | ReasoningDelta | ToolCallDelta)*  ChoiceFinished  ...  Finished
    Started  (Embedding | Score)*  Finished

`Started` comes first and once, `PromptLogprobs` next if it was asked for. Deltas of different choices interleave; after
its `ChoiceFinished` a choice is silent; `Finished` is last and follows the `ChoiceFinished` of every choice. Requests
that embed or score (the second line) get one result for each input, as they come; their `Started` counts the tokens of
all inputs. Instead of `Finished` a stream may end by raising one `HeadraceError`, or by the consumer closing it. `Raw`
carries same-dialect bytes untouched.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class FinishReason(StrEnum):
    """Why a choice ended."""

    STOP = "stop"  # end-of-turn token, stop token or stop string
    LENGTH = "length"  # max_tokens or the model's context
    TOOL_CALLS = "tool_calls"
    FILTERED = "content_filter"  # a remote model refused, or its provider withheld the answer or the rest of it


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. `cached_tokens` counts prompt tokens whose keys and values were really reused, `disk_tokens` those
    of them that came from disk, `cache_writes` tokens newly kept under breakpoints, as (ttl_s, tokens);
    `reasoning_tokens` counts those of `completion_tokens` that were not part of the answer. `is_estimated`: a remote
    backend told no counts, and these are bounds."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    disk_tokens: int = 0
    cache_writes: tuple[tuple[float, int], ...] = ()
    reasoning_tokens: int = 0
    is_estimated: bool = False


class MissReason(StrEnum):
    """Why the part of a prompt that was not found was not found."""

    NONE = "none"  # everything that can be reused was
    TOO_SHORT = "too_short"  # less than one page
    COLD = "cold"  # nothing like it was seen
    MODEL_CHANGED = "model_changed"
    ADAPTER_CHANGED = "adapter_changed"
    TEMPLATE_CHANGED = "template_changed"
    SALT_CHANGED = "salt_changed"
    MESSAGES_CHANGED = "messages_changed"  # another continuation of the same beginning is there
    EXTENDED = "extended"  # everything that was there was found; the rest is new
    EVICTED = "evicted"  # it was there, and its memory was needed
    EXPIRED = "expired"  # it was there, and its time had passed


@dataclass(frozen=True, slots=True)
class CacheMiss:
    """Where and why reuse ended: the first token that had to be computed, and which message it is in (None: unknown or
    behind all messages)."""

    reason: MissReason
    token: int
    message: int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The request was admitted; digests name what it runs on (model, tokenizer, template, system, adapter), tagged
    `sha256:...`, and beside them stands in plain words what else its answer depends on (weights, keys_and_values,
    kernels).

    `cache_writes` are those that its `Usage` will tell.
    """

    request_id: str
    model: str
    prompt_tokens: int
    cached_tokens: int = 0
    digests: Mapping[str, str] = field(default_factory=dict)
    cache_miss: CacheMiss | None = None
    cache_writes: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One sampled token with its log-probability (natural log) and the best alternatives, best first.

    Ids of the model's vocabulary are told where the backend knows them; `alternative_ids` goes with `alternatives`.
    """

    token: str
    token_bytes: bytes
    logprob: float
    alternatives: tuple[tuple[str, bytes, float], ...] = ()
    token_id: int | None = None
    alternative_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class PromptLogprobs:
    """Log-probabilities of the input's tokens, each given those before it; the first has none.

    `text` is what all of them read as, where the backend knows: an echo of token ids needs it. `choice` is the first
    that continues the input, where requests are answered together.
    """

    tokens: tuple[TokenLogprob | None, ...]
    text: str | None = None
    choice: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More answer text. `num_tokens` may be 0 (text released late) and `text` may be empty (half a character held)."""

    choice: int
    text: str
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's reasoning, kept apart from the answer."""

    choice: int
    text: str
    num_tokens: int


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call: id and name on its first piece, argument text on all."""

    choice: int
    index: int
    arguments: str
    num_tokens: int
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """One choice ended; `stop_match` is the stop string that ended it, if one did."""

    choice: int
    reason: FinishReason
    stop_match: str | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """The vector of one input, float32 in little-endian order."""

    index: int
    vector: bytes
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Score:
    """How well one input's two texts go together.

    From a model that judges pairs: its score, a probability unless the model says otherwise. From one that generates:
    the natural log-probability of `pair` as a continuation of `text`, with that of each of its tokens, and whether
    greedy decoding would have written it.
    """

    index: int
    value: float
    num_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    is_greedy: bool | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """All choices ended and everything the request held is free again."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes of a protocol that pass through unread; only between a codec and a provider of the same dialect."""

    dialect: str
    data: bytes


Event = (
    Started
    | PromptLogprobs
    | TextDelta
    | ReasoningDelta
    | ToolCallDelta
    | ChoiceFinished
    | Embedding
    | Score
    | Finished
    | Raw
)
