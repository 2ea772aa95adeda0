"""`headrace top`: what a frame looks like in a terminal, and that a server which goes away is waited for."""

import copy
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from tests.doubles_http import Client, ScriptedBackend, answer, make_app, run
from tests.scripted_services import ScriptedWatching

from headrace.cli.residents import Server
from headrace.cli.top import draw, follow, run_top
from headrace.core.errors import InvalidRequest, Unavailable

FAR = {"tenant": "acme", "key": "k", "backend": "far", "route": "/v1/chat/completions", "begun_ms": None}


@pytest.fixture
def frame() -> Any:
    """One that the server makes."""
    app = make_app(ScriptedBackend(answer("x")), watching=ScriptedWatching())
    client = Client(app, "GET", "/v1/live?once=true")

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply.json()


def lines(frame: Any, before: Any = None, height: int = 40, width: int = 110) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(draw(frame, before, height))
    return console.export_text().splitlines()


def request(name: str, **more: Any) -> dict[str, Any]:
    numbers = {"age_ms": 61_000, "first_ms": None, "prompt_tokens": 30, "computed_tokens": 12, "cached_tokens": 0}
    return FAR | numbers | {"id": name, "model": "m", "phase": "prefill", "output_tokens": 0, "priority": 0} | more


def test_a_frame_tells_of_models_requests_and_hits(frame: Any) -> None:
    frame["requests"] = [request("req_1")]
    head, columns, model, phases, one, hits = lines(frame)
    assert head.startswith("Headrace 1.2.3, ready, up 0.0 s")
    assert columns.split() == ["MODEL", "STATE", "RUN", "WAIT", "OUT/S", "IN/S", "BATCH", "PAGES", "HITS"]
    assert model.split()[:7] == ["scripted", "ready", "0", "0", "-", "-", "-"]
    assert phases.split()[0] == "PHASE"
    assert one.split() == [
        "prefill",
        "1",
        "min",
        "1",
        "s",
        "12/30",
        "0",
        "0",
        "acme",
        "/",
        "k",
        "m",
        "at",
        "far",
        "req_1",
    ]
    assert hits.strip() == "cache hits: local 80 %"


def test_rates_are_what_was_done_since_the_frame_before(frame: Any) -> None:
    after = copy.deepcopy(frame)
    after["time_ms"] += 2000
    after["models"][0]["totals"] |= {"output_tokens": 50, "read_tokens": 400, "num_steps": 10, "num_sequences": 25}
    assert lines(after, frame)[2].split()[4:7] == ["25", "200", "2.5"]
    # A model that left and came back counts from nothing.
    assert lines(frame, after)[2].split()[4:7] == ["-", "-", "-"]


def test_what_has_no_room_is_counted(frame: Any) -> None:
    frame["requests"] = [request(f"req_{number}") for number in range(50)]
    frame["requests_left_out"] = 7
    told = lines(frame, height=22)
    assert sum("req_" in line for line in told) == 10
    assert "and 47 more" in told


def test_names_cannot_steer_the_terminal(frame: Any) -> None:
    frame["requests"] = [request("req_1", model="[red]\x1b[2J\x07m")]
    told = "\n".join(lines(frame))
    assert "\x1b" not in told and "\x07" not in told
    assert "[red]" in told


class Flaky(Server):
    """A server that gives what it is told, and then goes away."""

    def __init__(self, *turns: Any) -> None:
        super().__init__("http://127.0.0.1:1", None, None)
        self.turns = list(turns)

    def ask(self, path: str, *_: Any, **__: Any) -> Any:
        assert path == "/v1/live?once=true"
        return self.turns[0][0]

    def events(self, path: str, silence_s: float = 30.0) -> Iterator[str]:
        assert path == "/v1/live"
        turn = self.turns.pop(0)
        if isinstance(turn, Exception):
            raise turn
        yield from map(json.dumps, turn)


def test_a_server_that_goes_away_is_waited_for_with_growing_pauses() -> None:
    gone = Unavailable("no server")
    server = Flaky([{"n": 1}, {"n": 2}], gone, gone, [{"n": 3}], InvalidRequest("the key was taken back"))
    pauses: list[float] = []
    told: list[Any] = []
    with pytest.raises(InvalidRequest):
        for one in follow(server, pauses.append):
            told.append(one)  # noqa: PERF402 - what came before it was refused counts
    assert told == [{"n": 1}, {"n": 2}, None, None, None, {"n": 3}, None]
    assert pauses == [1.0, 2.0, 4.0, 1.0]


def test_a_server_that_never_came_is_told_at_once() -> None:
    with pytest.raises(Unavailable):
        list(follow(Flaky(Unavailable("no server")), lambda _: None))


def test_once_prints_one_frame(frame: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run_top(Flaky([frame]), once=True, json=True)
    assert json.loads(capsys.readouterr().out) == frame
    run_top(Flaky([frame]), once=True, json=False)
    assert "scripted" in capsys.readouterr().out
