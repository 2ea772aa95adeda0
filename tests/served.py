"""A whole server in this process, made of a settings file, with its state directory in a folder of the test's."""

import contextlib
import functools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.doubles_http import Client, Reply
from tests.upstreams import Upstream

from headrace.cli.config import compose
from headrace.cli.reload import Reloader
from headrace.cli.serve import Start, open_app
from headrace.cli.surroundings import look_around
from headrace.server.app import App

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "Hi"}]


@dataclass
class Served:
    """A server, asked without a socket."""

    app: App
    reloader: Reloader
    home: Path

    def client(self, method: str, path: str, body: Any = None, key: str | None = None, **headers: str) -> Client:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            given["authorization"] = f"Bearer {key}"
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        return Client(self.app, method, path, data, given)

    async def ask(self, method: str, path: str, body: Any = None, key: str | None = None, **headers: str) -> Reply:
        return await self.client(method, path, body, key, **headers).run()

    async def chat(self, key: str | None = None, **fields: Any) -> Reply:
        return await self.ask("POST", CHAT, {"model": "chat", "messages": HI} | fields, key)


@contextlib.asynccontextmanager
async def serving(folder: Path, text: str, environ: dict[str, str] | None = None) -> AsyncIterator[Served]:
    file = folder / "headrace.toml"
    file.write_text(text, "utf-8")
    home = folder / "home"
    compose_again = functools.partial(compose, {}, {"HEADRACE_HOME": str(home)}, file)
    resolved = compose_again()
    around = look_around(resolved, environ or {})
    async with open_app(Start(compose_again, resolved.settings, environ or {}, around)) as (app, reloader):
        app.lifecycle.mark_ready()
        yield Served(app, reloader, home)


def near(up: Upstream, more: str = "") -> str:
    """Settings: a backend with one model at 1 a token in and 2 out (a million), and a route `chat` to it."""
    return (
        f'{more}\n[backends.near]\nkind = "openai-compatible"\nurl = "{up.url}/v1"\n'
        "[backends.near.models.small]\nmax_output_tokens = 50\n"
        'tasks = ["generate", "embed"]\nprices = {input = 1, output = 2}\n[routes.chat]\ncandidates = ["near/small"]\n'
    )
