"""What a server shows of itself while it runs: `GET /v1/live`, one frame a second, and what was before. Ours; counts,
names and times, never a prompt or an answer.

Times are whole milliseconds, and only `time_ms`, `ended_ms` and `since_ms` are Unix time; `_tokens`, `num_` are counts.
Sums never fall while a model stays in memory, so that rates are differences of two frames. Knows no server and no
engine.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from headrace.core.errors import InvalidRequest
from headrace.core.watching import LiveDisk, LiveEngine, LiveModel, LiveTree

EVENT: Final = "frame"
MAX_MODELS: Final = 100


class TotalsAnswer(msgspec.Struct):
    """Sums since the model came into memory: over its steps, and over its admitted requests."""

    num_steps: int
    num_sequences: int
    num_tokens: int
    native_ms: int
    prompt_tokens: int
    reused_tokens: int
    read_tokens: int
    output_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    num_preempted: int


class PagesAnswer(msgspec.Struct):
    """Pages of keys and values: used by requests or kept by sessions, cached for later, or free (the rest)."""

    page_tokens: int
    total: int
    used: int
    cached: int
    pinned: int


class TreeRunAnswer(msgspec.Struct):
    """Tokens of the prefix tree that follow each other; `parent` is a place in the same list, -1: none."""

    parent: int
    tenant: str
    num_tokens: int
    num_users: int
    num_uses: int
    idle_ms: int
    is_pinned: bool


class TreeAnswer(msgspec.Struct):
    """The prefix tree, as far as it is shown; `rest_tokens` are not."""

    num_tokens: int
    rest_tokens: int
    runs: list[TreeRunAnswer]


class TenantAnswer(msgspec.Struct):
    """What of a tenant's prompts was found in the tree. Without a name: all others together."""

    tenant: str
    prompt_tokens: int
    reused_tokens: int


class LiveModelAnswer(msgspec.Struct):
    """One model, or the part of it that pools."""

    id: str
    state: Literal["absent", "waiting", "loading", "ready", "leaving"]
    is_pooled: bool
    num_running: int
    num_waiting: int
    max_running: int
    totals: TotalsAnswer
    pages: PagesAnswer
    tree: TreeAnswer
    tenants: list[TenantAnswer]


class LiveDiskAnswer(msgspec.Struct):
    """The disk tier of the prefix cache."""

    num_pages: int
    num_bytes: int
    max_bytes: int


class LiveRequest(msgspec.Struct, kw_only=True):
    """A request that is open. `begun_ms` after its arrival its prompt began to be read, `first_ms` after it the first
    of its answer was there; None: not yet, or not known. `id` is its x-request-id, None of work without one."""

    id: str | None
    tenant: str | None
    key: str | None
    model: str | None
    backend: str | None
    route: str
    phase: Literal["waiting", "queued", "prefill", "decode", "streaming"]
    age_ms: int
    begun_ms: int | None = None
    first_ms: int | None = None
    prompt_tokens: int = 0
    computed_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    priority: int = 0


class EndedRequest(msgspec.Struct, kw_only=True):
    """A request that ended since the last frame. `outcome` is ok, cancelled or an error's code."""

    id: str
    tenant: str | None
    key: str | None
    model: str | None
    backend: str | None
    route: str
    outcome: str
    status: int
    ended_ms: int
    duration_ms: int
    begun_ms: int | None
    first_ms: int | None
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class LatencyAnswer(msgspec.Struct):
    """How often a time fell under a bound and not under the one before, since the last frame; the last count is of what
    is above all bounds."""

    bounds_ms: list[int]
    counts: list[int]


class LatenciesAnswer(msgspec.Struct):
    """Times to the first token, one for each request that got it, and between two tokens, one for each token."""

    first_token: LatencyAnswer
    between_tokens: LatencyAnswer


class LiveServer(msgspec.Struct):
    """The server itself. `num_open` are all HTTP requests that are open, this one among them."""

    version: str
    phase: Literal["starting", "ready", "draining"]
    uptime_ms: int
    num_open: int
    num_viewers: int


class LiveSample(msgspec.Struct, kw_only=True):
    """What all models did together in the `span_ms` before `time_ms`, and how many ran and waited and what pages were
    used at its end. How often a time fell under which bound is told as in `latency`; nothing at all is an empty list.
    Without an engine `output_tokens` are those that passed, and what runs is what was open."""

    time_ms: int
    span_ms: int
    output_tokens: int = 0
    read_tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    num_steps: int = 0
    num_sequences: int = 0
    num_running: int = 0
    num_waiting: int = 0
    total_pages: int = 0
    used_pages: int = 0
    cached_pages: int = 0
    first_token: list[int] = []
    between_tokens: list[int] = []


class LiveHistory(msgspec.Struct):
    """What was before: samples, the oldest first, about one in `interval_ms`. Where they do not touch, nothing is
    known. There are none from before `since_ms`, when the server began to take them."""

    since_ms: int
    interval_ms: int
    samples: list[LiveSample]


class LiveFrame(msgspec.Struct, kw_only=True):
    """How a server is at one moment, and what happened since the frame before. `engine_age_ms`: how old `models` are,
    which is more than a moment if a step takes long; None without an engine. `history`: in the first frame, if it was
    asked for."""

    object: Literal["live.frame"] = "live.frame"
    time_ms: int
    interval_ms: int
    server: LiveServer
    engine_age_ms: int | None
    models: list[LiveModelAnswer]
    models_left_out: int
    disk: LiveDiskAnswer | None
    requests: list[LiveRequest]
    requests_left_out: int
    ended: list[EndedRequest]
    ended_left_out: int
    latency: LatenciesAnswer
    history: LiveHistory | msgspec.UnsetType = msgspec.UNSET


_encode = msgspec.json.Encoder().encode


def encode_live(frame: LiveFrame) -> bytes:
    """A frame by itself."""
    return _encode(frame)


def encode_live_event(data: bytes) -> bytes:
    """An encoded frame as a server-sent event."""
    return b"event: " + EVENT.encode() + b"\ndata: " + data + b"\n\n"


def encode_sample(sample: LiveSample) -> bytes:
    """A sample by itself."""
    return _encode(sample)


def encode_history(since_ms: int, interval_ms: int, samples: Iterable[bytes]) -> bytes:
    """A LiveHistory of encoded samples."""
    return b'{"since_ms":%d,"interval_ms":%d,"samples":[%b]}' % (since_ms, interval_ms, b",".join(samples))


def add_history(frame: bytes, history: bytes) -> bytes:
    """An encoded frame that has none, with an encoded history."""
    return frame[:-1] + b',"history":' + history + b"}"


@dataclass(frozen=True, slots=True)
class LiveQuery:
    """One frame as JSON and not a stream of them (`once`); in the first frame what was before, too (`history`)."""

    once: bool = False
    history: bool = False


def decode_live_query(query: Mapping[str, list[str]]) -> LiveQuery:
    """What is asked for. Raises InvalidRequest."""
    for name in query:
        if name not in LiveQuery.__slots__:
            raise InvalidRequest(f"{name[:50]}: is no field of this query; use once or history.", param=name[:50])
    return LiveQuery(**{name: _flag(name, values[0]) for name, values in query.items()})


def _flag(name: str, value: str) -> bool:
    if value.lower() not in ("true", "false"):
        raise InvalidRequest(f"{name}: {value[:50]!r} given; use true or false.", param=name)
    return value.lower() == "true"


def milliseconds(seconds: float) -> int:
    """Whole ones."""
    return round(1000 * seconds)


def model_answers(engine: LiveEngine) -> list[LiveModelAnswer]:
    """The first models of an engine, those in memory before all others."""
    return [_model(one) for one in engine.models[:MAX_MODELS]]


def disk_answer(disk: LiveDisk | None) -> LiveDiskAnswer | None:
    """The disk tier, if there is one."""
    return None if disk is None else LiveDiskAnswer(disk.num_pages, disk.num_bytes, disk.max_bytes)


def _model(one: LiveModel) -> LiveModelAnswer:
    totals, pages = one.totals, one.pages
    state: Any = one.state
    return LiveModelAnswer(
        id=one.name,
        state=state,
        is_pooled=one.is_pooled,
        num_running=one.num_running,
        num_waiting=one.num_waiting,
        max_running=one.max_running,
        totals=TotalsAnswer(
            num_steps=totals.num_steps,
            num_sequences=totals.num_sequences,
            num_tokens=totals.num_tokens,
            native_ms=milliseconds(totals.native_s),
            prompt_tokens=totals.prompt_tokens,
            reused_tokens=totals.reused_tokens,
            read_tokens=totals.read_tokens,
            output_tokens=totals.output_tokens,
            drafted_tokens=totals.drafted_tokens,
            accepted_tokens=totals.accepted_tokens,
            num_preempted=totals.num_preempted,
        ),
        pages=PagesAnswer(pages.page_tokens, pages.total, pages.used, pages.cached, pages.pinned),
        tree=_tree(one.tree, one.taken_s),
        tenants=[TenantAnswer(hits.tenant, hits.prompt_tokens, hits.reused_tokens) for hits in one.tenants],
    )


def _tree(tree: LiveTree, now_s: float) -> TreeAnswer:
    runs = [
        TreeRunAnswer(
            run.parent,
            run.tenant,
            run.num_tokens,
            run.num_users,
            run.num_uses,
            milliseconds(max(0.0, now_s - run.used_s)),
            run.is_pinned,
        )
        for run in tree.runs
    ]
    return TreeAnswer(tree.num_tokens, tree.num_tokens - sum(run.num_tokens for run in runs), runs)
