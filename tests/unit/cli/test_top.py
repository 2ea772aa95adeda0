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
from headrace.cli.top_past import COLUMN_S, COLUMNS, Past
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


def remembered(end_s: float, tokens: int, span_s: float = 5.0) -> dict[str, Any]:
    return {"time_ms": 1000 * end_s, "span_ms": 1000 * span_s, "output_tokens": tokens, "read_tokens": 0}


def with_past(frame: Any, now_s: float, *samples: dict[str, Any]) -> Any:
    return copy.deepcopy(frame) | {"time_ms": 1000 * now_s, "history": {"samples": list(samples)}}


def test_the_past_begins_with_what_the_server_remembers_and_goes_on_with_frames(frame: Any) -> None:
    past, now_s = Past(), 100 * COLUMN_S + 10
    past.add(frame, None)
    assert past.lines(frame["time_ms"] / 1000) == []
    samples = [remembered(now_s - COLUMN_S * column, 5 * rate) for column, rate in ((6, 70), (5, 70), (3, 10), (2, 0))]
    first = with_past(frame, now_s, remembered(now_s - COLUMN_S * COLUMNS - 60, 999), *samples)
    past.add(first, None)
    out, read = past.lines(now_s)
    assert out == f"OUT/S {' ' * (COLUMNS - 7)}██ ▂▁   15 min, up to 70"
    assert read == f"IN/S  {' ' * (COLUMNS - 7)}▁▁ ▁▁   15 min, up to 0"
    second = copy.deepcopy(frame) | {"time_ms": 1000 * (now_s + 2)}
    second["models"][0]["totals"]["output_tokens"] += 280
    past.add(second, first)
    assert past.lines(now_s + 2)[0] == f"OUT/S {' ' * (COLUMNS - 7)}▅▅ ▂▁ █ 15 min, up to 140"
    # The server was away, and tells what it remembers once more: what is known is not counted twice.
    past.add(with_past(frame, now_s + 3, *samples), None)
    assert past.lines(now_s + 3)[0].endswith("▅▅ ▂▁ █ 15 min, up to 140")
    console = Console(width=110, record=True, file=io.StringIO())
    console.print(draw(second, first, 40, past))
    assert f"OUT/S {' ' * (COLUMNS - 7)}▅▅ ▂▁ █ 15 min, up to 140" in console.export_text()


def test_nothing_of_the_past_is_later_than_now_when_the_clock_was_set_back(frame: Any) -> None:
    past, now_s = Past(), 100 * COLUMN_S + 10
    past.add(with_past(frame, now_s + 3600, remembered(now_s + 3600, 999)), None)
    past.add(with_past(frame, now_s, remembered(now_s - COLUMN_S, 50), remembered(now_s + 3600, 999)), None)
    assert past.lines(now_s)[0] == f"OUT/S {' ' * (COLUMNS - 2)}█  15 min, up to 10"


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
        assert path in ("/v1/live?once=true", "/v1/live?history=true&once=true")
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
