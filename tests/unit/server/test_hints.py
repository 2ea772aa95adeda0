"""Our own headers reach the backend, and a wrong one is refused by name."""

import pytest
from tests.doubles_http import Client, Reply, ScriptedBackend, answer, chat, make_app, run

from headrace.core.errors import InvalidRequest
from headrace.server.config import ServerConfig
from headrace.server.hints import Hints, read_hints


def ask(headers: dict[str, str], limit_s: float | None = 600.0) -> tuple[Reply, ScriptedBackend]:
    backend = ScriptedBackend(answer("x"))
    client = Client(
        make_app(backend, ServerConfig(request_timeout_s=limit_s)), "POST", "/v1/chat/completions", chat(), headers
    )

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply, backend


def test_hints_reach_the_backend_with_the_request() -> None:
    headers = {"x-headrace-session": "s-1", "X-Headrace-Parent": "chatcmpl-7", "x-headrace-explain": "cache"}
    _, backend = ask(headers)
    (request,) = backend.requests
    assert (request.session, request.parent, request.cache.explain) == ("s-1", "chatcmpl-7", True)
    _, backend = ask({})
    (request,) = backend.requests
    assert (request.session, request.parent, request.cache.explain) == (None, None, False)


@pytest.mark.parametrize(
    ("given", "limit_s", "deadline_s"),
    [("2.5", 600.0, 2.5), ("700", 600.0, 600.0), ("700", None, 700.0), (None, None, None), ("0.001", 1.0, 0.001)],
)
def test_a_request_may_shorten_the_servers_time_limit_and_not_lengthen_it(
    given: str | None, limit_s: float | None, deadline_s: float | None
) -> None:
    _, backend = ask({} if given is None else {"x-headrace-timeout": given}, limit_s)
    assert backend.requests[0].limits.deadline_s == deadline_s


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-headrace-session", ""),
        ("x-headrace-session", "a b"),
        ("x-headrace-session", "x" * 129),
        ("x-headrace-parent", "caf\xe9"),
        ("x-headrace-parent", "a\x01"),
        ("x-headrace-explain", "everything"),
        ("x-headrace-timeout", "0"),
        ("x-headrace-timeout", "-1"),
        ("x-headrace-timeout", "nan"),
        ("x-headrace-timeout", "inf"),
        ("x-headrace-timeout", "1e3"),
        ("x-headrace-timeout", ""),
        ("x-headrace-timeout", "9" * 400),
    ],
)
def test_a_header_that_is_not_understood_is_refused_by_name(name: str, value: str) -> None:
    reply, backend = ask({name: value})
    assert (reply.status, reply.error()["param"], reply.error()["code"]) == (400, name, "invalid_value")
    assert reply.error()["message"].startswith(f"{name}: ")
    assert backend.requests == []


def test_the_longest_id_and_the_longest_time_are_taken() -> None:
    found = read_hints({b"x-headrace-session": b"~" * 128, b"x-headrace-timeout": b"9999999.999999"})
    assert found == Hints(session="~" * 128, timeout_s=9_999_999.999999)
    with pytest.raises(InvalidRequest):
        read_hints({b"x-headrace-session": b"\x7f"})
