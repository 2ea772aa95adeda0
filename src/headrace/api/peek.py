"""What a gateway has to know of a body before it decides: its top level, each value as it came, and a `Shape` of them.

Nothing is decoded beyond what a policy asks: a value that no policy reads stays bytes and travels on as it is, so that
a field that we have never heard of reaches a backend that has. Of a key that stands there twice the last value counts,
and only that is sent on. Bodies that our own server must act on have no `RawBody` and are decoded in full.

Judges no more than it must to decide: what a field means is the affair of the codec or of the backend that gets it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import msgspec

from headrace.api.anthropic import session_of
from headrace.api.anthropic_fields import MessagesBody
from headrace.api.input_fields import EmbeddingBody
from headrace.api.openai import COMPLETION_MAX_TOKENS, Caller
from headrace.api.openai_fields import ChatBody, CompletionBody
from headrace.api.openai_refusal import refuse_body, refuse_field, show
from headrace.api.outbound.reframing import BOUNDS
from headrace.api.peek_media import Media, media_of
from headrace.api.responses_fields import CreateBody
from headrace.core.errors import InvalidRequest
from headrace.core.gateway import Headers, RawBody
from headrace.core.request import Principal, Task
from headrace.core.shape import Need, Shape

BLOCK_BYTES: Final = 256
MAX_BLOCKS: Final = 512
TOOLS_OVERHEAD: Final = 16
"""What vendors put before the tools of a request, as so many messages (Anthropic: some 500 tokens)."""

_MAX_USER_CHARS: Final = 512
_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError)
_OFF: Final = frozenset({b"null", b"false"})
_NOTHING: Final = frozenset({b"null", b"[]", b"{}", b'""'})

# Where some gateways behind this one (OpenRouter, LiteLLM) would go instead of to the model.
_OTHER_MODELS: Final = ("models", "fallbacks")

# The fields that vLLM has for an answer's form.
_FORMS: Final = frozenset({"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"})

# What asks for probabilities or shifts them: OpenAI's fields, and those of servers that a body may travel to unread
# (vLLM, SGLang, llama.cpp, TGI). A value that asks for nothing is one of _NO_PROBE.
PROBES: Final = frozenset({
    "logprobs", "top_logprobs", "prompt_logprobs", "logit_bias",
    "allowed_token_ids", "bad_words", "logits_processors", "logprob_token_ids", "flat_logprobs",
    "return_logprob", "logprob_start_len", "top_logprobs_num", "token_ids_logprob", "return_hidden_states",
    "custom_logit_processor", "custom_params", "n_probs", "post_sampling_probs", "samplers",
    "top_n_tokens", "details", "decoder_input_details", "response_logprobs",
})  # fmt: skip
_NO_PROBE: Final = frozenset({b"null", b"false", b"{}", b"[]", b'""'})
_NO_PROBES: Final[frozenset[str]] = frozenset()

_fields_of = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_text_of = msgspec.json.Decoder(str).decode
_bool_of = msgspec.json.Decoder(bool).decode
_int_of = msgspec.json.Decoder(int).decode
_float_of = msgspec.json.Decoder(float).decode
_list_of = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Kind(msgspec.Struct):
    type: Any = None
    format: msgspec.Raw = msgspec.Raw(b"null")


class _Metadata(msgspec.Struct):
    user_id: str | None = None


_kind_of = msgspec.json.Decoder(_Kind).decode
_metadata_of = msgspec.json.Decoder(_Metadata).decode

Fields = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Peeked:
    """What is known of a body. `raw` is None if our own server must act on what it asks."""

    shape: Shape
    raw: RawBody | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyKind:
    """How the bodies of one route are peeked into. `own` are fields that our own server must act on, unless they have
    one of these values; `opening` those that a model reads, in order; `form` says whether an answer's form is bound."""

    dialect: str
    path: str
    body: type[msgspec.Struct]
    opening: tuple[str, ...]
    own: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    bounds: tuple[str, ...] = BOUNDS
    form: Callable[[Fields], bool] = lambda _: False
    task: Task = Task.GENERATE
    user: Callable[[Fields], str | None] = lambda _: None
    session: Callable[[Caller], str | None] = lambda caller: caller.session
    must_not_store: bool = False


def peek(kind: BodyKind, data: bytes, caller: Caller, headers: Headers = ()) -> Peeked:
    """Look into a body. `headers` are those that may travel on. Raises InvalidRequest in the dialect's words."""
    try:
        raws = _fields_of(data)
        if not data.isascii():
            data.decode()
    except _ERRORS as error:
        refuse_body(error, data, kind.body)
    fields = {name: bytes(value) for name, value in raws.items()}
    model = _model(fields, kind, data)
    for name in _OTHER_MODELS:
        if _has(fields, name):
            words = "names other models, which the caller's rights, budgets and labels were not held against"
            raise InvalidRequest(f"{name}: {words}; ask for a route that has fallbacks.", param=name)
    principal, user = caller.principal, kind.user(fields)
    if user is not None and principal.user is None:  # who a key is for is not the caller's to say
        principal = replace(principal, user=user)
    num_choices, is_single = _choices(fields, kind, data)
    max_tokens = _max_tokens(fields, kind, data)
    media = media_of(fields, kind.opening)
    has_tools = _has(fields, "tools") or _has(fields, "functions")
    shape = Shape(
        id=caller.request_id,
        model=model,
        task=kind.task,
        principal=principal,
        num_bytes=len(data) - media.num_bytes,
        num_messages=media.num_messages + 1 + has_tools * TOOLS_OVERHEAD,
        num_media=media.num_media,
        num_inputs=_num_inputs(fields) if kind.task is Task.EMBED else 0,
        max_tokens=max_tokens,
        num_choices=num_choices,
        needs=_needs(fields, kind, media, has_tools=has_tools),
        is_stream=_is_stream(fields, data),
        is_deterministic=_is_deterministic(fields),
        labels=_joined(principal, caller),
        tags=tuple(dict.fromkeys((*principal.tags, *caller.tags))) if caller.tags else principal.tags,
        session=kind.session(caller),
        deadline_s=caller.deadline_s,
        is_fresh=caller.is_fresh,
        probes=_probes(fields),
        prefix=partial(blocks, model, fields, kind.opening),
    )
    if caller.explains_cache or not is_single or not _may_travel(fields, kind):
        return Peeked(shape, None)
    if kind is COMPLETIONS and max_tokens == COMPLETION_MAX_TOKENS and not _has(fields, "max_tokens"):
        # OpenAI's default, which not every backend has; said aloud, it holds.
        fields["max_tokens"] = b"%d" % COMPLETION_MAX_TOKENS
    return Peeked(shape, RawBody(dialect=kind.dialect, path=kind.path, fields=fields, headers=headers))


def blocks(model: str, fields: Fields, opening: tuple[str, ...]) -> tuple[int, ...]:
    """Chained hashes of blocks of what a model reads, its own name among them; a last block that is not full is left
    out. They mean something in this process only."""
    data = b"\0".join(fields[name] for name in opening if name in fields)
    found, last = [], hash(model)
    for start in range(0, min(len(data) - BLOCK_BYTES + 1, BLOCK_BYTES * MAX_BLOCKS), BLOCK_BYTES):
        last = hash((last, data[start : start + BLOCK_BYTES]))
        found.append(last)
    return tuple(found)


def _joined(principal: Principal, caller: Caller) -> frozenset[str]:
    return principal.labels | caller.labels if caller.labels else principal.labels


def _has(fields: Fields, name: str) -> bool:
    value = fields.get(name)
    return value is not None and value not in _NOTHING


def _may_travel(fields: Fields, kind: BodyKind) -> bool:
    for name, harmless in kind.own.items():
        value = fields.get(name)
        if value is not None and value not in harmless:
            return False
    return not kind.must_not_store or fields.get("store") == b"false"


def _model(fields: Fields, kind: BodyKind, data: bytes) -> str:
    raw = fields.get("model")
    if raw is None:
        raise InvalidRequest("model: is missing; it is required.", param="model", code="missing_required_parameter")
    try:
        model = _text_of(raw)
    except _ERRORS as error:
        refuse_field(error, data, "model")
    if not model:
        raise InvalidRequest("model: must not be empty; GET /v1/models lists the names.", param="model")
    return model


def _is_stream(fields: Fields, data: bytes) -> bool:
    """Whether an answer is to come piece by piece. What only some backends would take for true is refused."""
    raw = fields.get("stream", b"null")
    if raw == b"null":
        return False
    try:
        return _bool_of(raw)
    except _ERRORS as error:
        refuse_field(error, data, "stream")


def _integer(fields: Fields, name: str, data: bytes) -> int | None:
    raw = fields.get(name)
    if raw is None or raw == b"null":
        return None
    try:
        value = _int_of(raw)
    except _ERRORS as error:
        refuse_field(error, data, name)
    if not 0 <= value < 2**31:
        raise InvalidRequest(f"{name}: {show(value)} is not in [0, {2**31 - 1}]; give a number inside.", param=name)
    return value


def _max_tokens(fields: Fields, kind: BodyKind, data: bytes) -> int | None:
    """The bound of one answer. Of several fields the largest counts: who obeys which is not ours to know."""
    given = [value for name in kind.bounds if (value := _integer(fields, name, data)) is not None]
    if not given:
        return COMPLETION_MAX_TOKENS if kind is COMPLETIONS else None
    return max(given)


def _choices(fields: Fields, kind: BodyKind, data: bytes) -> tuple[int, bool]:
    """How many answers are drawn, and whether they are answers to one prompt."""
    if kind.task is not Task.GENERATE:
        return 1, True
    drawn = max(1, _integer(fields, "n", data) or 1, _integer(fields, "best_of", data) or 1)
    prompt = fields.get("prompt") if kind is COMPLETIONS else None
    if prompt is None or not prompt.startswith(b"["):
        return drawn, True
    prompts = _list_of(prompt)
    if not prompts or bytes(prompts[0])[:1] not in b'"[':
        return drawn, True  # ids of one prompt
    return drawn * len(prompts), len(prompts) == 1


def _num_inputs(fields: Fields) -> int:
    given = fields.get("input", b"")
    return len(_list_of(given)) if given.startswith(b"[") else 1


def _needs(fields: Fields, kind: BodyKind, media: Media, *, has_tools: bool) -> frozenset[Need]:
    needs = media.needs
    if has_tools:
        needs |= {Need.TOOLS}
    if kind.form(fields):
        needs |= {Need.SCHEMA}
    if not _OFF.issuperset((fields.get("logprobs", b"null"), fields.get("top_logprobs", b"null"))):
        needs |= {Need.LOGPROBS}
    if _has(fields, "suffix"):
        needs |= {Need.SUFFIX}
    text = fields.get("prompt") or (fields.get("input") if kind.task is Task.EMBED else None)
    if text is not None and text.startswith(b"[") and text[1:].lstrip(b" \t\r\n[")[:1].isdigit():
        needs |= {Need.TOKENS}
    return needs


def _probes(fields: Fields) -> frozenset[str]:
    given = PROBES.intersection(fields)
    if given:
        given = frozenset(name for name in given if fields[name] not in _NO_PROBE)
    # Responses asks for them among what else is to be told; an escape could spell the word otherwise.
    include = fields.get("include", b"")
    return given | {"include"} if b"logprobs" in include or b"\\" in include else given or _NO_PROBES


def _is_deterministic(fields: Fields) -> bool:
    if fields.get("seed", b"null") != b"null":
        return True
    given = fields.get("temperature")
    try:
        return given is not None and given != b"null" and _float_of(given) == 0
    except _ERRORS:
        return False


def _is_form(raw: bytes | None) -> bool:
    """Whether a format is one: every type but that of plain text."""
    if raw is None or raw in _NOTHING:
        return False
    try:
        return bool(_kind_of(raw).type != "text")
    except _ERRORS:
        return True


def _chat_form(fields: Fields) -> bool:
    if _is_form(fields.get("response_format")):
        return True
    return not _FORMS.isdisjoint(fields) and any(_has(fields, name) for name in _FORMS)


def _inner_form(name: str) -> Callable[[Fields], bool]:
    def form(fields: Fields) -> bool:
        raw = fields.get(name)
        if raw is None or raw in _NOTHING:
            return False
        try:
            return _is_form(bytes(_kind_of(raw).format))
        except _ERRORS:
            return True

    return form


def _user(fields: Fields) -> str | None:
    raw = fields.get("user")
    if raw is None or raw == b"null":
        return None
    try:
        user = _text_of(raw)
    except _ERRORS as error:
        refuse_field(error, raw, "user")
    return _bounded(user, "user")


def _metadata_user(fields: Fields) -> str | None:
    raw = fields.get("metadata")
    if raw is None or raw == b"null":
        return None
    try:
        user = _metadata_of(raw).user_id
    except _ERRORS as error:
        refuse_field(error, raw, "metadata")
    return None if user is None else _bounded(user, "metadata.user_id")


def _bounded(user: str, name: str) -> str:
    if len(user) > _MAX_USER_CHARS:
        raise InvalidRequest(
            f"{name}: {len(user)} characters given; at most {_MAX_USER_CHARS} are allowed.", param=name
        )
    return user


# What only vLLM's queue and ours know: a key says how urgent its holder may be, so a backend is not told otherwise.
_URGENT: Final = {"priority": frozenset({b"null"})}

CHAT: Final = BodyKind(
    dialect="chat",
    path="/v1/chat/completions",
    body=ChatBody,
    opening=("tools", "functions", "messages"),
    own={**_URGENT, "store": _OFF, "cached_content": frozenset({b"null"})},
    form=_chat_form,
    user=_user,
)
COMPLETIONS: Final = BodyKind(
    dialect="completions",
    path="/v1/completions",
    body=CompletionBody,
    opening=("prompt",),
    own=_URGENT,
    form=_chat_form,
    user=_user,
)
EMBEDDINGS: Final = BodyKind(
    dialect="embeddings",
    path="/v1/embeddings",
    body=EmbeddingBody,
    opening=("input",),
    own=_URGENT,
    bounds=(),
    task=Task.EMBED,
    user=_user,
)
RESPONSES: Final = BodyKind(
    dialect="responses",
    path="/v1/responses",
    body=CreateBody,
    opening=("tools", "instructions", "input"),
    own={
        **_URGENT,
        "previous_response_id": frozenset({b"null"}),
        "conversation": frozenset({b"null"}),
        "background": _OFF,
    },
    form=_inner_form("text"),
    user=_user,
    must_not_store=True,
)
MESSAGES: Final = BodyKind(
    dialect="messages",
    path="/v1/messages",
    body=MessagesBody,
    opening=("tools", "system", "messages"),
    form=_inner_form("output_config"),
    user=_metadata_user,
    session=session_of,
)
COUNT_TOKENS: Final = replace(MESSAGES, path="/v1/messages/count_tokens", task=Task.COUNT, bounds=())
