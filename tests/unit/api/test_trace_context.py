"""W3C Trace Context: what is read, what is as good as not there, and what goes on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from headrace.api.trace_context import read_context, without_context, write_context
from headrace.core.tracing import TraceContext

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{SPAN}-01"


def read(parent: str, *states: str) -> TraceContext | None:
    headers = [(b"traceparent", parent.encode("latin-1"))]
    return read_context([*headers, *((b"tracestate", state.encode("latin-1")) for state in states)])


@pytest.mark.parametrize(
    ("parent", "is_sampled"),
    [
        (GOOD, True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-02", False),  # level 2's flag of random ids
        (f"00-{TRACE}-{SPAN}-ff", True),  # flags that are not known are ignored
        (f" {GOOD}\t", True),
        (f"cc-{TRACE}-{SPAN}-01", True),  # a later version
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_callers_context_is_read(parent: str, is_sampled: bool) -> None:
    assert read(parent) == TraceContext(TRACE, SPAN, is_sampled)


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "00",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00_{TRACE}_{SPAN}_01",
        f"00-{TRACE}-{SPAN}-0g",
        f"{GOOD},{GOOD}",
        f"{GOOD}\n",
        f"0\u00e9-{TRACE}-{SPAN}-01",
    ],
)
def test_what_is_malformed_is_as_good_as_not_there(parent: str) -> None:
    assert read(parent, "a=b") is None


def test_two_parents_are_none() -> None:
    assert read_context([(b"traceparent", GOOD.encode())] * 2) is None
    assert read_context([(b"tracestate", b"a=b")]) is None


@pytest.mark.parametrize(
    ("states", "read_as"),
    [
        (("vendor=opaque",), "vendor=opaque"),
        (("a=1, b=2",), "a=1,b=2"),
        (("a=1", "b=2"), "a=1,b=2"),
        (("a=1,,b=2",), "a=1,b=2"),
        (("tenant@system=x y",), "tenant@system=x y"),
        (("a=1,a=2",), ""),  # a key twice
        (("A=1",), ""),
        (("a",), ""),
        (("a=\u00e9",), ""),
        (("a=b=c",), ""),
        ((",".join(f"k{number}=v" for number in range(33)),), ""),
        ((",".join(f"k{number}={'v' * 30}" for number in range(30)),), ""),  # longer than must be passed on
    ],
)
def test_a_state_is_passed_on_whole_or_not_at_all(states: tuple[str, ...], read_as: str) -> None:
    context = read(GOOD, *states)
    assert context is not None
    assert context.state == read_as
    written = dict(write_context(context))
    assert written.get(b"tracestate", b"") == read_as.encode()


contexts = st.builds(
    TraceContext,
    st.integers(1, 2**128 - 1).map("{:032x}".format),
    st.integers(1, 2**64 - 1).map("{:016x}".format),
    st.booleans(),
    st.sampled_from(["", "a=1", "a=1,b=2"]),
)


@given(contexts)
def test_what_is_written_is_what_is_read_by_us_and_by_opentelemetry(context: TraceContext) -> None:
    headers = write_context(context)
    assert read_context([(b"accept", b"*/*"), *headers]) == context
    carrier = {name.decode(): value.decode() for name, value in headers}
    other = get_current_span(TraceContextTextMapPropagator().extract(carrier)).get_span_context()
    assert (f"{other.trace_id:032x}", f"{other.span_id:016x}") == (context.trace_id, context.span_id)
    assert bool(other.trace_flags.sampled) is context.is_sampled
    assert other.trace_state.to_header() == context.state


@given(st.binary(max_size=80), st.lists(st.binary(max_size=40), max_size=3))
def test_whatever_comes_what_is_read_can_be_sent_on(parent: bytes, states: list[bytes]) -> None:
    context = read_context([(b"traceparent", parent), *((b"tracestate", state) for state in states)])
    if context is not None:
        for _, value in write_context(context):
            assert value.isascii() and value.decode().isprintable()


def test_a_clients_context_leaves_with_ours_in_its_place() -> None:
    headers = [(b"traceparent", GOOD.encode()), (b"accept", b"*/*"), (b"tracestate", b"a=b")]
    assert without_context(headers) == [(b"accept", b"*/*")]
