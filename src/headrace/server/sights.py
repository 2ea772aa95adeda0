"""Open and ended requests as whoever watches sees them: what the server knows of each, and what the engine does.

Values in, values out; bounded whatever is open. Never a prompt or an answer. Knows no viewers.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.api.live import EndedRequest, LiveRequest, milliseconds
from headrace.core.watching import LiveEngine, LiveSequence, Phase
from headrace.server.latencies import Progress
from headrace.server.tally import Open

MAX_SHOWN: Final = 200

# Of the sequences of one request the one that is furthest says where it is.
_ORDER: Final = (Phase.QUEUED, Phase.PREFILL, Phase.DECODE)


@dataclass(frozen=True, slots=True)
class Sight:
    """An open request as it is shown, and how far its answer is. `one` is None for work that no client waits for."""

    one: Open | None
    shown: LiveRequest
    progress: Progress


@dataclass(frozen=True, slots=True)
class Sights:
    """Those that are shown, and how many are not."""

    shown: tuple[Sight, ...]
    num_left_out: int


def see(all_open: Iterable[Open], engine: LiveEngine | None, now_s: float) -> Sights:
    """Every request to a model that is open at `now_s`, and what the engine does for nobody who waits."""
    inside = _by_origin(engine)
    asked = [one for one in all_open if one.record.model is not None]
    sights = [_sight(one, inside.pop(one, ()), now_s) for one in asked[:MAX_SHOWN]]
    for one in asked[MAX_SHOWN:]:
        inside.pop(one, None)
    others = [_unattended(origin, name, one) for origin, members in inside.items() for name, one in members]
    room = MAX_SHOWN - len(sights)
    sights += others[:room]
    return Sights(tuple(sights), len(asked) + len(others) - len(sights))


def ended_request(one: Open, unix_s: float) -> EndedRequest | None:
    """A request that has just ended, at `unix_s`; None for what asked no model."""
    record = one.record
    if record.model is None:
        return None
    return EndedRequest(
        id=record.request_id,
        tenant=record.tenant,
        key=record.key,
        model=record.model,
        backend=record.backend,
        route=record.route,
        outcome=record.outcome,
        status=record.status,
        ended_ms=milliseconds(unix_s),
        duration_ms=milliseconds(record.duration_s),
        begun_ms=_ms(record.begun_s),
        first_ms=_ms(record.ttft_s),
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        output_tokens=record.completion_tokens,
    )


def ended_progress(one: Open) -> Progress:
    """How far the answer of a request went that has ended."""
    first_s = one.record.ttft_s
    return Progress(None if first_s is None else one.started_s + first_s, one.record.completion_tokens)


Named = tuple[str, LiveSequence]


def _by_origin(engine: LiveEngine | None) -> dict[object, Sequence[Named]]:
    found: Mapping[object, list[Named]] = defaultdict(list)
    for model in () if engine is None else engine.models:
        for one in model.sequences:
            found[one.origin].append((model.name, one))
    return dict(found)


def _sight(one: Open, members: Sequence[Named], now_s: float) -> Sight:
    record, age_s = one.record, now_s - one.started_s
    inside = sorted((member for _, member in members), key=lambda member: -member.computed_tokens)
    leader = inside[0] if inside else None  # choices of one request share their prompt, which is told once
    output_tokens = max(record.completion_tokens, sum(member.output_tokens for member in inside))
    phase = Phase.STREAMING if record.ttft_s is not None else Phase.WAITING
    if inside:
        phase = max((member.phase for member in inside), key=_ORDER.index)
    shown = LiveRequest(
        id=record.request_id,
        tenant=record.tenant,
        key=record.key,
        model=record.model,
        backend=record.backend,
        route=record.route,
        phase=phase.value,
        age_ms=milliseconds(age_s),
        begun_ms=_ms(record.begun_s),
        first_ms=_ms(record.ttft_s),
        prompt_tokens=record.prompt_tokens,
        cached_tokens=record.cached_tokens,
        output_tokens=output_tokens,
    )
    if leader is not None:
        _add(shown, leader, age_s - leader.age_s)
    first_s = None if shown.first_ms is None else one.started_s + shown.first_ms / 1000
    return Sight(one, shown, Progress(first_s, output_tokens))


def _add(shown: LiveRequest, leader: LiveSequence, came_s: float) -> None:
    """What the engine knows of an open request, into which it came after `came_s`."""
    if shown.begun_ms is None and leader.begun_s is not None:
        shown.begun_ms = milliseconds(came_s + leader.begun_s)
    if shown.first_ms is None and leader.first_s is not None:
        shown.first_ms = milliseconds(came_s + leader.first_s)
    shown.prompt_tokens = max(shown.prompt_tokens, leader.prompt_tokens)
    shown.cached_tokens = max(shown.cached_tokens, leader.reused_tokens)
    shown.computed_tokens = leader.computed_tokens
    shown.priority = leader.priority


def _unattended(origin: object, model: str, inside: LiveSequence) -> Sight:
    """A line of a batch, or a response whose client has left it running: only the engine knows how far it is."""
    record = origin.record if isinstance(origin, Open) else None
    shown = LiveRequest(
        id=None if record is None else record.request_id,
        tenant=inside.tenant,
        key=None if record is None else record.key,
        model=model,
        backend=None,
        route="" if record is None else record.route,
        phase=inside.phase.value,
        age_ms=milliseconds(inside.age_s),
        begun_ms=_ms(inside.begun_s),
        first_ms=_ms(inside.first_s),
        prompt_tokens=inside.prompt_tokens,
        computed_tokens=inside.computed_tokens,
        cached_tokens=inside.reused_tokens,
        output_tokens=inside.output_tokens,
        priority=inside.priority,
    )
    return Sight(None, shown, Progress(None, inside.output_tokens))


def _ms(seconds: float | None) -> int | None:
    return None if seconds is None else milliseconds(seconds)
