"""`headrace pull` and `headrace models`: installing with a progress bar and a record in the database; listing."""

import json as jsonlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Column

from headrace.cli.config import compose
from headrace.core.errors import HeadraceError
from headrace.memory.database import Database, ModelRecord
from headrace.models.catalog import CATALOG
from headrace.models.download import Fetcher, FetchSettings
from headrace.models.download import Progress as Tell
from headrace.models.pull import Installed, Order, pull
from headrace.models.sources import index_settings, pip_settings
from headrace.models.store import Layout, installed_names, open_home, resolve


class _Bars:
    """One progress bar for each file and stage, on stderr, so that stdout stays for results."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description}", table_column=Column(overflow="ellipsis", no_wrap=True)),
            BarColumn(bar_width=16),
            DownloadColumn(table_column=Column(no_wrap=True, min_width=13)),
            TransferSpeedColumn(table_column=Column(no_wrap=True, min_width=10)),
            TimeRemainingColumn(compact=True),
            console=console,
        )
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tasks:
            self._progress.stop()

    def __call__(self, name: str, done: int, total: int | None) -> None:
        self._progress.start()  # only now: a refusal before the first byte draws no empty line
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total)
        self._progress.update(self._tasks[name], completed=done, total=total)


def run_pull(
    wanted: str, name: str | None, sha256: str | None, flags: Mapping[str, Any], config: Path | None, *, json: bool
) -> None:
    """Install a model and say where it is."""
    home = compose(flags, os.environ, config).settings.home
    console = Console(stderr=True)
    try:
        done = install(Order(wanted=wanted, name=name, sha256=sha256), home, console)
    except KeyboardInterrupt:
        console.print("Stopped. What has come is kept: the same command goes on from there.")
        raise
    if json:
        typer.echo(jsonlib.dumps(_as_dict(done)))
        return
    entry = CATALOG.get(done.name)
    licence = f", licence {entry.licence}" if entry else ""
    verb = "is installed and verified" if done.already else "is installed"
    typer.echo(f"{done.name} {verb} ({done.size / 1e6:.1f} MB{licence}): {done.path}")


def install(order: Order, home: Path, console: Console, progress: Tell | None = None) -> Installed:
    """Pull with a progress bar, or telling `progress` instead, and record the model in the state database."""
    pip = pip_settings()
    endpoint = os.environ.get("HF_ENDPOINT")
    indexes = index_settings(pip, endpoint)
    fetcher = Fetcher(
        FetchSettings(
            cert=pip.get("cert"),
            proxy=pip.get("proxy"),
            trusted_hosts=tuple(pip.get("trusted-host", "").split()),
            token=os.environ.get("HF_TOKEN"),
            token_host=urlsplit(indexes.hf_endpoint).hostname,
        )
    )
    with _Bars(console) as bars:
        done = pull(order, home, indexes, fetcher, progress or bars, console.print)
    record = ModelRecord(
        name=done.name,
        path=str(done.path),
        sha256=done.sha256,
        size=done.size,
        source=done.source,
        pulled_at=time.time(),
    )
    with Database(Layout(home).database) as database:
        known = {found.name: found.sha256 for found in database.models()}
        if not done.already or known.get(done.name) != done.sha256:
            database.save_model(record)
    return done


def run_models(flags: Mapping[str, Any], config: Path | None, *, json: bool) -> None:
    """List what is installed and what the catalog offers."""
    home = compose(flags, os.environ, config).settings.home
    rows = _rows(home)
    if json:
        typer.echo(jsonlib.dumps({"home": str(home), "models": rows}, indent=2))
        return
    for row in rows:
        state = "installed" if row["installed"] else "not installed"
        typer.echo(
            f"{row['name']:<28} {state:<14} {row['size'] / 1e6:>8.1f} MB  {row['licence'] or '-':<12} {row['about']}"
        )
    typer.echo(
        f"\nState directory: {home}\n`headrace pull NAME` installs a model; "
        "a path to a GGUF file works wherever a name does."
    )


def _rows(home: Path) -> list[dict[str, Any]]:
    """Installed models first; what lies in the folder counts, the database adds what it knows."""
    records = {}
    if Layout(home).database.exists():
        open_home(home)
        with Database(Layout(home).database) as database:
            records = {record.name: record for record in database.models()}
    rows = []
    names = installed_names(home)
    for name in [*names, *(name for name in CATALOG if name not in names)]:
        entry, record = CATALOG.get(name), records.get(name)
        about, path = entry.about if entry else "", None
        if name in names:
            try:
                path = str(resolve(name, home))
            except HeadraceError as error:
                about = f"damaged: {error}"
        rows.append(
            {
                "name": name,
                "installed": path is not None,
                "path": path,
                "size": record.size if record and path else (entry.size if entry else _size(path)),
                "sha256": record.sha256 if record and path else (entry.sha256 if entry else None),
                "source": record.source if record and path else (entry.source if entry else None),
                "pulled_at": record.pulled_at if record and path else None,
                "licence": entry.licence if entry else None,
                "about": about,
            }
        )
    return rows


def _size(path: str | None) -> int:
    if path is None:
        return 0
    found = Path(path)
    files = [found] if found.is_file() else [file for file in found.iterdir() if file.is_file()]
    return sum(file.stat().st_size for file in files)


def _as_dict(done: Installed) -> dict[str, Any]:
    return {
        "name": done.name,
        "path": str(done.path),
        "sha256": done.sha256,
        "size": done.size,
        "source": done.source,
        "already_installed": done.already,
    }
