"""A neutral request: what every protocol decodes to and every backend understands. Values only.

Wire names (OpenAI, Anthropic, ...) stop in `api`; token ids begin in `engine`. Validation of ranges lives in
`Sampling.check` and `Limits.check`, because every protocol needs the same answer for the same bad number.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Final, Self

from headrace.core.errors import InvalidRequest
from headrace.core.trust import Delegation, Label

MAX_CHOICES = 128
MAX_STOP_STRINGS = 16
MAX_STOP_BYTES = 1024
MAX_STOP_TOKENS = 1024
MAX_BIASES = 1024
MAX_TOP_LOGPROBS = 20
MAX_BREAKPOINTS = 4
MAX_INPUTS = 2048
MAX_TOOLS = 512
MAX_TTL_S = 7 * 86_400.0
SCOPES = ("generate", "metrics", "admin", "accounts", "logprobs", "audit", "endorse", "observe")
"""What a key may be allowed. `logprobs`: log-probabilities beyond what is told to everybody; `audit`: everybody's
records; `endorse`: letting withheld calls of tools pass; `observe`: to see what `admin` and `accounts` may change, and
to change nothing."""


class Task(StrEnum):
    """What is asked of the model, so that every policy covers every route."""

    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"
    COUNT = "count"


class Role(StrEnum):
    """Who speaks in a message."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass(frozen=True, slots=True)
class TextPart:
    """A run of text inside a message. `is_quoted`: it came as a document or as what a search found, and so is not the
    words of who sent the message."""

    text: str
    is_quoted: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant made in an earlier turn; `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. Parts are text only until a model that takes more is served.

    `reasoning` is what an assistant thought before it spoke, where a client sends it back. A turn of role TOOL answers
    the call `tool_call_id`. `is_summary`: a model wrote it of turns that are not here, so nobody can tell whose words
    are in it. `label` is what it was worth where it was kept; what stands before it here can only lower that.
    """

    role: Role
    parts: tuple[TextPart, ...] = ()
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    reasoning: str = ""
    is_summary: bool = False
    label: Label | None = None

    @property
    def text(self) -> str:
        """All text parts, joined without a separator."""
        return "".join(part.text for part in self.parts)


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `parameters` is a JSON schema, which arguments are held to if the tool is
    `strict`, and always where a call is required."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


class ToolMode(StrEnum):
    """Whether an answer may (AUTO), must not (NONE) or must (REQUIRED) call tools."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """What an answer may do with the tools of its request: call those in `names` (empty: any of them), at most
    `max_calls` times (None: as often as it likes)."""

    mode: ToolMode = ToolMode.AUTO
    names: tuple[str, ...] = ()
    max_calls: int | None = None


class Effort(StrEnum):
    """How much a model is asked to think before it answers; NONE: not at all."""

    NONE = "none"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"


@dataclass(frozen=True, slots=True)
class Reasoning:
    """What is asked of a model that thinks before it answers; None leaves it to the model. After `max_tokens` of
    reasoning the answer begins. A model that does not think answers as ever. `is_default`: the caller said nothing, and
    this is what its protocol means by that."""

    effort: Effort | None = None
    max_tokens: int | None = None
    is_default: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. `temperature` 0 is greedy.

    A logit is changed in this order: `logit_bias` is added; repetition (Keskar et al. 2019, arXiv 1909.05858: over
    prompt and answer) divides it if positive and multiplies it if not; presence and frequency (OpenAI: over the answer)
    are subtracted, the latter once per occurrence. Candidates are then cut in this order: logits / temperature, top-k,
    top-p on what is left renormalised, min-p relative to the largest, typical-p (Meister et al. 2022, arXiv 2202.00666)
    on what is left renormalised. `seed` None means that the server picks one and reports nothing. `best_of` choices are
    drawn and the `num_choices` with the largest mean log-probability are told. Fields in `defaults` have the values
    that the caller's protocol gives them where the caller says nothing.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    num_choices: int = 1
    best_of: int | None = None
    defaults: frozenset[str] = frozenset()

    @property
    def num_drawn(self) -> int:
        """Choices that the engine draws."""
        return max(self.num_choices, self.best_of or 0)

    @property
    def has_penalties(self) -> bool:
        """Whether earlier tokens change logits."""
        return self.repetition_penalty != 1.0 or self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def check(self) -> None:
        """Raise InvalidRequest naming the field, the value and the allowed range."""
        _number("temperature", self.temperature, 0.0, 100.0)
        _number("top_p", self.top_p, 0.0, 1.0, open_low=True)
        _number("min_p", self.min_p, 0.0, 1.0)
        _number("top_k", self.top_k, 0, 2**31 - 1)
        _number("typical_p", self.typical_p, 0.0, 1.0, open_low=True)
        _number("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        _number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _number("n", self.num_choices, 1, MAX_CHOICES)
        if self.best_of is not None:
            _number("best_of", self.best_of, self.num_choices, MAX_CHOICES)
        self._check_bias()
        if self.seed is not None:
            _number("seed", self.seed, -(2**63), 2**64 - 1)

    def _check_bias(self) -> None:
        if len(self.logit_bias) > MAX_BIASES:
            raise InvalidRequest(
                f"logit_bias: {len(self.logit_bias)} tokens given; at most {MAX_BIASES} are allowed.",
                param="logit_bias",
            )
        for token, bias in self.logit_bias:
            _number(f"logit_bias[{token}]", bias, -100.0, 100.0)


_NEUTRAL: Final[Mapping[str, Any]] = {one.name: one.default for one in fields(Sampling)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When an answer ends. `max_tokens` None means as much as the context allows, 0 that the input is read and kept and
    nothing is generated; what the context does not allow is refused, or with `fits_context` lowered to what it does.
    `deadline_s` counts from arrival."""

    max_tokens: int | None = None
    fits_context: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    deadline_s: float | None = None

    def check(self) -> None:
        """Raise InvalidRequest naming the field, the value and the allowed range."""
        if self.max_tokens is not None:
            _number("max_tokens", self.max_tokens, 0, 2**31 - 1)
        if len(self.stop_token_ids) > MAX_STOP_TOKENS:
            raise InvalidRequest(
                f"stop_token_ids: {len(self.stop_token_ids)} tokens given; at most {MAX_STOP_TOKENS} are allowed.",
                param="stop_token_ids",
            )
        if len(self.stop) > MAX_STOP_STRINGS:
            raise InvalidRequest(
                f"stop: {len(self.stop)} strings given; at most {MAX_STOP_STRINGS} are allowed.", param="stop"
            )
        for text in self.stop:
            if not text:
                raise InvalidRequest("stop: an empty string would stop every answer at once; remove it.", param="stop")
            if len(text.encode("utf-8", "surrogatepass")) > MAX_STOP_BYTES:
                raise InvalidRequest(f"stop: a string is longer than {MAX_STOP_BYTES} bytes; shorten it.", param="stop")


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """Keep what is computed up to here for `ttl_s` seconds after its last use: up to the end of `messages[message]`, of
    the whole input (None), or of what stands before the first message, such as tools (-1)."""

    message: int | None = None
    ttl_s: float = 300.0


@dataclass(frozen=True, slots=True)
class CacheHints:
    """What the caller says about reuse. `salt` separates prefix caches inside one tenant; `explain` asks why what was
    not found was not found; `fresh`: no whole answer that was given before is given again."""

    salt: str = ""
    breakpoints: tuple[Breakpoint, ...] = ()
    explain: bool = False
    fresh: bool = False

    def check(self, num_messages: int) -> None:
        """Raise InvalidRequest naming the field, the value and the allowed range."""
        if len(self.breakpoints) > MAX_BREAKPOINTS:
            raise InvalidRequest(
                f"cache breakpoints: {len(self.breakpoints)} given; at most {MAX_BREAKPOINTS} are allowed.",
                param="cache",
            )
        for point in self.breakpoints:
            _number("cache ttl", point.ttl_s, 1.0, MAX_TTL_S)
            if point.message is not None:
                _number("cache breakpoint", point.message, -1, num_messages - 1)


class FormatKind(StrEnum):
    """The shapes an answer can be constrained to."""

    TEXT = "text"
    JSON_OBJECT = "json_object"
    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    CHOICE = "choice"
    LARK = "lark"
    GBNF = "gbnf"


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """A constraint on the answer's form.

    `schema` is set for JSON_SCHEMA, `choices` for CHOICE, `source` for REGEX, LARK and GBNF. `after` is text that ends
    an unconstrained beginning, for models that reason first; empty means that the constraint holds from the start.
    """

    kind: FormatKind = FormatKind.TEXT
    schema: Mapping[str, Any] | bool | None = None
    choices: tuple[str, ...] = ()
    source: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Input:
    """One text (or its token ids) of a request that embeds or scores.

    `pair` is what is scored beside it: a second text for a model that judges pairs, a continuation for one that
    generates.
    """

    text: str | tuple[int, ...]
    pair: str | tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """On whose behalf a request runs; `tenant` is the isolation boundary of every cache and budget.

    A larger `priority` goes first; of one priority, tenants get service in proportion to their `share`. `key` is the
    name of the key that was shown, `tags` are what its spending is counted under beside, and `labels` say what every
    one of its requests holds ("restricted"): only backends that are cleared for all of them may see it. `routes` are
    the names of models that it may ask for; empty: any. `subject` is who it is in full, as policies and records name
    it: `key:laptop`, `user:ISSUER#ID`, a SPIFFE ID; `workload` is the SPIFFE ID of the program that called, where one
    was shown, and `delegation` on whose authority it acts, where that is not its own.
    """

    tenant: str = "local"
    key: str | None = None
    user: str | None = None
    agent: str | None = None
    scopes: frozenset[str] = frozenset({"generate"})
    priority: int = 0
    share: float = 1.0
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    subject: str = ""
    workload: str | None = None
    delegation: Delegation | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One piece of work for a backend.

    Exactly one of `messages`, `prompt`, `tokens` and `inputs` is given: a conversation for the chat template, raw text,
    ids of the model's own vocabulary, or, to embed or score, many texts. An embedding is cut to its first `dimensions`
    and normalised again (None: all); with `truncates` inputs that are too long for the model are cut instead of
    refused. `suffix` is what follows the text that a `prompt` asks for, `answer_start` what the answer to `messages`
    begins with: it is read like them and not said again. `logprobs` is None (off) or the number of
    alternatives per position, `prompt_logprobs` the same of the input's own tokens. `session` and `parent` name the
    conversation and the request that this one belongs to. `labels` and `tags` are the request's own, beside those of
    its principal.
    """

    id: str
    model: str
    task: Task = Task.GENERATE
    messages: tuple[Message, ...] | None = None
    prompt: str | None = None
    tokens: tuple[int, ...] | None = None
    inputs: tuple[Input, ...] | None = None
    dimensions: int | None = None
    truncates: bool = False
    suffix: str | None = None
    answer_start: str = ""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    reasoning: Reasoning = Reasoning()
    sampling: Sampling = Sampling()
    limits: Limits = Limits()
    response_format: ResponseFormat = ResponseFormat()
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    cache: CacheHints = CacheHints()
    principal: Principal = Principal()
    session: str | None = None
    parent: str | None = None
    labels: frozenset[str] = frozenset()
    tags: tuple[str, ...] = ()

    @property
    def asked(self) -> Self:
        """The request without what its protocol means where the caller said nothing: a remote backend draws and thinks
        by its own defaults, not by those of a protocol that it may not speak."""
        sampling, reasoning = self.sampling, self.reasoning
        if not sampling.defaults and not reasoning.is_default:
            return self
        neutral = {name: _NEUTRAL[name] for name in sampling.defaults}
        return replace(
            self,
            sampling=replace(sampling, defaults=frozenset(), **neutral),
            reasoning=Reasoning() if reasoning.is_default else reasoning,
        )

    def check(self) -> None:
        """Raise InvalidRequest for what no backend could accept."""
        given = [name for name in ("messages", "prompt", "tokens", "inputs") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InvalidRequest(
                f"exactly one of messages, prompt, tokens and inputs is needed; given: {', '.join(given) or 'none'}.",
                param="messages",
            )
        if not getattr(self, given[0]):
            raise InvalidRequest(f"{given[0]}: must not be empty; give at least one entry.", param=given[0])
        self._check_inputs()
        self._check_tools()
        if self.suffix is not None and self.prompt is None:
            raise InvalidRequest("suffix: needs a prompt that it follows; give one as text.", param="suffix")
        if self.answer_start and self.messages is None:
            raise InvalidRequest("answer_start: needs messages that are answered; give some.", param="answer_start")
        self.sampling.check()
        self.limits.check()
        self.cache.check(len(self.messages or ()))
        for name in ("logprobs", "prompt_logprobs"):
            if (count := getattr(self, name)) is not None:
                _number(name, count, 0, MAX_TOP_LOGPROBS)

    def _check_tools(self) -> None:
        if len(self.tools) > MAX_TOOLS:
            raise InvalidRequest(f"tools: {len(self.tools)} given; at most {MAX_TOOLS} are allowed.", param="tools")
        names = [tool.name for tool in self.tools]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InvalidRequest(f"tools: {twice!r} is given twice; give each tool its own name.", param="tools")
        choice = self.tool_choice
        for name in choice.names:
            if name not in names:
                raise InvalidRequest(f"tool_choice: there is no tool {name!r} in tools; add it.", param="tool_choice")
        if choice.mode is ToolMode.REQUIRED and not names:
            raise InvalidRequest("tool_choice: requires a call, but no tools are given; add some.", param="tool_choice")
        if choice.max_calls is not None:
            _number("max_tool_calls", choice.max_calls, 1, 2**31 - 1)
        if self.reasoning.max_tokens is not None:
            _number("reasoning max_tokens", self.reasoning.max_tokens, 0, 2**31 - 1)

    def _check_inputs(self) -> None:
        inputs, is_scored = self.inputs or (), self.task is Task.SCORE
        if (is_scored or self.task is Task.EMBED) != bool(inputs):
            raise InvalidRequest(
                f"inputs: {len(inputs)} given, which does not suit a request to {self.task}.", param="inputs"
            )
        if len(inputs) > MAX_INPUTS:
            raise InvalidRequest(
                f"inputs: {len(inputs)} given; at most {MAX_INPUTS} are allowed, send several requests.", param="inputs"
            )
        for index, one in enumerate(inputs):
            if not one.text and not one.pair:
                raise InvalidRequest(f"inputs[{index}]: is empty; give at least one character.", param="inputs")
            if (one.pair is not None) != is_scored:
                why = "needs a second text to be scored" if is_scored else "has a second text, which only scoring takes"
                raise InvalidRequest(f"inputs[{index}]: {why}.", param="inputs")
        if self.dimensions is not None:
            _number("dimensions", self.dimensions, 1, 2**31 - 1)


def _number(name: str, value: float, low: float, high: float, *, open_low: bool = False) -> None:
    # Written so that NaN fails every comparison and is refused.
    inside = (low < value if open_low else low <= value) and value <= high
    if isinstance(value, bool) or not inside or math.isnan(value):
        bracket = "(" if open_low else "["
        raise InvalidRequest(f"{name}: {value!r} is not in {bracket}{low}, {high}]; give a number inside.", param=name)
