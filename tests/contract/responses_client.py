"""A server with everything that Responses need, around a scripted backend, and the official client in front of it."""

import contextlib
import dataclasses
import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import datetime
from pathlib import Path
from typing import Any

import openai
from tests.doubles_http import make_app, run
from tests.loopback import listening
from tests.scripted import Scripted
from tests.scripted_services import scripted_services

from headrace.server.config import ServerConfig
from headrace.server.keys import KeyRing

MODEL = "scripted"


@contextlib.asynccontextmanager
async def serving(
    backend: Scripted, folder: Path, keys: KeyRing | None = None, config: ServerConfig | None = None
) -> AsyncIterator[str]:
    """The base URL of a running server whose memory lies in a folder."""
    async with scripted_services(backend, folder) as services:
        given = {one.name: getattr(services, one.name) for one in dataclasses.fields(services)}
        app = make_app(backend, config or ServerConfig(port=0), keys=keys, **given)
        async with listening(app) as (_, port):
            yield f"http://127.0.0.1:{port}/v1"


@contextlib.asynccontextmanager
async def connected(
    backend: Scripted, folder: Path, keys: KeyRing | None = None, config: ServerConfig | None = None
) -> AsyncIterator[openai.AsyncOpenAI]:
    """The official client of such a server."""
    async with (
        serving(backend, folder, keys, config) as url,
        openai.AsyncOpenAI(base_url=url, api_key="hr_one", max_retries=0, timeout=5) as client,
    ):
        yield client


def play(
    backend: Scripted,
    main: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, None]],
    keys: KeyRing | None = None,
    config: ServerConfig | None = None,
) -> None:
    """Run one exchange to its end; nothing of the backend may be left open."""

    async def whole() -> None:
        with tempfile.TemporaryDirectory(prefix="headrace-test-") as folder:
            async with connected(backend, Path(folder), keys, config) as client:
                await main(client)
        assert backend.num_open == 0

    run(whole())


@dataclasses.dataclass(frozen=True)
class KeyFileEntry:
    """A key as a ring takes it."""

    name: str
    tenant: str
    scopes: frozenset[str]
    priority: int
    share: float
    sha256: str
    user: str | None = None
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()
    routes: frozenset[str] = frozenset()
    expires: datetime | None = None
    is_disabled: bool = False


def two_tenants() -> KeyRing:
    """Keys `hr_one` and `hr_two`, each of a tenant of its own."""
    return KeyRing(lambda: [_entry("hr_one"), _entry("hr_two")])


def _entry(key: str) -> KeyFileEntry:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return KeyFileEntry(key, key, frozenset({"generate"}), 0, 1.0, digest)
