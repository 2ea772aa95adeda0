"""One line of JSON for everything."""

import asyncio
import contextlib
import io
import json
import logging
from collections.abc import Iterator

import pytest

from headrace.observe.logs import MAX_LINES, AccessRecord, LineHandler, configure_logs, log_access


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
