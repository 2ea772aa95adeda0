"""What a row about a route in the OpenAPI document looks like. Values only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

EVENTS: Final = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Operation:
    """A method of a path. `media` are the kinds of its answer that are no JSON, `takes` the kind of its body, without
    which a request is refused if it `needs_body`."""

    summary: str
    body: Any = None
    answer: Any = None
    media: tuple[str, ...] = ()
    query: Mapping[str, Any] = field(default_factory=dict)
    takes: str = "application/json"
    needs_body: bool = True

    def types(self) -> Iterator[Any]:
        """Every type that it names."""
        yield from (one for one in (self.body, self.answer, *self.query.values()) if one is not None)
