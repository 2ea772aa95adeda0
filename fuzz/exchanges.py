"""Fuzz whole exchanges: every route that takes a body gets damaged ones, all at once, byte by byte and cut anywhere.

Whatever comes, the answer is whole, is no fault of ours (no 5xx), and a refusal is JSON in the dialect of its route.
"""

import asyncio
import contextlib
import dataclasses
import json
import random
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from fuzz.answers import Answers, Playing
from fuzz.defects import Defects, listening
from fuzz.mutation import cuts
from fuzz.target import Check, Target
from tests.doubles_http import Client, make_app
from tests.scripted import Call, Scripted, Turn
from tests.scripted_services import scripted_services

from headrace.server.app import App

# A turn that calls a tool where there is one, and a word for everybody else.
_TURNS = [Turn(reasoning="Hm.", text="Yes.", calls=(Call("get_weather", {"city": "Paris"}),))]
_SHARE = 0.02
_ANY = [b'{"model":"scripted"}', b'{"lora_name":"scripted:formal"}', b"{}"]


@contextlib.contextmanager
def application(backend: Scripted) -> Iterator[tuple[asyncio.Runner, App]]:
    """An application with all services around a backend, and the loop that it runs in; both end with the block."""
    with tempfile.TemporaryDirectory(prefix="headrace-fuzz-") as folder, asyncio.Runner() as runner:
        opening = scripted_services(backend, Path(folder))
        services = runner.run(opening.__aenter__())
        given = {one.name: getattr(services, one.name) for one in dataclasses.fields(services)}
        try:
            yield runner, make_app(backend, **given)
        finally:
            runner.run(opening.__aexit__(None, None, None))


@contextlib.contextmanager
def exchanges(codecs: Sequence[Target]) -> Iterator[list[Target]]:
    """A target for each route that takes a body, with the seeds of the codec that it goes through, and those of the
    answers. They end with the block."""
    seeds = {path: target.seeds for target in codecs for path in target.paths}
    playing = Playing()
    with (
        listening() as defects,
        application(Scripted(_TURNS, any_model=True)) as (runner, app),
        application(playing) as (other, answering),
    ):
        check = partial(_check, runner, app, defects)
        yield [
            *Answers(other, playing, answering, defects).targets(),
            *(
                Target(f"POST {route.name}", seeds.get(route.name, _ANY), check(route.name), _SHARE)
                for route in app.routes
                if route.method == "POST"
            ),
        ]


def _check(runner: asyncio.Runner, app: App, defects: Defects, template: str) -> Check:
    path = "/".join("x" if part.startswith("{") else part for part in template.split("/"))

    def check(data: bytes) -> bool:
        random_ = random.Random(zlib.crc32(data))  # noqa: S311  (repeatable, not secret)
        reply = runner.run(Client(app, "POST", path, cuts(data, random_)).run())
        found = defects.take()
        assert not found, found
        assert reply.is_complete and 200 <= reply.status < 500, (reply.status, reply.body[:500])
        if reply.status >= 400:
            assert json.loads(reply.body)["error"]
        return reply.status < 300

    return check
