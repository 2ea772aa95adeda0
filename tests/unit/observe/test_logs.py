"""One line of JSON for everything."""

import asyncio
import contextlib
import contextvars
import io
import json
import logging
import re
from collections.abc import Iterator

import pytest
from tests.doubles import ManualClock

from headrace.core.gateway import EXCHANGE_ID
from headrace.core.tracing import TRACE
from headrace.observe.logs import MAX_LINES, AccessRecord, LineHandler, configure_logs, log_access
from headrace.observe.traces import Tracing


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    out = io.StringIO()
    configure_logs("info", out)
    yield out
    root.handlers[:] = before
    root.setLevel(level)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Nobody listens but our own handler, as in a server; pytest's would."""
    root = logging.getLogger()
    before = root.handlers[:]
    root.handlers[:] = [one for one in before if isinstance(one, LineHandler)]
    try:
        yield
    finally:
        for handler in root.handlers:
            handler.flush()
        root.handlers[:] = before


def test_an_exchange_is_one_line_with_its_known_fields_at_the_top(stream: io.StringIO) -> None:
    log_access(AccessRecord(request_id="r1", method="POST", route="/v1/models", status=200, tenant="acme"))
    (line,) = stream.getvalue().splitlines()
    fields = json.loads(line)
    assert (fields["request_id"], fields["status"], fields["tenant"], fields["level"]) == ("r1", 200, "acme", "info")
    assert "model" not in fields
    assert fields["time"].endswith("+00:00")


def test_a_message_with_line_breaks_and_a_traceback_stay_on_one_line(stream: io.StringIO) -> None:
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logging.getLogger("headrace.test").exception("two\nlines")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["message"] == "two\nlines"
    assert "ZeroDivisionError" in json.loads(line)["exception"]


def test_what_is_below_the_level_is_not_written(stream: io.StringIO) -> None:
    logging.getLogger("headrace.test").debug("quiet")
    logging.getLogger("uvicorn.error").info("quiet")
    assert stream.getvalue() == ""


def test_lines_of_exchanges_are_gathered_while_a_loop_runs_and_their_order_stays(stream: io.StringIO) -> None:
    async def main() -> None:
        log_access(AccessRecord(request_id="r1", method="GET"))
        log_access(AccessRecord(request_id="r2", method="GET"))
        assert stream.getvalue() == ""
        logging.getLogger("headrace.test").info("between")
        log_access(AccessRecord(request_id="r3", method="GET"))

    with alone():
        asyncio.run(main())
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line.get("request_id", line["message"]) for line in lines] == ["r1", "r2", "between", "r3"]


def test_many_lines_do_not_wait(stream: io.StringIO) -> None:
    async def main() -> None:
        for _ in range(MAX_LINES):
            log_access(AccessRecord(request_id="r", method="GET"))
        assert len(stream.getvalue().splitlines()) == MAX_LINES

    with alone():
        asyncio.run(main())


def test_a_line_is_the_same_whoever_else_listens(stream: io.StringIO, caplog: pytest.LogCaptureFixture) -> None:
    record = AccessRecord(request_id="r1", method="GET", tenant="acme")
    with alone():
        log_access(record)
    log_access(record)  # by way of a record, for pytest listens
    assert caplog.records
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert {**first, "time": ""} == {**second, "time": ""}


def test_a_line_that_belongs_to_a_request_has_its_id_and_its_place_in_a_trace(stream: io.StringIO) -> None:
    def in_a_request() -> None:
        EXCHANGE_ID.set("req_1")
        logging.getLogger("headrace.test").warning("odd")
        place = Tracing(
            [].append, sample_ratio=1.0, captures_content=False, clock=ManualClock(), draw=lambda _: 255
        ).begin(None)
        TRACE.set(place)
        logging.getLogger("headrace.test").warning("odder")
        log_access(AccessRecord(request_id="req_1", method="GET", trace_id=place.context.trace_id))

    contextvars.copy_context().run(in_a_request)
    logging.getLogger("headrace.test").warning("outside")
    first, second, access, outside = map(json.loads, stream.getvalue().splitlines())
    assert first["request_id"] == "req_1" and "trace_id" not in first
    trace_id, span_id = f"{255:032x}", f"{255:016x}"
    assert (second["request_id"], second["trace_id"], second["span_id"]) == ("req_1", trace_id, span_id)
    assert (access["request_id"], access["trace_id"]) == ("req_1", trace_id)
    assert "request_id" not in outside


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("form", "out", "is_text"),
    [
        ("auto", Terminal, True),
        ("auto", io.StringIO, False),
        ("text", io.StringIO, True),
        ("json", Terminal, False),
    ],
)
def test_people_at_a_terminal_get_text_and_programs_json(
    form: str, out: type[io.StringIO], is_text: bool, stream: io.StringIO
) -> None:
    target = out()
    configure_logs("info", target, form=form)
    with alone():
        log_access(AccessRecord(request_id="r1", method="POST", route="/v1/models", status=200, duration_s=0.5))
        logging.getLogger("headrace.test").warning("two\nlines \x1b[31mred\u202e")
    lines = target.getvalue().splitlines()
    assert len(lines) == 2
    if not is_text:
        assert [json.loads(line)["message"] for line in lines] == ["request", "two\nlines \x1b[31mred\u202e"]
        return
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d info    headrace\.access request request_id=r1 method=POST route=/v1/models status=200 "
        r"outcome=ok prompt_tokens=0 cached_tokens=0 completion_tokens=0 duration_s=0\.5",
        lines[0],
    )
    # What others wrote neither ends a line nor speaks to the terminal.
    assert lines[1].endswith(r"warning headrace.test two\nlines \x1b[31mred\u202e")


def test_a_traceback_at_a_terminal_has_its_lines_and_nothing_that_speaks_to_it(stream: io.StringIO) -> None:
    def fail() -> None:
        raise ValueError("a name with \x1b]0;a title\x07 in it")

    target = Terminal()
    configure_logs("info", target, form="text")
    try:
        fail()
    except ValueError:
        with alone():
            logging.getLogger("headrace.test").exception("a defect")
    lines = target.getvalue().splitlines()
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == r"ValueError: a name with \x1b]0;a title\x07 in it"
