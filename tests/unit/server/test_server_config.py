"""Limits are checked when they are made, and nobody serves a network without keys."""

import pytest

from headrace.core.errors import InvalidRequest
from headrace.server.config import ServerConfig, check_bind, is_loopback


@pytest.mark.parametrize(
    ("host", "is_own"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.2", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("", False),
    ],
)
def test_without_keys_only_loopback_is_listened_on(host: str, is_own: bool) -> None:
    assert is_loopback(host) is is_own
    config = ServerConfig(host=host)
    check_bind(config, has_keys=True)
    if is_own:
        check_bind(config, has_keys=False)
    else:
        with pytest.raises(InvalidRequest, match="keys file"):
            check_bind(config, has_keys=False)


@pytest.mark.parametrize(
    "fields",
    [
        {"port": -1},
        {"port": 65536},
        {"max_body_bytes": 0},
        {"keep_alive_s": float("nan")},
        {"drain_s": -1},
        {"request_timeout_s": 0},
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        ServerConfig(**fields)
