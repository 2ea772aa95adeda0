"""What has to be known of a request to decide about it: sizes, needs and who asks, and nothing of what it says.

A `Shape` is made of a neutral request (`Shape.of`) or of a body that was only peeked into (`api/peek.py`), so that one
policy decides for both. Knows no backends and no prices.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from headrace.core.request import FormatKind, Principal, Request, Task

TOKENS_PER_MESSAGE: Final = 32
"""What a template may add around a message, as a bound in tokens."""

_NO_PROBES: Final[frozenset[str]] = frozenset()


class Need(StrEnum):
    """What a request asks for that not every model can do."""

    TOOLS = "tools"
    SCHEMA = "schema"  # an answer held to a form
    VISION = "vision"
    AUDIO = "audio"
    LOGPROBS = "logprobs"
    REASONING = "reasoning"
    SUFFIX = "suffix"
    TOKENS = "tokens"  # the input is token ids of one model's vocabulary


def no_blocks() -> tuple[int, ...]:
    """The prefix of a request that nothing is known of."""
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A request as policies see it.

    `num_bytes` are the UTF-8 bytes of everything the model reads. No tokenizer makes more tokens than bytes, so
    `num_bytes` plus TOKENS_PER_MESSAGE a message bounds the prompt; images and sounds are counted in `num_media`.
    `labels` and `tags` are those of the request and of its principal together. `prefix()` are chained hashes of blocks
    of the input, first block first: two requests whose first n are equal begin alike. `is_fresh`: an answer that was
    given before is not wanted. `probes` are the fields that ask for probabilities or shift them (`logprobs`,
    `logit_bias` and what backends have beside), by the names that they came under; empty for nearly all requests.
    """

    id: str
    model: str
    task: Task
    principal: Principal
    num_bytes: int
    num_messages: int = 1
    num_media: int = 0
    num_inputs: int = 0
    max_tokens: int | None = None
    num_choices: int = 1
    needs: frozenset[Need] = frozenset()
    is_stream: bool = False
    is_deterministic: bool = False
    labels: frozenset[str] = frozenset()
    tags: tuple[str, ...] = ()
    session: str | None = None
    deadline_s: float | None = None
    is_fresh: bool = False
    probes: frozenset[str] = frozenset()
    prefix: Callable[[], tuple[int, ...]] = no_blocks

    @classmethod
    def of(cls, request: Request, *, prefix: Callable[[], tuple[int, ...]] = no_blocks) -> Self:
        """The shape of a neutral request."""
        texts = list(_texts(request))
        principal = request.principal
        return cls(
            id=request.id,
            model=request.model,
            task=request.task,
            principal=principal,
            num_bytes=sum(map(_num_bytes, texts)) + (0 if request.tokens is None else len(request.tokens)),
            num_messages=len(request.messages or ()) + len(request.tools) + 1,
            num_inputs=len(request.inputs or ()),
            max_tokens=request.limits.max_tokens,
            num_choices=request.sampling.num_drawn,
            needs=frozenset(_needs(request)),
            is_stream=True,
            is_deterministic=request.sampling.temperature == 0 or request.sampling.seed is not None,
            labels=request.labels | principal.labels,
            tags=tuple(dict.fromkeys((*principal.tags, *request.tags))),
            session=request.session,
            deadline_s=request.limits.deadline_s,
            is_fresh=request.cache.fresh,
            probes=_probes(request),
            prefix=prefix,
        )

    @property
    def prompt_bound(self) -> int:
        """Tokens that the prompt cannot exceed, media apart."""
        return self.num_bytes + TOKENS_PER_MESSAGE * (self.num_messages + self.num_inputs)


def _probes(request: Request) -> frozenset[str]:
    if request.logprobs is None and request.prompt_logprobs is None and not request.sampling.logit_bias:
        return _NO_PROBES
    given = {
        "logprobs": request.logprobs is not None,
        "prompt_logprobs": request.prompt_logprobs is not None,
        "logit_bias": bool(request.sampling.logit_bias),
    }
    return frozenset(name for name, is_given in given.items() if is_given)


def _texts(request: Request) -> Iterable[str]:
    for message in request.messages or ():
        yield message.text
        yield message.reasoning
        for call in message.tool_calls:
            yield call.name
            yield call.arguments
    for tool in request.tools:
        yield tool.name
        yield tool.description
        yield repr(tool.parameters)  # never shorter than its JSON by more than the template's own words
    for one in request.inputs or ():
        for text in (one.text, one.pair):
            if isinstance(text, str):
                yield text
            elif text is not None:
                yield " " * len(text)
    yield request.prompt or ""
    yield request.suffix or ""
    yield request.answer_start


def _num_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _needs(request: Request) -> Iterable[Need]:
    if request.tools:
        yield Need.TOOLS
    if request.response_format.kind is not FormatKind.TEXT:
        yield Need.SCHEMA
    if request.logprobs is not None or request.prompt_logprobs is not None:
        yield Need.LOGPROBS
    if request.suffix is not None:
        yield Need.SUFFIX
    if request.tokens is not None or any(not isinstance(one.text, str) for one in request.inputs or ()):
        yield Need.TOKENS
