"""The key sets of token issuers: fetched in the background, kept, and fetched anew when a token names a key that is not
there, so that no request waits for them.

    prepare -> replace -> one task an issuer: fetch -> keep -> until `refresh_s` has passed, or a key is wanted (not
    sooner than `wanted_s`) -> fetch again; what fails leaves the set in force, until it is `stale_s` old

Judges no tokens: `trust/identity` does.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.gateway.upstreams.fetch import Reach, fetch, read_place
from headrace.trust.identity.jwk import MAX_SET_BYTES, KeySet, read_key_set
from headrace.trust.identity.settings import IssuerSettings
from headrace.trust.strict import NotStrict, read_json_object

_logger = logging.getLogger("headrace.gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """Seconds between two fetches for one issuer at least, and until one that failed is tried again."""

    wanted_s: float = 10.0
    failed_s: float = 15.0


@dataclass(slots=True, eq=False)
class _Issuer:
    settings: IssuerSettings
    keys: KeySet | None = None
    fetched_s: float = 0.0
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    last_error: str = ""
    task: asyncio.Task[None] | None = None


class Prepared:
    """Issuers whose files were read, ready to be kept."""

    def __init__(self, issuers: Iterable[_Issuer]) -> None:
        self.issuers = {one.settings.name: one for one in issuers}


class KeySetBook:
    """See `trust.identity.users.KeySets`. `open` or `replace` begins."""

    def __init__(
        self,
        clock: Clock,
        pauses: Pauses | None = None,
        get: Callable[[str, Reach], Awaitable[bytes]] = fetch,
    ) -> None:
        self._issuers: dict[str, _Issuer] = {}
        self._clock = clock
        self._pauses = pauses or Pauses()
        self._get = get
        self._ending: set[asyncio.Task[None]] = set()

    def prepare(self, issuers: Iterable[IssuerSettings]) -> Prepared:
        """Look at other issuers, without going on with them yet: files are read, those that are kept stay. Blocks.
        Raises InvalidRequest for a URL that must not be asked and for a file that is no key set."""
        found = []
        for settings in issuers:
            known = self._issuers.get(settings.name)
            if known is not None and known.settings == settings and settings.url is not None:
                found.append(known)
                continue
            issuer = _Issuer(settings)
            where = f"identity.issuers.{settings.name}.jwks"
            if settings.url is not None:
                try:
                    read_place(settings.url, _reach(settings))
                except ValueError as error:
                    raise InvalidRequest(f"{where}: {error}.") from error
            else:
                assert settings.jwks is not None
                try:
                    self._keep_keys(issuer, read_key_set(_read(settings.jwks)))
                except (OSError, NotStrict) as error:
                    remedy = "name a JSON Web Key Set"
                    raise InvalidRequest(f"{where}: {settings.jwks} {_why(error)}; {remedy}.") from error
            found.append(issuer)
        return Prepared(found)

    def replace(self, prepared: Prepared) -> None:
        """Go on with what was prepared."""
        before, self._issuers = self._issuers, prepared.issuers
        loop = asyncio.get_running_loop()
        for issuer in before.values():
            if issuer not in self._issuers.values() and issuer.task is not None:
                issuer.task.cancel()
                self._ending.add(issuer.task)
                issuer.task.add_done_callback(self._ending.discard)
        for issuer in self._issuers.values():
            if issuer.task is None:
                issuer.task = loop.create_task(self._keep(issuer))

    def find(self, name: str) -> KeySet | None:
        """The set that is in force."""
        issuer = self._issuers.get(name)
        if issuer is None or self._clock.monotonic_s() - issuer.fetched_s > issuer.settings.stale_s:
            return None
        return issuer.keys

    def want(self, name: str) -> None:
        """Fetch it anew, soon."""
        if (issuer := self._issuers.get(name)) is not None:
            issuer.wanted.set()

    async def open(self, issuers: Iterable[IssuerSettings]) -> None:
        """Prepare, and begin. Raises InvalidRequest."""
        self.replace(await asyncio.to_thread(self.prepare, issuers))

    async def settle(self) -> None:
        """Until every issuer was tried once."""
        for issuer in self._issuers.values():
            await issuer.tried.wait()

    async def close(self) -> None:
        """Fetch no more."""
        self.replace(Prepared(()))
        await asyncio.gather(*self._ending, return_exceptions=True)

    async def _keep(self, issuer: _Issuer) -> None:
        settings, is_new = issuer.settings, issuer.keys is not None
        while True:
            pause_s = settings.refresh_s
            if not is_new:
                issuer.wanted.clear()  # before, so that what is wanted meanwhile is fetched, too
                try:
                    await self._renew(issuer)
                except (HeadraceError, NotStrict, OSError, ValueError) as error:
                    pause_s = min(pause_s, self._pauses.failed_s)
                    self._tell(issuer, _why(error))
                else:
                    issuer.last_error = ""
            is_new = False
            issuer.tried.set()
            try:
                async with asyncio.timeout(pause_s):
                    await asyncio.sleep(min(pause_s, self._pauses.wanted_s))
                    await issuer.wanted.wait()
            except TimeoutError:
                pass

    def _tell(self, issuer: _Issuer, why: str) -> None:
        if why != issuer.last_error:  # once, and not every time
            _logger.warning("the keys of issuer %s were not fetched: %s", issuer.settings.name, why)
        issuer.last_error = why

    async def _renew(self, issuer: _Issuer) -> None:
        settings = issuer.settings
        reach = _reach(settings)
        if settings.url is None:
            assert settings.jwks is not None
            data = await asyncio.to_thread(_read, settings.jwks)
        elif settings.jwks is None:
            data = await self._get(_key_url(await self._get(settings.url, reach), settings), reach)
        else:
            data = await self._get(settings.jwks, reach)
        self._keep_keys(issuer, await asyncio.to_thread(read_key_set, data))

    def _keep_keys(self, issuer: _Issuer, keys: KeySet) -> None:
        # The same keys stay the same object: what was verified with them needs not be verified again.
        if issuer.keys is None or keys.names() != issuer.keys.names():
            issuer.keys = keys
        issuer.fetched_s = self._clock.monotonic_s()


def _key_url(document: bytes, settings: IssuerSettings) -> str:
    """Where a discovery document (OpenID Connect Discovery 1.0, section 4.3) says that the keys are."""
    found = read_json_object(document)
    if found.get("issuer") != settings.issuer:
        raise NotStrict("the discovery document is another issuer's")
    url = found.get("jwks_uri")
    if not isinstance(url, str):
        raise NotStrict("the discovery document names no keys (jwks_uri)")
    return url


def _reach(settings: IssuerSettings) -> Reach:
    ca = None if settings.ca is None else str(settings.ca)
    return Reach(allows_private=settings.is_private, ca_file=ca, max_bytes=MAX_SET_BYTES)


def _read(path: str) -> bytes:
    with Path(path).expanduser().open("rb") as file:
        return file.read(MAX_SET_BYTES + 1)


def _why(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be read ({error.strerror or error})"
    return str(error).rstrip(".")
