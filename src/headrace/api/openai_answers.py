"""OpenAI's generation routes, outwards: events become one whole answer; `openai_stream.py` makes chunks of them.

Both writers obey `TRANSITIONS`, the legal orders of events; a pair that is not in it is a defect of the backend and
ends the answer with EngineFault. What both say alike is here. Error lines are written by `errors.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import msgspec

from headrace.api.custom_tools import free_text
from headrace.api.openai import Call
from headrace.api.openai_logprobs import (
    ChatRenderer,
    CompletionRenderer,
    Renderer,
    echoed_tokens,
    prompt_table,
    prompt_text,
)
from headrace.api.openai_usage import encode_usage
from headrace.core.errors import EngineFault, InvalidRequest
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    PromptLogprobs,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)
from headrace.core.ledger import NO_PRICES, PriceList

# A whole answer is held until it is complete, and log-probabilities are far longer than its text. A stream holds none.
MAX_LOGPROBS: Final = 1_000_000
_FINGERPRINT_CHARS: Final = 12

_encode_json = msgspec.json.Encoder().encode


class State(Enum):
    """Where an answer stands."""

    IDLE = "idle"
    BEGUN = "begun"  # started, and nothing said
    OPEN = "open"
    DONE = "done"


# What continues a raw prompt is text; in a chat it may also be reasoning and calls of tools.
TEXT_TRANSITIONS: dict[tuple[State, type], State] = {
    (State.IDLE, Started): State.BEGUN,
    (State.BEGUN, PromptLogprobs): State.OPEN,
    (State.BEGUN, TextDelta): State.OPEN,
    (State.BEGUN, ChoiceFinished): State.OPEN,
    (State.OPEN, TextDelta): State.OPEN,
    (State.OPEN, ChoiceFinished): State.OPEN,
    (State.OPEN, PromptLogprobs): State.OPEN,  # of a further prompt, before its own choices
    (State.OPEN, Finished): State.DONE,
}
TRANSITIONS: dict[tuple[State, type], State] = TEXT_TRANSITIONS | {
    (State.BEGUN, ReasoningDelta): State.OPEN,
    (State.BEGUN, ToolCallDelta): State.OPEN,
    (State.OPEN, ReasoningDelta): State.OPEN,
    (State.OPEN, ToolCallDelta): State.OPEN,
}


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs between the two routes."""

    id_prefix: str
    whole_object: str
    chunk_object: str
    has_roles: bool


CHAT = Dialect("chatcmpl-", "chat.completion", "chat.completion.chunk", has_roles=True)
COMPLETION = Dialect("cmpl-", "text_completion", "text_completion", has_roles=False)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an answer continues. `text` is what an echo begins with, None when it is known only to the backend;
    `is_heard` says that its PromptLogprobs must come."""

    text: str | None = None
    is_heard: bool = False


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """The constants of one answer. `created` is Unix time in whole seconds.

    `logprobs` and `prompt_logprobs` are None (off) or the number of alternatives to show. `num_choices` are those of
    all `prompts` together, as many of each. `has_functions`: calls are told in OpenAI's older words; `custom_tools`
    take free text.
    """

    dialect: Dialect
    id: str
    created: int
    num_choices: int = 1
    include_usage: bool = False
    counts_on: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    echo: bool = False
    prompts: tuple[Prompt, ...] = (Prompt(),)
    explains_cache: bool = False
    prices: PriceList = NO_PRICES
    service_tier: str | None = None
    has_functions: bool = False
    custom_tools: frozenset[str] = frozenset()
    metadata: Mapping[str, str] | None = None
    names_content: bool = False

    def prompt_of(self, choice: int) -> int:
        """The index of the prompt that a choice continues."""
        return choice * len(self.prompts) // self.num_choices

    def choices_of(self, prompt: int) -> range:
        """The choices that continue a prompt."""
        count = self.num_choices // len(self.prompts)
        return range(prompt * count, (prompt + 1) * count)

    def renderers(self) -> list[Renderer]:
        """One for each choice; none when nobody asked for log-probabilities."""
        if self.logprobs is None:
            return []
        kind = ChatRenderer if self.dialect.has_roles else CompletionRenderer
        return [kind(self.logprobs) for _ in range(self.num_choices)]


def answer_head(dialect: Dialect, call: Call, created: int) -> AnswerHead:
    """The constants of the answer to a call."""
    request = call.request
    prompts = tuple(Prompt(one.prompt, one.prompt_logprobs is not None) for one in call.requests)
    return AnswerHead(
        dialect,
        request.id,
        created,
        request.sampling.num_choices * len(prompts),
        call.include_usage,
        call.counts_on,
        logprobs=request.logprobs,
        prompt_logprobs=call.prompt_logprobs,
        echo=call.echo,
        prompts=prompts,
        explains_cache=request.cache.explain,
        prices=call.prices,
        service_tier=call.service_tier,
        has_functions=call.has_functions,
        custom_tools=call.custom_tools,
        metadata=call.metadata,
        names_content=call.cached_content is not None,
    )


class Order:
    """Holds an answer to TRANSITIONS and each choice to: deltas, then one end; and calls to: names, then arguments."""

    def __init__(self, head: AnswerHead) -> None:
        self.state = State.IDLE
        self.open_choices = set(range(head.num_choices))
        self._transitions = TRANSITIONS if head.dialect.has_roles else TEXT_TRANSITIONS
        self._head = head
        self._unheard = {index for index, prompt in enumerate(head.prompts) if prompt.is_heard}
        self._max_calls = 1 if head.has_functions else None
        self._num_calls = [0] * head.num_choices

    def step(self, event: Event) -> None:
        """Take in the next event. Raises EngineFault if it may not come now."""
        is_open = self.state is State.OPEN and not self._unheard
        if type(event) is TextDelta and is_open and event.choice in self.open_choices:
            return  # the hot row of the table
        following = self._transitions.get((self.state, type(event)))
        if following is None:
            raise EngineFault(f"the backend sent {type(event).__name__} while the answer was {self.state.value}.")
        if isinstance(event, PromptLogprobs):
            self._step_prompt(event)
        elif isinstance(event, TextDelta | ReasoningDelta | ToolCallDelta | ChoiceFinished):
            self._step_choice(event)
        elif following is State.DONE and self.open_choices:
            raise EngineFault(f"the backend ended the answer with choices {sorted(self.open_choices)} still open.")
        self.state = following

    def _step_prompt(self, event: PromptLogprobs) -> None:
        prompt = self._head.prompt_of(event.choice)
        if prompt not in self._unheard:
            raise EngineFault(f"the backend told of prompt {prompt} first, but that is not what was asked for.")
        self._unheard.discard(prompt)

    def _step_choice(self, event: TextDelta | ReasoningDelta | ToolCallDelta | ChoiceFinished) -> None:
        choice, name = event.choice, type(event).__name__
        if choice not in self.open_choices:
            raise EngineFault(f"the backend sent {name} for choice {choice}, which is not open.")
        if self._head.prompt_of(choice) in self._unheard:
            raise EngineFault(f"the backend sent {name} first, but that is not what was asked for.")
        if isinstance(event, ChoiceFinished):
            self.open_choices.discard(choice)
        elif isinstance(event, ToolCallDelta):
            self._step_call(event)

    def _step_call(self, event: ToolCallDelta) -> None:
        known = self._num_calls[event.choice]
        if event.index == known and event.id and event.name and known != self._max_calls:
            self._num_calls[event.choice] += 1
        elif not 0 <= event.index < known or event.id is not None or event.name is not None:
            raise EngineFault(f"the backend sent a piece of call {event.index} where {known} calls had begun.")


@dataclass(frozen=True, slots=True)
class _Called:
    """A call of a tool, as far as it has been told."""

    id: str
    name: str
    arguments: list[str]

    def function(self) -> dict[str, str]:
        return {"name": self.name, "arguments": "".join(self.arguments)}


class AnswerWriter:
    """Events in, one whole answer out."""

    def __init__(self, head: AnswerHead, max_logprobs: int = MAX_LOGPROBS) -> None:
        self._head = head
        self._max_logprobs = max_logprobs
        self._order = Order(head)
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(head.num_choices)]
        self._num_logprobs = 0
        self._texts: list[list[str]] = [[] for _ in range(head.num_choices)]
        self._reasoning: list[list[str]] = [[] for _ in range(head.num_choices)]
        self._calls: list[list[_Called]] = [[] for _ in range(head.num_choices)]
        self._reasons = [FinishReason.STOP] * head.num_choices
        self._started: Started | None = None
        self._prompts: dict[int, PromptLogprobs] = {}
        self._usage: Usage | None = None

    @property
    def is_done(self) -> bool:
        """True after Finished: `encode` has everything it needs."""
        return self._order.state is State.DONE

    def add(self, events: Iterable[Event]) -> None:
        """Take in more of the answer. Raises EngineFault, and InvalidRequest for too many log-probabilities."""
        for event in events:
            self._order.step(event)
            if isinstance(event, TextDelta):
                self._texts[event.choice].append(event.text)
                if event.logprobs:
                    self._keep(event)
            elif isinstance(event, ReasoningDelta):
                self._reasoning[event.choice].append(event.text)
            elif isinstance(event, ToolCallDelta):
                self._add_call(event)
            elif isinstance(event, ChoiceFinished):
                self._reasons[event.choice] = event.reason
            elif isinstance(event, Started):
                self._started = event
            elif isinstance(event, PromptLogprobs):
                self._prompts[self._head.prompt_of(event.choice)] = event
            elif isinstance(event, Finished):
                self._usage = event.usage

    def _add_call(self, event: ToolCallDelta) -> None:
        calls = self._calls[event.choice]
        if event.id and event.name:
            calls.append(_Called(event.id, event.name, []))
        calls[event.index].arguments.append(event.arguments)

    def _keep(self, event: TextDelta) -> None:
        if self._head.logprobs is None:
            return
        self._logprobs[event.choice].extend(event.logprobs)
        self._num_logprobs += sum(1 + len(token.alternatives) for token in event.logprobs)
        if self._num_logprobs > self._max_logprobs:
            raise InvalidRequest(
                f"logprobs: the answer has more than {self._max_logprobs} of them; stream it, or ask for fewer.",
                param="logprobs",
            )

    def encode(self) -> bytes:
        """The answer as JSON. Raises EngineFault when the events ended too early."""
        if self._started is None or self._usage is None:
            raise EngineFault("the backend ended the stream before the answer was finished.")
        head, started = self._head, self._started
        answer = identity(head, head.dialect.whole_object, started)
        renderers: Sequence[Renderer | None] = head.renderers() or [None] * head.num_choices
        answer["choices"] = [self._choice(choice, renderer) for choice, renderer in enumerate(renderers)]
        answer["usage"] = encode_usage(self._usage, started.model, head.prices, names_content=head.names_content)
        if head.metadata is not None:
            answer["metadata"] = head.metadata
        if head.dialect.has_roles:
            answer |= self._prompt_field(0)
        if head.explains_cache:
            answer["headrace"] = explain(started)
        return _encode_json(answer)

    def _choice(self, choice: int, renderer: Renderer | None) -> dict[str, Any]:
        text, tokens = "".join(self._texts[choice]), self._logprobs[choice]
        prompt = self._head.prompt_of(choice)
        if self._head.echo:
            heard, begin = self._prompts.get(prompt), self._head.prompts[prompt].text
            if begin is None:
                begin = "" if heard is None else prompt_text(heard)
            if heard is not None:
                tokens = [*echoed_tokens(heard, begin), *tokens]
            text = begin + text
        logprobs = None if renderer is None else renderer.render(tokens)
        ending = {"logprobs": logprobs, "finish_reason": finish_reason(self._head, self._reasons[choice])}
        if self._head.dialect.has_roles:
            return {"index": choice, "message": self._message(choice, text)} | ending
        return {"index": choice, "text": text} | ending | self._prompt_field(prompt)

    def _message(self, choice: int, text: str) -> dict[str, Any]:
        calls, reasoning = self._calls[choice], "".join(self._reasoning[choice])
        message: dict[str, Any] = {"role": "assistant", "refusal": None}
        message["content"] = text or (None if calls or reasoning else "")
        if reasoning:
            message |= {"reasoning_content": reasoning, "reasoning": reasoning}
        if calls and self._head.has_functions:
            message["function_call"] = calls[0].function()
        elif calls:
            message["tool_calls"] = [
                custom_call(call.id, call.name, "".join(call.arguments))
                if call.name in self._head.custom_tools
                else {"id": call.id, "type": "function", "function": call.function()}
                for call in calls
            ]
        return message

    def _prompt_field(self, prompt: int) -> dict[str, Any]:
        """vLLM's: beside the choices of a chat, inside each choice of a completion."""
        heard = self._prompts.get(prompt)
        if heard is None or self._head.prompt_logprobs is None:
            return {}
        return {"prompt_logprobs": prompt_table(heard, self._head.prompt_logprobs)}


def fingerprint(started: Started) -> str | None:
    """A short form of the digest of what answers, so that callers see when it changes."""
    digest = started.digests.get("model")
    return None if digest is None else "fp_" + digest.rpartition(":")[2][:_FINGERPRINT_CHARS]


def identity(head: AnswerHead, object_name: str, started: Started) -> dict[str, Any]:
    """How an answer and each chunk of one begin."""
    begin = {
        "id": head.id,
        "object": object_name,
        "created": head.created,
        "model": started.model,
        "system_fingerprint": fingerprint(started),
    }
    return begin if head.service_tier is None else begin | {"service_tier": head.service_tier}


def custom_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A call of a tool that takes free text."""
    return {"id": call_id, "type": "custom", "custom": {"name": name, "input": free_text(arguments)}}


def finish_reason(head: AnswerHead, reason: FinishReason) -> str:
    """Why a choice ended, in the caller's words."""
    return "function_call" if head.has_functions and reason is FinishReason.TOOL_CALLS else reason.value


def explain(started: Started) -> dict[str, Any]:
    """The `headrace` of an answer to somebody who asked why the cache did not have more."""
    miss = started.cache_miss
    if miss is None:
        return {"cache_miss": None}
    return {"cache_miss": {"reason": miss.reason.value, "token": miss.token, "message": miss.message}}
