"""Joins workload identity: settings and the state directory -> an issuer or a socket -> source, authenticators, TLS.

    trust_domain -> keys in their file -> issuer -> this program's SVIDs, and with `serve` everybody's over a socket
    socket       -> another's Workload API -> this program's SVIDs

Keeps keys before they are used: a key that signs is on disk. Knows every constructor and decides nothing.
"""

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import fields
from pathlib import Path
from random import Random, SystemRandom
from typing import Final

from headrace.cli.config import Settings
from headrace.cli.kinds import file_name
from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError, InvalidRequest, Unavailable
from headrace.core.identity import Authenticator
from headrace.gateway.workloads.contexts import ServerContext
from headrace.gateway.workloads.issued_source import IssuedSource
from headrace.gateway.workloads.source import NoSource, Source
from headrace.memory.authority_file import AuthorityFile
from headrace.server.config import Tls
from headrace.server.tls import VERIFY_MODES, bare_context
from headrace.server.workload_api import WorkloadApi
from headrace.trust.spiffe.authenticators import JwtWorkloads, Workloads, X509Workloads
from headrace.trust.spiffe.authority import Authorities, next_change_s, read_authorities, rotate, write_authorities
from headrace.trust.spiffe.bundle import MAX_BUNDLE_BYTES, Bundle, parse_bundle
from headrace.trust.spiffe.ids import InvalidSvid
from headrace.trust.spiffe.issuer import Issuer, Terms
from headrace.trust.spiffe.settings import SpiffeSettings

MAX_SLEEP_S: Final = 60.0
"""How long keys and bundles of others are not looked at."""

# What another reading of the settings may change while a program runs.
_LIVE: Final = frozenset({"entries", "workloads", "federated", "audiences"})

_logger = logging.getLogger("headrace.identity")


class Spiffe:
    """Workload identity of a running program. `keeper` is there if it issues."""

    def __init__(self, settings: SpiffeSettings, source: Source, keeper: "Keeper | None" = None) -> None:
        self._settings = settings
        self._workloads = Workloads(tuple(settings.workloads.values()))
        self._authenticators: tuple[X509Workloads | JwtWorkloads, ...] = ()
        self.source = source
        self.keeper = keeper

    def authenticators(self, *, is_needed: bool) -> tuple[Authenticator, ...]:
        """Those of callers with SVIDs; `is_needed`: nobody else is let in."""
        if self._settings.workloads:
            self._authenticators = (
                X509Workloads(self._workloads, self.source.bundles, is_needed=is_needed),
                JwtWorkloads(self._workloads, self.source.bundles, self._audiences),
            )
        return self._authenticators

    def server_context(self, tls: Tls) -> ssl.SSLContext:
        """With which the server's socket is secured. Raises Unavailable without an SVID."""
        return ServerContext(self.source, lambda: bare_context(tls), VERIFY_MODES[tls.asks_clients]).context

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """What of other settings can hold without a restart: who gets which name, what names may do, who else is
        believed. Raises InvalidRequest for the rest, and Unavailable for a bundle that cannot be read."""
        before, after = self._settings, settings.trust.spiffe
        names = [one.name for one in fields(after)]
        changed = [name for name in names if getattr(before, name) != getattr(after, name)]
        fixed = sorted(set(changed) - _LIVE)
        if bool(before.workloads) != bool(after.workloads):
            fixed.append("workloads")
        if fixed:
            raise InvalidRequest(
                f"spiffe: {', '.join(map(file_name, fixed))} changed and can only hold after a restart; restart, or "
                "take the change back to reload the rest.",
                param="spiffe",
            )
        configure = None if self.keeper is None else self.keeper.prepare(after)

        def put_in_force() -> None:
            self._settings = after
            self._workloads.replace(tuple(after.workloads.values()))
            if configure is not None:
                configure()
            for one in self._authenticators:
                one.forget()

        return put_in_force

    def _audiences(self) -> tuple[str, ...]:
        if self._settings.audiences:
            return self._settings.audiences
        if self._settings.id is not None:
            return (str(self._settings.id),)
        try:
            return (self.source.material().svid.spiffe_id,)
        except Unavailable:
            return ()


class Keeper:
    """An issuer with its file: turns keys in time, and reads bundles of other trust domains again."""

    def __init__(self, settings: SpiffeSettings, folder: Path, clock: Clock, random: Random) -> None:
        self._settings = settings
        self._file = AuthorityFile(folder)
        self._clock = clock
        self._random = random
        self._federated: tuple[Bundle, ...] = ()
        self.issuer: Issuer
        self.api: WorkloadApi | None = None

    def open(self) -> None:
        """Take the file, or make one. Raises HeadraceError."""
        self._file.open()
        try:
            authorities = self._load()
            terms = Terms(
                x509_ttl_s=self._settings.x509_ttl_s,
                jwt_ttl_s=self._settings.jwt_ttl_s,
                rhythm=self._settings.rhythm,
            )
            self.issuer = Issuer(self._kept(authorities), terms, self._clock, self._random)
            self._federated = tuple(read_federated(self._settings.federated))
            self.issuer.configure(self._settings.entries, self._federated)
        except InvalidSvid as error:
            self.close()
            raise Unavailable(f"spiffe: {error}.") from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def turn(self) -> None:
        """Change what is to be changed now, and tell who listens. Raises HeadraceError, and then nothing has."""
        before = self.issuer.bundles
        authorities = self._kept(self.issuer.authorities)
        if authorities is not self.issuer.authorities:
            self.issuer.adopt(authorities)
        federated = tuple(read_federated(self._settings.federated))
        if federated != self._federated:
            self._federated = federated
            self.issuer.configure(self._settings.entries, federated)
        if self.issuer.bundles is not before:
            self._tell()

    def prepare(self, settings: SpiffeSettings) -> Callable[[], None]:
        """Other entries, and other trust domains; what is returned puts them in force. Raises HeadraceError."""
        federated = tuple(read_federated(settings.federated))

        def put_in_force() -> None:
            self._settings, self._federated = settings, federated
            self.issuer.configure(settings.entries, federated)
            self._tell()

        return put_in_force

    async def run(self) -> None:
        """Turn keys for as long as it runs."""
        while True:
            now_s = self._clock.unix_s()
            due_s = next_change_s(self.issuer.authorities, self._settings.rhythm) - now_s
            await asyncio.sleep(min(MAX_SLEEP_S, max(1.0, due_s)))
            try:
                self.turn()
            except HeadraceError as error:
                _logger.error("identities: %s", error.message)  # noqa: TRY400

    def _tell(self) -> None:
        if self.api is not None:
            self.api.news.tell()

    def _load(self) -> Authorities:
        text = self._file.load()
        wanted = self._settings.trust_domain
        assert wanted is not None
        if text is None:
            return Authorities(trust_domain=wanted)
        authorities = read_authorities(text)
        if authorities.trust_domain != wanted:
            raise Unavailable(
                f"{self._file.path} has the keys of the trust domain {authorities.trust_domain}, not of {wanted}; "
                "correct spiffe.trust_domain, or move the file away to begin a new one."
            )
        return authorities

    def _kept(self, authorities: Authorities) -> Authorities:
        """The keys of now, which are on disk."""
        turned = rotate(authorities, self._settings.rhythm, now_s=self._clock.unix_s(), random=self._random)
        if turned is not authorities:
            self._file.save(write_authorities(turned))
            _logger.info("identities: keys of %s, version %d", turned.trust_domain, turned.sequence)
        return turned


def read_federated(files: Mapping[str, Path]) -> Iterable[Bundle]:
    """Bundles of other trust domains from their files. Raises Unavailable."""
    for trust_domain, path in files.items():
        try:
            with path.open("rb") as file:
                yield parse_bundle(file.read(MAX_BUNDLE_BYTES + 1), trust_domain)
        except OSError as error:
            raise Unavailable(
                f'spiffe.federated."{trust_domain}": {path} cannot be read ({error.strerror or error}).'
            ) from error
        except InvalidSvid as error:
            raise Unavailable(f'spiffe.federated."{trust_domain}": {path}: {error}.') from error


@asynccontextmanager
async def open_spiffe(
    settings: SpiffeSettings,
    folder: Path,
    clock: Clock,
    *,
    audiences: Iterable[str] = (),
) -> AsyncIterator[Spiffe]:
    """Workload identity for as long as the block runs. `folder` keeps an issuer's keys; `audiences` are those of tokens
    that will be shown. Raises HeadraceError if something of it cannot be had."""
    async with AsyncExitStack() as stack:
        if settings.socket is not None:
            yield await _open_socket(settings, clock, audiences, stack)
            return
        keeper = Keeper(settings, folder, clock, SystemRandom())
        keeper.open()
        stack.callback(keeper.close)
        if settings.serve is not None:
            keeper.api = WorkloadApi(settings.serve, keeper.issuer, clock)
            await stack.enter_async_context(keeper.api.open())
        task = asyncio.get_running_loop().create_task(keeper.run())
        stack.push_async_callback(_end, task)
        source: Source = NoSource(lambda: keeper.issuer.bundles)
        if settings.id is not None:
            source = IssuedSource(keeper.issuer, settings.id, clock)
        yield Spiffe(settings, source, keeper)


async def _open_socket(
    settings: SpiffeSettings, clock: Clock, audiences: Iterable[str], stack: AsyncExitStack
) -> Spiffe:
    from headrace.gateway.workloads.api_source import ApiSource

    assert settings.socket is not None
    name = None if settings.id is None else str(settings.id)
    source = ApiSource(settings.socket, clock, spiffe_id=name, random=SystemRandom())
    await stack.enter_async_context(source.open())
    for audience in audiences:
        with contextlib.suppress(Unavailable):  # it is asked for again when it is needed
            await source.want(audience)
    return Spiffe(settings, source)


async def _end(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
