"""`headrace top`: the frames of a running server's `GET /v1/live`, drawn in a terminal once a second.

What names and ids hold is shown as text, whatever it is. A server that goes away is waited for, with growing pauses.
"""

import json as jsonlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from headrace.cli.generate import printable
from headrace.cli.residents import Server
from headrace.cli.top_past import Past
from headrace.core.errors import Unavailable

PATH: Final = "/v1/live"
PATH_WITH_PAST: Final = f"{PATH}?history=true"
Frame = Mapping[str, Any]

_COLOURS: Final = {"waiting": "yellow", "queued": "yellow", "prefill": "blue", "decode": "green", "streaming": "green"}
_BAR: Final = 8
_PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0)


def run_top(server: Server, *, once: bool, json: bool) -> None:
    """Draw until Ctrl-C, or once; as JSON one frame a line. Raises HeadraceError if no server answers at first."""
    if once:
        if json:
            typer.echo(jsonlib.dumps(server.ask(f"{PATH}?once=true")))
            return
        frame, past = server.ask(f"{PATH_WITH_PAST}&once=true"), Past()
        past.add(frame, None)
        Console(file=sys.stdout).print(draw(frame, None, 10_000, past))
        return
    frames = follow(server, time.sleep, PATH if json else PATH_WITH_PAST)
    try:
        if json:
            for frame in frames:
                if frame is not None:
                    typer.echo(jsonlib.dumps(frame))
            return
        _draw_all(frames, server.url)
    except KeyboardInterrupt:
        return


def follow(server: Server, sleep: Callable[[float], None], path: str = PATH) -> Iterator[Frame | None]:
    """Frames of `path` as they come; None each time that the server has gone away. Raises HeadraceError if it never
    came, or does not let us watch any more."""
    failures, has_come = 0, False
    while True:
        try:
            for data in server.events(path):
                failures, has_come = 0, True
                yield jsonlib.loads(data)
        except Unavailable:
            if not has_come:
                raise
        yield None
        sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])
        failures += 1


def _draw_all(frames: Iterator[Frame | None], url: str) -> None:
    console = Console()
    before: Frame | None = None
    past = Past()
    with Live(console=console, auto_refresh=False, screen=console.is_terminal) as live:
        for frame in frames:
            if frame is None:
                live.update(Text(f"No server answers at {url}; waiting for it.", "yellow"), refresh=True)
                before = None
                continue
            past.add(frame, before)
            live.update(draw(frame, before, console.height, past), refresh=True)
            before = frame


def draw(frame: Frame, before: Frame | None, height: int, past: Past | None = None) -> Group:
    """A frame, with rates since the one before it and those of the past, in so many lines of a terminal."""
    models = _models(frame, before)
    rates = [] if past is None else past.lines(frame["time_ms"] / 1000)
    room = max(3, height - 2 * len(frame["models"]) - len(rates) - 10)
    lines = [Text(line, "dim", no_wrap=True, overflow="crop") for line in rates]
    return Group(_head(frame), models, *lines, _requests(frame, room), _tenants(frame))


def _head(frame: Frame) -> Text:
    server = frame["server"]
    up_s = server["uptime_ms"] // 1000
    told = f"Headrace {printable(server['version'])}, {server['phase']}, up {_span(up_s)}, {server['num_open']} open"
    return Text(told, "bold")


def _models(frame: Frame, before: Frame | None) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("MODEL", no_wrap=True, overflow="ellipsis", max_width=21)
    table.add_column("STATE", no_wrap=True, min_width=7)
    for name, width in (("RUN", 4), ("WAIT", 4), ("OUT/S", 6), ("IN/S", 6), ("BATCH", 5)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    table.add_column("PAGES", no_wrap=True, min_width=_BAR + 6)
    table.add_column("HITS", justify="right", no_wrap=True, min_width=5)
    for model in frame["models"]:
        if model["is_pooled"] and not model["totals"]["num_steps"]:
            continue  # what nobody has used yet
        grown = _grown(model, frame, before)
        hits, asked = model["totals"]["reused_tokens"], model["totals"]["prompt_tokens"]
        table.add_row(
            Text(printable(model["id"])),
            model["state"],
            str(model["num_running"]),
            str(model["num_waiting"]),
            _rate(grown, "output_tokens"),
            _rate(grown, "read_tokens"),
            "-" if not grown.get("num_steps") else f"{grown['num_sequences'] / grown['num_steps']:.1f}",
            _bar(model["pages"]),
            f"{100 * hits / asked:.0f} %" if asked else "-",
        )
    return table


def _grown(model: Frame, frame: Frame, before: Frame | None) -> dict[str, float]:
    """What was done in a second since the frame before; empty where that is not known."""
    old = None if before is None else next((one for one in before["models"] if one["id"] == model["id"]), None)
    elapsed_s = 0.0 if before is None else (frame["time_ms"] - before["time_ms"]) / 1000
    if old is None or elapsed_s <= 0:
        return {}
    totals: Mapping[str, float] = model["totals"]
    if any(value < old["totals"][name] for name, value in totals.items()):
        return {}  # it left and came back
    return {name: (value - old["totals"][name]) / elapsed_s for name, value in totals.items()}


def _rate(grown: Mapping[str, float], name: str) -> str:
    return f"{grown[name]:,.0f}" if name in grown else "-"


def _bar(pages: Mapping[str, int]) -> Text:
    total = max(1, pages["total"])
    used = round(_BAR * pages["used"] / total)
    cached = min(_BAR - used, round(_BAR * pages["cached"] / total))
    bar = Text("█" * used, "blue")
    bar.append("▒" * cached, "green")
    bar.append("·" * (_BAR - used - cached), "dim")
    bar.append(f" {100 * (pages['used'] + pages['cached']) / total:.0f} %")
    return bar


def _requests(frame: Frame, room: int) -> Table | Group | Text:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("PHASE", no_wrap=True, min_width=9)
    for name, width in (("FOR", 6), ("PROMPT", 9), ("CACHED", 6), ("OUT", 5)):
        table.add_column(name, justify="right", no_wrap=True, min_width=width)
    for name, least, most in (("WHO", 8, 16), ("MODEL", 8, 20), ("REQUEST", 8, 32)):
        table.add_column(name, overflow="ellipsis", no_wrap=True, min_width=least, max_width=most)
    shown = frame["requests"][:room]
    for one in shown:
        who = " / ".join(part for part in (one["tenant"], one["key"]) if part)
        where = f" at {one['backend']}" if one["backend"] else ""
        table.add_row(
            Text(one["phase"], _COLOURS.get(one["phase"], "")),
            _span(one["age_ms"] / 1000),
            _prompt(one),
            str(one["cached_tokens"]),
            str(one["output_tokens"]),
            Text(printable(who) or "-"),
            Text(printable(f"{one['model']}{where}")),
            Text(printable(one["id"] or "-")),
        )
    rest = len(frame["requests"]) - len(shown) + frame["requests_left_out"]
    if rest:
        return Group(table, Text(f"and {rest} more", "dim"))
    return table if shown else Text("Nothing runs.", "dim")


def _prompt(one: Frame) -> str:
    if one["phase"] == "prefill":
        return f"{one['computed_tokens']}/{one['prompt_tokens']}"
    return str(one["prompt_tokens"])


def _tenants(frame: Frame) -> Text:
    """Hit rates of the tenants that asked most."""
    sums: dict[str, list[int]] = {}
    for model in frame["models"]:
        for one in model["tenants"]:
            known = sums.setdefault(one["tenant"], [0, 0])
            known[0] += one["prompt_tokens"]
            known[1] += one["reused_tokens"]
    most = sorted(sums.items(), key=lambda item: -item[1][0])[:8]
    told = [f"{printable(name) or 'others'} {100 * found / max(1, asked):.0f} %" for name, (asked, found) in most]
    return Text(f"cache hits: {', '.join(told)}" if told else "", "dim")


def _span(seconds: float) -> str:
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"
