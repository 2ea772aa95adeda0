"""Joins what judges and records: settings, secrets and the state directory -> overseers, authenticators and services.

Knows every constructor and decides nothing. All of it ends after the gateway that asks it.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from headrace.cli.config import Settings
from headrace.core.backend import Backend
from headrace.core.identity import Authenticator
from headrace.gateway.contract import Overseer
from headrace.models.store import Layout


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """`overseers` are asked in this order, the recorder last; `authenticators` in this order, before keys; `services`
    are fields of `server.services.Services`."""

    overseers: tuple[Overseer, ...] = ()
    authenticators: tuple[Authenticator, ...] = ()
    services: Mapping[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def open_trust(settings: Settings, layout: Layout, engine: Backend | None = None) -> AsyncIterator[Trust]:
    """All of it, for as long as the block runs. Raises HeadraceError if something of it cannot be used."""
    overseers: list[Overseer] = []
    authenticators: list[Authenticator] = []
    async with AsyncExitStack() as stack:
        if settings.trust.identity.names_callers:
            from headrace.cli.identity import open_identity

            authenticators += await stack.enter_async_context(open_identity(settings.trust.identity))
        if settings.trust.theft is not None:
            from headrace.cli.theft import open_theft

            if (theft := open_theft(settings.trust.theft, engine)) is not None:
                overseers.append(theft)
        yield Trust(overseers=tuple(overseers), authenticators=tuple(authenticators))
