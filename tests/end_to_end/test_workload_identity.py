"""Workload identity between real servers on sockets: an issuer, and a gateway and an engine that get their names from it
over the Workload API, mTLS between them; who is let in, who is refused, and what happens to requests while keys change."""

import asyncio
import contextlib
import functools
import os
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from tests.spiffe_world import TD, SetClock
from tests.upstreams import Upstream, upstream

from headrace.cli.config import compose
from headrace.cli.serve import Start, open_app
from headrace.cli.spiffe import Keeper, open_spiffe
from headrace.cli.surroundings import look_around
from headrace.core.clock import SystemClock
from headrace.core.workload import X509Svid
from headrace.gateway.workloads.contexts import show, trust
from headrace.server.serve import Server, listen
from headrace.trust.spiffe.ids import parse_id
from headrace.trust.spiffe.issuer import Issuer
from headrace.trust.spiffe.settings import EntrySettings, SpiffeSettings

NAMES = ("/gateway", "/engine/one", "/agent/mail")
GATEWAY = f"spiffe://{TD}/gateway"


@dataclass
class World:
    """An issuer with its socket, an engine behind a gateway, and what stands behind the engine."""

    keeper: Keeper
    clock: SetClock
    socket: str
    gateway_port: int
    engine_port: int
    up: Upstream

    @property
    def issuer(self) -> Issuer:
        return self.keeper.issuer

    def svid(self, path: str, **more: Any) -> X509Svid:
        return self.issuer.mint_x509(parse_id(f"spiffe://{TD}{path}"), **more)

    def token(self, path: str, audience: str = GATEWAY) -> str:
        return self.issuer.mint_jwt(parse_id(f"spiffe://{TD}{path}"), (audience,)).token


def write(folder: Path, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    file = folder / "headrace.toml"
    file.write_text(text, "utf-8")
    return file


@contextlib.asynccontextmanager
async def running(folder: Path, text: str) -> AsyncIterator[int]:
    """The port of a settings file's server, with its own TLS, for as long as the block runs."""
    file = write(folder, text)
    compose_again = functools.partial(compose, {"port": 0}, {"HEADRACE_HOME": str(folder / "home")}, file)
    resolved = compose_again()
    around = look_around(resolved, {})
    async with open_app(Start(compose_again, resolved.settings, {}, around)) as (app, reloader):
        listener = listen(app.config)
        ready = asyncio.Event()
        server = Server(app, lambda _: ready.set(), reloader.tls)
        task = asyncio.get_running_loop().create_task(server.serve(sockets=[listener]))
        try:
            await ready.wait()
            yield listener.getsockname()[1]
        finally:
            server.handle_exit(0, None)
            await task


def engine_file(up: Upstream, socket: str, **more: str) -> str:
    """A server that stands for an engine: it gets its name from the socket, and lets in the gateway only."""
    given = {"clients": "required", "engine_id": "/engine/one", "caller": "/gateway", **more}
    return f"""
[tls]
identity = "spiffe"
clients = "{given["clients"]}"
[spiffe]
socket = "{socket}"
id = "spiffe://{TD}{given["engine_id"]}"
[spiffe.workloads."spiffe://{TD}{given["caller"]}"]
tenant = "gateway"
[backends.raw]
kind = "openai-compatible"
url = "{up.url}/v1"
models = ["small"]
[routes.small]
candidates = ["raw/small"]
"""


def gateway_file(socket: str, engine_port: int, **more: str) -> str:
    """A server that agents call, and that asks the engine under its own name."""
    how = more.get("how", f'identity = "spiffe"\nspiffe_id = "spiffe://{TD}/engine/*"')
    return f"""
[tls]
identity = "spiffe"
[spiffe]
socket = "{socket}"
id = "{GATEWAY}"
[spiffe.workloads."spiffe://{TD}/agent/*"]
tenant = "agents"
agent = "*"
[backends.engine]
kind = "headrace"
url = "https://localhost:{engine_port}/v1"
models = ["small"]
{how}
[routes.small]
candidates = ["engine/small"]
retry = {{max_attempts = 1}}
"""


@contextlib.asynccontextmanager
async def world(folder: Path, settings: SpiffeSettings | None = None, **more: str) -> AsyncIterator[World]:
    """All of it. The issuer's clock is the machine's until a test sets it."""
    clock = SetClock(SystemClock().unix_s())
    path = folder / "agent.sock"
    entries = tuple(EntrySettings(id=parse_id(f"spiffe://{TD}{name}"), uid=os.getuid()) for name in NAMES)
    settings = replace(settings or SpiffeSettings(trust_domain=TD), serve=path, entries=entries)
    async with (
        upstream() as up,
        open_spiffe(settings, folder / "issuer", clock) as spiffe,
        running(folder / "engine", engine_file(up, f"unix://{path}", **more)) as engine_port,
        running(folder / "gateway", gateway_file(f"unix://{path}", engine_port, **more)) as gateway_port,
    ):
        assert spiffe.keeper is not None
        yield World(spiffe.keeper, clock, f"unix://{path}", gateway_port, engine_port, up)


def context_of(world: World, svid: X509Svid | None) -> ssl.SSLContext:
    """A client that believes the trust domain, and shows an SVID."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    trust(context, world.issuer.bundles)
    if svid is not None:
        show(context, svid)
    return context


async def ask(
    world: World, svid: X509Svid | None, bearer: str | None = None, port: int | None = None
) -> httpx.Response:
    headers = {} if bearer is None else {"authorization": f"Bearer {bearer}"}
    body = {"model": "small", "messages": [{"role": "user", "content": "hi"}]}
    async with httpx.AsyncClient(verify=context_of(world, svid), headers=headers, timeout=30) as client:
        return await client.post(f"https://localhost:{port or world.gateway_port}/v1/chat/completions", json=body)


def test_a_gateway_asks_an_engine_over_mtls_and_knows_its_callers_by_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with world(tmp_path) as found:
            by_certificate = await ask(found, found.svid("/agent/mail"))
            assert by_certificate.status_code == 200, by_certificate.text
            assert by_certificate.json()["choices"][0]["message"]["content"] == found.up.text
            by_token = await ask(found, None, found.token("/agent/mail"))
            assert by_token.status_code == 200, by_token.text
            assert len(found.up.received) == 2

    asyncio.run(main())
