"""The key sets of token issuers: fetched in the background, kept, and fetched anew when a token names a key that is not
there, so that no request waits for them.

    open -> one task an issuer: fetch -> keep -> until `refresh_s` has passed, or a key is wanted (not sooner than
    `pause_s`) -> fetch again; what fails leaves the set in force, until it is `stale_s` old

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
from headrace.trust.identity.strict import NotStrict, read_json_object

_logger = logging.getLogger("headrace.gateway")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pauses:
    """Seconds between two fetches for one issuer at least, and until one that failed is tried again."""

    wanted_s: float = 10.0
    failed_s: float = 15.0


@dataclass(slots=True)
class _Issuer:
    settings: IssuerSettings
    keys: KeySet | None = None
    fetched_s: float = 0.0
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    last_error: str = ""


class KeySetBook:
    """See `trust.identity.users.KeySets`."""

    def __init__(
        self,
        issuers: Iterable[IssuerSettings],
        clock: Clock,
        pauses: Pauses | None = None,
        get: Callable[[str, Reach], Awaitable[bytes]] = fetch,
    ) -> None:
        """Raises InvalidRequest for a URL that must not be asked."""
        self._issuers = {one.name: _Issuer(one) for one in issuers}
        self._clock = clock
        self._pauses = pauses or Pauses()
        self._get = get
        self._tasks: list[asyncio.Task[None]] = []
        for one in self._issuers.values():
            if (url := one.settings.url) is not None:
                try:
                    read_place(url, _reach(one.settings))
                except ValueError as error:
                    raise InvalidRequest(f"identity.issuers.{one.settings.name}.jwks: {error}.") from error

    def find(self, name: str) -> KeySet | None:
        """The set that is in force."""
        issuer = self._issuers[name]
        is_stale = self._clock.monotonic_s() - issuer.fetched_s > issuer.settings.stale_s
        return None if is_stale else issuer.keys

    def want(self, name: str) -> None:
        """Fetch it anew, soon."""
        self._issuers[name].wanted.set()

    async def open(self) -> None:
        """Read the files, and begin to fetch the rest. Raises InvalidRequest for a file that is no key set."""
        for issuer in self._issuers.values():
            if issuer.settings.url is None:
                try:
                    await self._renew(issuer)
                except (OSError, NotStrict) as error:
                    raise InvalidRequest(
                        f"identity.issuers.{issuer.settings.name}.jwks: {issuer.settings.jwks} {_why(error)}; "
                        "name a JSON Web Key Set."
                    ) from error
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(one)) for one in self._issuers.values()]

    async def settle(self) -> None:
        """Until every issuer was tried once."""
        for issuer in self._issuers.values():
            await issuer.tried.wait()

    async def close(self) -> None:
        """Fetch no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

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
        keys = await asyncio.to_thread(read_key_set, data)
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
