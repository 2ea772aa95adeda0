"""What a protocol needs for a remote backend to speak it: five functions in one value, the same for every protocol.

    Request --encode--> body --> (HTTP) --> frames --reader--> events
                                      '--> status >= 400 --read_error--> HeadraceError
    RawBody --reframe--> body --> (HTTP) --> bytes --scanner--> the same bytes, and their usage

An answer in events is always asked for as a stream, so that a reader is all there is to decode; embeddings and scores
come whole. Knows no sockets, no secrets and no clock.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from headrace.core.errors import HeadraceError
from headrace.core.events import Event, Usage
from headrace.core.gateway import Headers, RawBody
from headrace.core.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundCall:
    """An HTTP request to be: `path` goes behind the backend's URL, `headers` are the protocol's own (its version), not
    credentials. `is_stream`: its answer is a stream of server-sent events."""

    path: str
    body: bytes
    is_stream: bool
    headers: Headers = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Quirks:
    """Where a provider departs from the protocol it speaks. `max_tokens_field` is its name of the bound of an answer;
    `drops` are fields that it would refuse; `adds` go into every body that does not have them; `has_usage_option`:
    `stream_options` is understood. `knows` are fields that it takes beyond the protocol (`top_k`, `guided_json`):
    what needs one is refused by name where it is not there, and so is what needs a dropped one."""

    max_tokens_field: str = "max_completion_tokens"
    drops: frozenset[str] = frozenset()
    adds: Mapping[str, object] = field(default_factory=dict)
    has_usage_option: bool = True
    knows: frozenset[str] = frozenset()


class Reader(Protocol):
    """One answer's stream in, events out, in the order that `core.events` states."""

    @property
    def is_done(self) -> bool:
        """True once `Finished` was told."""
        ...

    def feed(self, event: str, data: bytes) -> list[Event]:
        """What one server-sent event says; `event` is its name, empty without one. Raises the error that it carries,
        and UpstreamFault for what is not the protocol."""
        ...

    def end(self) -> list[Event]:
        """The connection is at its end: what is left to say. Raises UpstreamFault if the answer was not whole."""
        ...


class Scanner(Protocol):
    """Bytes of an answer that is passed through: in and out, and what they tell on the way."""

    @property
    def usage(self) -> Usage | None:
        """What was told so far."""
        ...

    @property
    def num_output_bytes(self) -> int:
        """Bytes of data so far, which bound the tokens of the answer."""
        ...

    @property
    def is_done(self) -> bool:
        """Whether the stream has said its last word."""
        ...

    def feed(self, data: bytes) -> bytes:
        """What of these bytes goes on: whole frames only, unchanged, without usage that only we asked for. Raises the
        error that a first frame carries instead of an answer."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundCodec:
    """A protocol. `takes` are the dialects of `RawBody` that it passes through.

    `encode(request, model, quirks)`: raises UnsupportedField for what the protocol cannot say.
    `reader(request, model)`: `model` names the target in `Started`.
    `decode(request, model, body)`: a whole answer (embeddings, scores, counts).
    `reframe(raw, model, max_tokens, quirks)`: the body as it came but for the model's name, the bound of the answer and
    the wish for usage. `scanner(raw)` and `usage_of(body)`: what a stream or a whole answer told.
    `read_error(status, headers, body)`: what a refusal means to our caller; 401 and 403 of a backend are ours to mend,
    and come out as UpstreamFault without its words. `secret_header(secret)`: how credentials are shown.
    """

    name: str
    takes: frozenset[str]
    encode: Callable[[Request, str, Quirks], OutboundCall]
    reader: Callable[[Request, str], Reader]
    decode: Callable[[Request, str, bytes], Iterable[Event]]
    reframe: Callable[[RawBody, str, int | None, Quirks], OutboundCall]
    scanner: Callable[[RawBody], Scanner]
    usage_of: Callable[[bytes], Usage | None]
    read_error: Callable[[int, Headers, bytes], HeadraceError]
    secret_header: Callable[[str], tuple[bytes, bytes]]
