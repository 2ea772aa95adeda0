"""`headrace bench`: a plan is run against a server, shown while it runs, and written as JSON and as a report.

The key comes from the environment or a file, and is written nowhere. Ctrl-C ends the stage that runs; what was measured
until then is told and written.
"""

import asyncio
import contextlib
import json as jsonlib
import os
import platform
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import typer
import uvloop
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from headrace import __version__
from headrace.cli.bench_tables import comparison_table, progress_line, stages_tables
from headrace.cli.generate import printable
from headrace.cli.residents import KEY_VARIABLE
from headrace.cli.secret_text import read_secret
from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest
from headrace.gateway.settings import Secret
from headrace.loadtest.client import Client, read_target
from headrace.loadtest.document import Conditions, build_document, compare, encode_points, read_document
from headrace.loadtest.measures import stage_result
from headrace.loadtest.plan import Plan
from headrace.loadtest.report import write_report
from headrace.loadtest.run import Run, Tally
from headrace.loadtest.workload import MadeUp, Sizes, Workload, read_file
from headrace.server.config import is_loopback

_REDRAW_S: Final = 0.5

Done = tuple[Tally, dict[str, Any]]
"""A stage that is over, and what is told of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to ask whom."""

    url: str
    plan: Plan
    sizes: Sizes
    workload: Path | None
    model: str | None
    extra: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where the key comes from, and where what was measured goes."""

    json: Path | None
    has_points: bool
    report: Path | None
    key_env: str
    key_file: Path | None
    ca_file: Path | None


def run_bench(order: Order, places: Places) -> None:
    """Run a plan and tell what came of it; exit status 1 if not one request succeeded. Raises HeadraceError."""
    if places.has_points and places.json is None:
        raise InvalidRequest("points: they go into the JSON document; name one with --json.", param="points")
    for path in (places.json, places.report):
        if path is not None and not path.resolve().parent.is_dir():
            raise InvalidRequest(f"{path}: its folder is not there; make it first.")
    key, target = read_key(places, os.environ), read_target(order.url)
    if key is not None and not target.is_tls and not is_loopback(target.host):
        typer.echo(f"headrace: the key goes to {target} without TLS; whoever is on the way can read it.", err=True)
    document = uvloop.run(_bench(order, places, key))
    _write(document, places)
    if not any(stage["num_ok"] for stage in document["stages"]):
        raise typer.Exit(1)


def run_report(path: Path, peer_path: Path | None, report: Path | None, json: Path | None) -> None:
    """Show one run, or two side by side. Raises InvalidRequest."""
    document = read_document(path)
    console = Console()
    peer = None if peer_path is None else read_document(peer_path)
    if peer is None:
        console.print(stages_tables(document["stages"]))
    else:
        document = document | {"rows": compare(document, peer, str(peer_path))}
        if not document["rows"]:
            raise InvalidRequest(f"{path} and {peer_path} have no stage in common; run both at the same loads.")
        console.print(comparison_table(document["rows"], str(path), str(peer_path)))
    if report is not None:
        report.write_text(write_report(document, peer), "utf-8")
        console.print(f"Report: {report}", highlight=False)
    if json is not None:
        json.write_text(jsonlib.dumps(document) + "\n", "utf-8")


def read_key(places: Places, environ: Mapping[str, str]) -> str | None:
    """The key of the file, else of the variable; None where nobody named one and the usual variable is not set. Raises
    InvalidRequest."""
    if places.key_file is None and not environ.get(places.key_env, "").strip():
        if places.key_env == KEY_VARIABLE:
            return None
        raise InvalidRequest(
            f"key: the variable {places.key_env} is not set; export it, or leave --key-env out to send no key.",
            param="key",
        )
    place = f"env:{places.key_env}" if places.key_file is None else f"file:{places.key_file}"
    try:
        return read_secret(Secret(place), environ).reveal()
    except ValueError as error:
        raise InvalidRequest(f"key: {place.partition(':')[2]} {error}.", param="key") from None


async def _bench(order: Order, places: Places, key: str | None) -> dict[str, Any]:
    clock, plan = SystemClock(), order.plan
    target = read_target(order.url)
    extra = _read_extra(order.extra)
    client = Client(target, key, plan.bounds, clock, None if places.ca_file is None else str(places.ca_file))
    try:
        workload, model, told = await _choose(order, client, extra)
        named = {} if model is None else {"model": model}
        fields = {**named, "stream": True, "stream_options": {"include_usage": True}, **extra}
        run = Run(plan, workload, client, clock, fields=fields, cpu_s=time.process_time)
        done = await _run_stages(run, plan, f"{printable(told)} at {target}")
    finally:
        await client.close()
    conditions = Conditions(
        url=str(target),
        model=told,
        machine=machine(),
        version=f"headrace {__version__}",
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        workload=workload.describe(),
        fields=extra,
    )
    document = build_document(plan, conditions, [result for _, result in done])
    if places.has_points:
        document["points"] = encode_points((one.stage.name, one.points, one.began_s) for one, _ in done)
    return document


async def _run_stages(run: Run, plan: Plan, title: str) -> list[Done]:
    """Every stage until it is stopped, shown while it runs."""
    loop = asyncio.get_running_loop()
    with contextlib.suppress(NotImplementedError):  # where the loop has no signals, Ctrl-C ends it all
        loop.add_signal_handler(signal.SIGINT, run.stop.set)
    console, done = Console(stderr=True), list[Done]()
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            for stage in plan.stages:
                drawing = asyncio.create_task(_draw(live, run, title, done)) if console.is_terminal else None
                if drawing is None:
                    console.print(f"{stage.name}: begins", markup=False, highlight=False)
                try:
                    tally = await run.run_stage(stage)
                finally:
                    if drawing is not None:
                        drawing.cancel()
                done.append((tally, stage_result(tally, plan)))
                if not console.is_terminal:
                    told = progress_line(tally, tally.ended_s)
                    console.print(told, markup=False, highlight=False, soft_wrap=True)
                if run.stop.is_set():
                    break
    finally:
        with contextlib.suppress(NotImplementedError):
            loop.remove_signal_handler(signal.SIGINT)
    return done


async def _draw(live: Live, run: Run, title: str, done: list[Done]) -> None:
    """The stages that are over, and how far the one that runs has come."""
    clock = SystemClock()
    while True:
        line = "" if run.tally is None else progress_line(run.tally, clock.monotonic_s())
        over = stages_tables([result for _, result in done]) if done else ""
        live.update(Group(over, Text(f"{title}\n{line}")), refresh=True)
        await asyncio.sleep(_REDRAW_S)


async def _choose(order: Order, client: Client, extra: Mapping[str, Any]) -> tuple[Workload, str | None, str]:
    """What is asked, the model that all of it is asked of (None where each request of a file names its own), and what
    to call that."""
    protocol = order.plan.protocol
    if order.workload is not None:
        workload = read_file(order.workload, order.sizes.output_tokens, protocol)
        if order.model is None and None not in workload.models:
            return workload, None, ", ".join(sorted(map(str, workload.models)))
        model = order.model or await client.first_model()
        return workload, model, model
    model = order.model or await client.first_model()
    known = {name: value for name, value in {"model": model, **extra}.items() if value is not None}
    return MadeUp(order.sizes, order.plan.seed, await client.measure_ratio(protocol, known), protocol), model, model


def _read_extra(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        found = jsonlib.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"extra: is no JSON ({error}).", param="extra") from None
    if not isinstance(found, dict):
        raise InvalidRequest('extra: is no object; write for example {"ignore_eos": true}.', param="extra")
    return found


def _write(document: dict[str, Any], places: Places) -> None:
    console = Console()
    config = document["config"]
    console.print(f"{printable(config['model'])} at {config['url']}", markup=False, highlight=False)
    console.print(stages_tables(document["stages"]))
    for stage in document["stages"]:
        for warning in stage["warnings"]:
            console.print(f"{stage['name']}: {warning}", style="yellow", markup=False, highlight=False)
        for kind, said in stage["error_examples"].items():
            count = stage["errors"][kind]
            console.print(f"{stage['name']}: {count} x {kind}: {printable(said)}", style="red", markup=False)
    if places.json is not None:
        places.json.write_text(jsonlib.dumps(document) + "\n", "utf-8")
        console.print(f"JSON: {places.json}", highlight=False, markup=False)
    if places.report is not None:
        places.report.write_text(write_report(document, None), "utf-8")
        console.print(f"Report: {places.report}", highlight=False, markup=False)


def machine() -> str:
    """A name for this machine: processor and cores."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"
