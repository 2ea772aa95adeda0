"""Which way a request went, as response headers and in the log. Headers tell what is known when they go out.

x-headrace-route        the route that its model's name led to         x-headrace-cost      in the price list's unit
x-headrace-backend      who answered                                   x-headrace-saved     what a cache spared
x-headrace-model        under what name                                x-headrace-cache     exact or semantic
x-headrace-attempts     how many were asked, one after the other       x-headrace-queue-ms, x-headrace-overhead-ms
x-headrace-reason       why they were asked in that order
x-headrace-record       where the answer is recorded, if it is; `link` (RFC 8288) says the same
"""

from functools import lru_cache
from urllib.parse import quote

from headrace.core.gateway import Taken
from headrace.core.usage import NANOS
from headrace.observe.logs import AccessRecord


def taken_headers(taken: Taken) -> list[tuple[bytes, bytes]]:
    """The headers of a response."""
    headers = [(b"x-headrace-attempts", b"%d" % taken.num_attempts)]
    if taken.route:
        headers.append((b"x-headrace-route", _text(taken.route)))
    if taken.reason:
        headers.append((b"x-headrace-reason", _text(taken.reason)))
    if taken.backend:
        headers.append((b"x-headrace-backend", _text(taken.backend)))
    if taken.model:
        headers.append((b"x-headrace-model", _text(taken.model)))
    if taken.cache:
        headers.append((b"x-headrace-cache", _text(taken.cache)))
    if taken.cost_nanos is not None:
        headers.append((b"x-headrace-cost", decimal(taken.cost_nanos)))
    if taken.saved_nanos:
        headers.append((b"x-headrace-saved", decimal(taken.saved_nanos)))
    if taken.receipt is not None:
        record_id = taken.receipt.id.encode("ascii")  # we made it up
        headers.append((b"x-headrace-record", record_id))
        headers.append((b"link", b'</v1/provenance/%b>; rel="describedby"' % record_id))
    headers.append((b"x-headrace-queue-ms", b"%.2f" % (1000 * taken.queue_s)))
    headers.append((b"x-headrace-overhead-ms", b"%.2f" % (1000 * taken.overhead_s)))
    return headers


def note_taken(record: AccessRecord, taken: Taken) -> None:
    """Write into an exchange's record what a gateway knows of it, tokens where nobody else counted them."""
    record.backend = taken.backend or None
    record.num_attempts = taken.num_attempts
    record.cost_nanos = taken.cost_nanos
    record.cache = taken.cache or None
    if not record.prompt_tokens and not record.completion_tokens:
        record.prompt_tokens = taken.prompt_tokens
        record.cached_tokens = taken.cached_tokens
        record.completion_tokens = taken.completion_tokens


def decimal(nanos: int) -> bytes:
    """Billionths as a plain decimal number: no exponent, no digits that say nothing."""
    whole, part = divmod(nanos, NANOS)
    return b"%d" % whole if not part else (b"%d.%09d" % (whole, part)).rstrip(b"0")


@lru_cache(maxsize=1024)
def _text(value: str) -> bytes:
    """A name as a header may hold it: a model's comes from whoever asks for it."""
    return quote(value[:200], safe="/:@+,;=~!$&'()*[] ", errors="replace").encode()
