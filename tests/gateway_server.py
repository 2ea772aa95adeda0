"""A whole server over scripted backends, made of a settings file as `headrace serve` makes it, within a test's loop."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from tests.upstreams import Upstream

from headrace.cli.config import compose
from headrace.cli.serve import Start, open_app
from headrace.cli.surroundings import look_around
from headrace.core.usage import UsageRecord
from headrace.gateway.gate import Gate
from headrace.gateway.settings import Target
from headrace.gateway.standing import StandingBook
from headrace.gateway.upstreams.remote import Remote
from headrace.server.app import App


@dataclass
class ServedGateway:
    """A running server. `records` are those of requests that ended."""

    app: App
    gate: Gate
    records: list[UsageRecord] = field(default_factory=list)

    @property
    def standings(self) -> StandingBook:
        """Who can be asked."""
        return self.gate.parts.standings

    def num_failed(self, target: Target) -> int:
        """Failures that a target's breaker remembers."""
        breaker = self.standings.breakers(target.backend).get(target.model)
        return 0 if breaker is None else breaker.num_failed

    def num_busy(self) -> int:
        """Connections to backends on which something is under way."""
        upstreams = self.gate.parts.upstreams.values()
        return sum(one.pool.num_busy for one in upstreams if isinstance(one, Remote))


def backend(up: Upstream, name: str, kind: str = "openai", model: str = "small", more: str = "") -> str:
    """A backend's table: prices are 1 and 2 for a million tokens."""
    path = {"anthropic": "", "gemini": "/v1beta"}.get(kind, "/v1")
    return (
        f'[backends.{name}]\nkind = "{kind}"\nurl = "{up.url}{path}"\nsecret = "env:KEY"\n{more}'
        f"[backends.{name}.models.{model}]\nmax_output_tokens = 50\nprices = {{input = 1, output = 2}}\n"
    )


@asynccontextmanager
async def serving(folder: Path, text: str, secret: str = "sk-very-secret") -> AsyncIterator[ServedGateway]:
    """The server of a settings file for as long as the block runs."""
    file = folder / "headrace.toml"
    file.write_text(text, "utf-8")
    compose_again = functools.partial(compose, {}, {"HEADRACE_HOME": str(folder / "home")}, file)
    resolved, environ = compose_again(), {"KEY": secret}
    around = look_around(resolved, environ)
    async with open_app(Start(compose_again, resolved.settings, environ, around)) as (app, _):
        app.lifecycle.mark_ready()
        gate = cast("Gate", app._backend)
        served = ServedGateway(app, gate)
        gate.replace(replace(gate.parts, on_record=served.records.append))
        yield served
