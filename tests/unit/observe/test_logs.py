"""One line of JSON for everything."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from headrace.observe.logs import AccessRecord, configure_logs, log_access


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    out = io.StringIO()
    configure_logs("info", out)
    yield out
    root.handlers[:] = before
    root.setLevel(level)


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
