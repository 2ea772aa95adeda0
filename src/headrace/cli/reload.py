"""Reads a running server's settings again and puts them in force, all of them or none.

Everything that can be refused is done first; what follows cannot fail but for the accounts, which come before the rest.
What is bound to the process (port, models, threads, whether there are keys at all) waits for a restart, and is named.
What a signal asks for is in the list of actions with the names of what changed; what a request asks for, its route
lists. Whoever may send a signal may also start the server anew, which reads the files unlisted: where nothing can be
listed, that is said and the reload goes on.
"""

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from headrace.api.actions import cut_asked
from headrace.cli.config import Resolved, Settings
from headrace.cli.gateway import JoinedGateway, Wanted
from headrace.cli.key_source import KeySource
from headrace.cli.setting_changes import changed_names
from headrace.cli.surroundings import Surroundings, look_around
from headrace.cli.trust import Prepare
from headrace.core.actions import ActionBook, Actor, Begun, Outcome, Through, outcome_of
from headrace.core.errors import HeadraceError
from headrace.core.service import Reloaded
from headrace.server.app import App
from headrace.server.config import ServerConfig
from headrace.server.door import Door
from headrace.server.keys import KeyRing
from headrace.server.tls import renew_tls
from headrace.trust.settings import TrustSettings

# What a form has around its file.
FORM_BYTES: Final = 1_000_000

_HELD_AT_ONCE: Final = frozenset(
    {
        *("gateway", "default_max_tokens", "max_in_flight", "kept_requests", "slow_request", "issued", "keys"),
        *("cors", "allowed_hosts", "trusted_proxies", "log_clients"),
        "trust",  # table by table, see `_reloaded_trust`
    }
)

_OPERATOR: Final = Actor(tenant="local", subject="operator", through=Through.SIGNAL)
_logger = logging.getLogger("headrace.server")


def server_config(settings: Settings) -> ServerConfig:
    """The server's part of the settings."""
    return ServerConfig(
        host=settings.host,
        port=settings.port,
        request_timeout_s=settings.request_timeout,
        prices=settings.prices,
        max_upload_bytes=settings.file_bytes + FORM_BYTES,
        allowed_hosts=settings.allowed_hosts,
        trusted_proxies=settings.trusted_proxies,
        logs_clients=settings.log_clients,
        tls=settings.tls,
        cors=settings.cors,
        console=settings.console if settings.console.is_on else None,
        seals_answers=settings.trust.records.is_on,
        inlines_records=settings.trust.records.is_inline,
    )


def wanted_gateway(settings: Settings, around: Surroundings) -> Wanted:
    """The gateway's part of the settings."""
    return Wanted(settings=settings.gateway, prices=settings.prices, secrets=around.secrets)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ready:
    """All that can be refused was not: what holds from now on. `settings` are those, and `waiting` names what the file
    says and a restart would bring."""

    settings: Settings
    around: Surroundings
    waiting: tuple[str, ...]
    changed: tuple[str, ...]
    warnings: tuple[str, ...]
    ring: KeyRing | None
    door: Door
    switches: tuple[Callable[[], None], ...]


class Reloader:
    """See `core.service.Reloading`. A `book` lists what signals ask for."""

    def __init__(
        self,
        compose_again: Callable[[], Resolved],
        environ: Mapping[str, str],
        keys: KeySource,
        gateway: JoinedGateway,
        reloads: Mapping[str, Prepare],
        book: ActionBook | None = None,
    ) -> None:
        self._compose = compose_again
        self._environ = environ
        self._keys = keys
        self._gateway = gateway
        self._reloads = reloads
        self._book = book
        self._settings = keys.settings
        self._tls: ssl.SSLContext | None = None
        self._app: App | None = None
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def attach(self, app: App, tls: ssl.SSLContext | None) -> None:
        """Name what is changed beside the gateway."""
        self._app, self._tls = app, tls

    @property
    def tls(self) -> ssl.SSLContext | None:
        """What the server's socket is secured with."""
        return self._tls

    async def reload(self) -> Reloaded:
        """Go on as the file says now. Raises HeadraceError, and then nothing has changed."""
        # Checks and fetches that go on afterwards belong to no request: neither its id nor its trace is theirs.
        return await asyncio.get_running_loop().create_task(self._reload(), context=Context())

    async def _reload(self) -> Reloaded:
        async with self._lock:
            return await self._take(await self._prepare())

    async def _reload_listed(self) -> Reloaded:
        """The same, as an action."""
        async with self._lock:
            try:
                ready = await self._prepare()
            except HeadraceError as error:
                async with self._listed({"error": error.message}):
                    raise
            asked = {"changed": ready.changed, "waiting": ready.waiting}
            async with self._listed({name: list(names) for name, names in asked.items() if names}):
                return await self._take(ready)

    @asynccontextmanager
    async def _listed(self, asked: Mapping[str, Any]) -> AsyncIterator[None]:
        action_id = await self._begin(Begun(actor=_OPERATOR, name="SIGHUP", asked=cut_asked(asked)))
        try:
            yield
        except HeadraceError as error:
            await self._end(action_id, outcome_of(error), error.code)
            raise
        except BaseException:
            await self._end(action_id, Outcome.UNKNOWN)
            raise
        await self._end(action_id, Outcome.DONE)

    async def _begin(self, begun: Begun) -> str | None:
        try:
            return None if self._book is None else await self._book.begin(begun)
        except HeadraceError as error:
            _logger.warning("this reload is not in the list of actions: %s", error.message)
            return None

    async def _end(self, action_id: str | None, outcome: Outcome, code: str | None = None) -> None:
        if action_id is not None and self._book is not None:
            await self._book.end(action_id, outcome, code)

    def on_signal(self) -> None:
        """The same for SIGHUP, told in the log."""
        task = asyncio.get_running_loop().create_task(self._reload_and_tell())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Until what signals asked for is done."""
        await asyncio.gather(*self._tasks)

    async def _reload_and_tell(self) -> None:
        try:
            told = await asyncio.get_running_loop().create_task(self._reload_listed(), context=Context())
        except HeadraceError as error:
            _logger.error("the settings were not read again, those in force stay: %s", error.message)  # noqa: TRY400
            return
        for warning in told.warnings:
            _logger.warning("%s", warning)
        if told.waiting:
            _logger.warning("these settings changed and hold after a restart only: %s", ", ".join(told.waiting))
        _logger.info("the settings were read again")

    def _reloaded_trust(self, before: TrustSettings, now: TrustSettings) -> tuple[TrustSettings, list[str]]:
        """The tables that can be reloaded as they are now, and the others as they were; and which of those changed."""
        tables = [one.name for one in fields(TrustSettings) if getattr(before, one.name) != getattr(now, one.name)]
        kept = [name for name in tables if name not in self._reloads]
        return replace(now, **{name: getattr(before, name) for name in kept}), kept

    def _read(self) -> tuple[Resolved, Surroundings]:
        resolved = self._compose()
        return resolved, look_around(resolved, self._environ)

    async def _prepare(self) -> _Ready:
        """Everything that can be refused. Raises HeadraceError."""
        resolved, around = await asyncio.to_thread(self._read)
        app, settings, before = self._app, resolved.settings, self._settings
        assert app is not None
        changed = [one.name for one in fields(Settings) if getattr(before, one.name) != getattr(settings, one.name)]
        waiting = [name for name in changed if name not in _HELD_AT_ONCE]
        # What has to wait goes on as it was.
        settings = replace(settings, **{name: getattr(before, name) for name in waiting})
        trust, kept = self._reloaded_trust(before.trust, settings.trust)
        settings, waiting = replace(settings, trust=trust), waiting + kept
        # Files are read anew even where no setting changed: what they hold may have.
        switches = [await asyncio.to_thread(prepare, settings) for prepare in self._reloads.values()]
        source = KeySource(settings, around.secrets)
        if app.keys is None and source.has_keys:
            waiting.append("keys")
        ring = None if app.keys is None else KeyRing(source.load)
        # Of keys those that are in force are compared: their file may say something else and be where it was.
        names = {one for one in changed_names(before, settings) if not one.startswith("keys.")}
        if app.keys is not None and ring is not None:
            names |= {f"keys.{one}" for one in app.keys.differing(ring)}
        return _Ready(
            settings=settings,
            around=around,
            waiting=tuple(waiting),
            changed=tuple(sorted(names)),
            warnings=tuple(str(problem) for problem in resolved.report.problems),
            ring=ring,
            door=Door(server_config(settings)),
            switches=tuple(switches),
        )

    async def _take(self, ready: _Ready) -> Reloaded:
        """Put it in force."""
        app, settings, around = self._app, ready.settings, ready.around
        assert app is not None
        if self._tls is not None and settings.tls is not None and settings.tls.identity is None:
            renew_tls(self._tls, settings.tls)
        await self._gateway.replace(wanted_gateway(settings, around))
        if app.keys is not None and ready.ring is not None:
            self._keys.settings, self._keys.secrets = settings, around.secrets
            app.keys.reload()
            self._gateway.keep_answers_of(app.keys.tenants | settings.trust.tenants)
        for put_in_force in ready.switches:
            put_in_force()
        app.door = ready.door
        self._settings = settings
        return Reloaded(warnings=ready.warnings, waiting=ready.waiting)
