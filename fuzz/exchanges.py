"""Fuzz whole exchanges: every route that takes a body gets damaged ones, all at once, byte by byte and cut anywhere.

Whatever comes, the answer is whole, is no fault of ours (no 5xx), and a refusal is JSON in the dialect of its route.
"""

import asyncio
import json
import random
import zlib
from collections.abc import Iterable, Sequence

from fuzz.mutation import cuts
from fuzz.target import Check, Target
from tests.doubles_http import Client, make_app
from tests.scripted import Call, Scripted, Turn

from headrace.server.app import App

# A turn that calls a tool where there is one, and a word for everybody else.
_TURNS = [Turn(reasoning="Hm.", text="Yes.", calls=(Call("get_weather", {"city": "Paris"}),))]
_SHARE = 0.02


class Exchanges:
    """One application and one loop for all inputs of all routes."""

    def __init__(self) -> None:
        self.app: App = make_app(Scripted(_TURNS))
        self._loop = asyncio.new_event_loop()

    def targets(self, codecs: Sequence[Target]) -> Iterable[Target]:
        """A target for each route that takes a body, with the seeds of the codec that it goes through."""
        seeds = {path: target.seeds for target in codecs for path in target.paths}
        for route in self.app.routes:
            if route.method == "POST":
                yield Target(f"POST {route.name}", seeds.get(route.name, [b"{}"]), self._check(route.name), _SHARE)

    def _check(self, template: str) -> Check:
        path = "/".join("x" if part.startswith("{") else part for part in template.split("/"))

        def check(data: bytes) -> bool:
            random_ = random.Random(zlib.crc32(data))  # noqa: S311  (repeatable, not secret)
            client = Client(self.app, "POST", path, cuts(data, random_))
            reply = self._loop.run_until_complete(client.run())
            assert reply.is_complete and 200 <= reply.status < 500, (reply.status, reply.body[:500])
            if reply.status >= 400:
                assert json.loads(reply.body)["error"]
            return reply.status < 300

        return check
