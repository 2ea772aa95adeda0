"""What accounts write into their journal, as bytes: who writes, what was reserved, how it was settled.

    [0, run, boot, [column...]]                                         opens a generation
    [1, number, [mark...], request's values..., prompt, tokens, nanos]  reserved: the bound of a request
    [2, number, [mark...], [value...]]                                  settled: a usage record's values by column

A frame says everything that it takes to charge it, so that settings may have changed before it is read. What was
reserved and not settled when its process ended is charged whole, as `interrupted`. Values in, values out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Final

import msgspec

from headrace.core.errors import InvalidRequest, Unavailable
from headrace.core.shape import Shape
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Bound
from headrace.memory.usage import COLUMNS, Entry, Mark, values_of

_OPEN: Final = 0
_RESERVED: Final = 1
_SETTLED: Final = 2
INTERRUPTED: Final = "interrupted"

MAX_NANOS: Final = 10**14
MAX_TOKENS: Final = 10**10
"""What one request can be charged: a hundred thousand of the price list's unit. A backend that tells more is wrong, and
nothing that adds up to it would fit a database's numbers."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_FIELDS: Final = {field.name: field.default for field in fields(UsageRecord)}


@dataclass(frozen=True, slots=True)
class Replayed:
    """What processes that ended here had settled, and what they had not."""

    settled: tuple[Entry, ...]
    interrupted: tuple[Entry, ...]


def encode_open(run: int, boot: str) -> bytes:
    """The first frame of a generation."""
    return _encode((_OPEN, run, boot, COLUMNS))


def encode_reserved(
    number: int, marks: tuple[Mark, ...], shape: Shape, route: str, started_s: float, bound: Bound
) -> bytes:
    """A request that was let through. Raises InvalidRequest for names that are no text."""
    principal = shape.principal
    try:
        return _encode(
            (
                _RESERVED,
                number,
                marks,
                shape.id,
                started_s,
                principal.tenant,
                principal.key,
                principal.user,
                shape.tags,
                shape.task.value,
                shape.model,
                route,
                shape.prompt_bound,
                min(bound.tokens, MAX_TOKENS),
                min(bound.nanos, MAX_NANOS),
            )
        )
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"model, user or tags: {error.object[:100]!r} is no text; send valid Unicode.") from error


def tame(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """A record's values as they can be kept: numbers within bounds, texts without halves of characters."""
    return tuple([_tamed(name, value) for name, value in zip(COLUMNS, values, strict=True)])


def _tamed(name: str, value: Any) -> Any:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return min(value, MAX_NANOS if name.endswith("_nanos") else MAX_TOKENS)
    if isinstance(value, tuple):
        return tuple([_tamed(name, one) for one in value])
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def encode_settled(number: int, marks: tuple[Mark, ...], values: tuple[Any, ...]) -> bytes:
    """How a request ended."""
    return _encode((_SETTLED, number, marks, values))


def replay(payloads: Iterable[bytes]) -> Replayed:
    """What a journal holds. Raises Unavailable for frames that another version wrote and this one cannot read."""
    settled: dict[int, Entry] = {}
    reserved: dict[int, Entry] = {}
    columns: list[str] = list(COLUMNS)
    for payload in payloads:
        try:
            kind, *rest = _decode(payload)
            if kind == _OPEN:
                columns = rest[2]
            elif kind == _RESERVED:
                reserved[rest[0]] = Entry(rest[0], _marks(rest[1]), _interrupted(*rest[2:]))
            elif kind == _SETTLED:
                settled[rest[0]] = Entry(rest[0], _marks(rest[1]), _values(columns, rest[2]))
            else:
                raise ValueError(kind)  # noqa: TRY301 - one sentence for all that cannot be read
        except (msgspec.DecodeError, ValueError, TypeError, IndexError) as error:
            raise Unavailable(
                f"The journal of usage holds a frame that this version cannot read ({error!r}); start the version that "
                "wrote it and end it, which empties the journal.",
                code="journal_unavailable",
            ) from error
    return Replayed(
        tuple(settled.values()), tuple(entry for number, entry in reserved.items() if number not in settled)
    )


def interrupted(payload: bytes) -> UsageRecord:
    """What the frame of a reservation is charged as if nothing else is known of it."""
    (entry,) = replay([payload]).interrupted
    return UsageRecord(**dict(zip(COLUMNS, entry.values, strict=True)))


def _marks(found: list[list[Any]]) -> tuple[Mark, ...]:
    return tuple((subject, window, start_s) for subject, window, start_s in found)


def _values(columns: list[str], values: list[Any]) -> tuple[Any, ...]:
    """Values by the columns of the version that wrote them, as this one has them."""
    found = dict(zip(columns, values, strict=True))
    return tuple(found.get(name, default) for name, default in _FIELDS.items())


def _interrupted(*values: Any) -> tuple[Any, ...]:
    request_id, started_s, tenant, key, user, tags, task, model, route, prompt, tokens, nanos = values
    prompt = min(prompt, tokens)
    return tuple(
        values_of(
            UsageRecord(
                request_id=request_id,
                started_s=started_s,
                tenant=tenant,
                key=key,
                user=user,
                tags=tuple(tags),
                task=task,
                asked_model=model,
                route=route,
                num_attempts=1,
                outcome=INTERRUPTED,
                prompt_tokens=prompt,
                completion_tokens=tokens - prompt,
                cost_nanos=nanos,
                is_estimated=True,
            )
        )
    )
