"""`headrace monitors show` and `reset`, asked of a server that answers as the real one does."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from tests.scripted_services import ScriptedMonitors

from headrace.api.monitors import decode_clear, encode_cleared, encode_monitors
from headrace.cli.monitors import run_reset, run_show
from headrace.cli.residents import Server
from headrace.core.errors import NotFound


class Answering(Server):
    """A server without a socket."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", None, None)
        self.monitors = ScriptedMonitors()

    def ask(self, path: str, body: Mapping[str, Any] | None = None, method: str | None = None) -> Any:
        """As the routes do."""
        if path == "/v1/monitors":
            return json.loads(encode_monitors(self.monitors))
        assert path == "/v1/monitors/clear"
        return json.loads(encode_cleared(self.monitors.clear(decode_clear(json.dumps(body).encode()), "root")))


def test_accounts_are_shown_with_what_is_held_against_them(capsys: pytest.CaptureFixture[str]) -> None:
    run_show(Answering(), json=False)
    header, line = capsys.readouterr().out.splitlines()
    assert header.split() == ["ACCOUNT", "MONITOR", "ACTION", "TIMES", "LAST", "REASON"]
    # In brackets: the monitor only watches.
    assert line.split()[:6] == ["acme/key:k", "theft.bias", "(throttle)", "2", "2023-11-14", "22:15"]


def test_as_json_all_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    run_show(Answering(), json=True)
    assert json.loads(capsys.readouterr().out)["data"][0]["monitor"] == "theft.bias"


def test_inputs_that_nobody_compared_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    server = Answering()
    server.monitors.num_unwatched = 7
    run_show(server, json=False)
    assert capsys.readouterr().err == "7 inputs were not compared: more came than could be.\n"


def test_what_is_taken_back_is_told_and_is_gone(capsys: pytest.CaptureFixture[str]) -> None:
    server = Answering()
    run_reset(server, "acme/key:k")
    assert capsys.readouterr().out == "acme/key:k: 1 taken back: theft.bias\n"
    run_show(server, json=False)
    assert len(capsys.readouterr().out.splitlines()) == 1
    with pytest.raises(NotFound):
        run_reset(server, "acme/key:k")
