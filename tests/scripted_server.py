"""The scripted backend behind the real server, as a process of its own: for command-line agents and load tools.

    python -m tests.scripted --script FILE.json [--port P] [--record FILE.jsonl]

prints `Serving http://127.0.0.1:P` once it answers, and stops at SIGTERM as `headrace serve` does. A script:

    {"models": [{"id": "scripted", "aliases": ["gpt-5"], "context_length": 200000}],
     "remembers": true, "any_model": true,
     "turns": [{"when": {"tool_results": 0, "last_says": "read", "has_tool": "shell"},
                "reasoning": "", "text": "", "calls": [{"name": "shell", "arguments": {"command": ["ls"]}}],
                "sizes": [3], "cached_tokens": 0, "hold_after": 2,
                "error": {"kind": "Overloaded", "message": "busy", "retry_after_s": 1}, "error_after": 1}]}

Everything but `turns` may be left out. `hold_after` waits for ever after so many deltas, until the client leaves.
`--record` gets one line of JSON for each request, as the backend saw it.
"""

import argparse
import asyncio
import json
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from tests.scripted import CARD, Call, Condition, Gate, Scripted, Turn, every, has_tool, last_says, tool_results
from tests.scripted_services import scripted_services

from headrace.core import errors
from headrace.core.backend import ModelCard
from headrace.core.events import Event
from headrace.core.request import Request
from headrace.server.app import build_app
from headrace.server.config import ServerConfig
from headrace.server.serve import listen, serve

_CONDITIONS = {"tool_results": tool_results, "last_says": last_says, "has_tool": has_tool}


class Recorded(Scripted):
    """A scripted backend that writes down every request the moment it comes."""

    def __init__(self, script: dict[str, Any], record: Path | None = None) -> None:
        options = {name: script[name] for name in ("remembers", "any_model", "seed") if name in script}
        super().__init__(read_turns(script), cards=read_cards(script), **options)
        self._record = record

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        """Write the request down, then play the turn that fits."""
        if self._record is not None:
            with self._record.open("ab") as file:
                file.write(msgspec.json.encode(request) + b"\n")
        answer = super().run(request)
        try:
            async for event in answer:
                yield event
        finally:
            await answer.aclose()


def read_turns(script: dict[str, Any]) -> list[Turn]:
    """The turns of a script in JSON."""
    return [_turn(given) for given in script["turns"]]


def read_cards(script: dict[str, Any]) -> list[ModelCard]:
    """The models of a script in JSON."""
    return [
        replace(CARD, **given | {"aliases": tuple(given.get("aliases", ()))}) for given in script.get("models", [{}])
    ]


def _turn(given: dict[str, Any]) -> Turn:
    fields = dict(given)
    if "when" in fields:
        fields["when"] = _condition(fields["when"])
    if "error" in fields:
        error = dict(fields["error"])
        fields["error"] = getattr(errors, error.pop("kind"))(error.pop("message"), **error)
    if "hold_after" in fields:
        fields["gates"] = {fields.pop("hold_after"): Gate()}
    fields["calls"] = tuple(Call(**call) for call in fields.get("calls", ()))
    fields["sizes"] = tuple(fields.get("sizes", ()))
    return Turn(**fields)


def _condition(given: dict[str, Any]) -> Condition:
    return every(*(_CONDITIONS[name](value) for name, value in given.items()))


async def serve_script(backend: Recorded, config: ServerConfig, listener: socket.socket, folder: Path) -> None:
    """Serve until a signal says stop; what the services remember lies in the folder."""

    def say(url: str) -> None:
        sys.stdout.write(f"Serving {url}\n")
        sys.stdout.flush()

    async with scripted_services(backend, folder) as services:
        await serve(build_app(backend, config, services=services), listener, say)


def main() -> None:
    """Read the script and serve it."""
    parser = argparse.ArgumentParser(description="Serve a script.")
    parser.add_argument("--script", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--record", type=Path)
    options = parser.parse_args()
    config = ServerConfig(port=options.port)
    backend = Recorded(json.loads(options.script.read_bytes()), options.record)
    with (
        tempfile.TemporaryDirectory(prefix="headrace-script-") as folder,
        listen(config) as listener,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(serve_script(backend, config, listener, Path(folder)))
