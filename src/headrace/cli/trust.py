"""Joins what judges and records: settings, secrets and the state directory -> overseers, authenticators and services.

Knows every constructor and decides nothing. All of it ends after the gateway that asks it.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from headrace.cli.config import Settings
from headrace.core.backend import Backend
from headrace.core.identity import Authenticator
from headrace.gateway.contract import Overseer
from headrace.models.store import Layout
from headrace.trust.policy.settings import PolicyMode

Prepare = Callable[[Settings], Callable[[], None]]
"""Reads what settings name anew, and raises HeadraceError if it cannot be used; what it returns puts it in force and
cannot fail. Called off the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """`overseers` are asked in this order, the recorder last; `authenticators` in this order, before keys; `services`
    are fields of `server.services.Services`. `reloads` are by table of the settings file: what is not there holds after
    a restart only."""

    overseers: tuple[Overseer, ...] = ()
    authenticators: tuple[Authenticator, ...] = ()
    reloads: Mapping[str, "Prepare"] = field(default_factory=dict)
    services: Mapping[str, Any] = field(default_factory=dict)


@asynccontextmanager
async def open_trust(settings: Settings, layout: Layout, engine: Backend | None = None) -> AsyncIterator[Trust]:
    """All of it, for as long as the block runs. Raises HeadraceError if something of it cannot be used."""
    overseers: list[Overseer] = []
    authenticators: list[Authenticator] = []
    services: dict[str, Any] = {}
    reloads: dict[str, Prepare] = {}
    async with AsyncExitStack() as stack:
        if settings.trust.identity.names_callers:
            from headrace.cli.identity import open_identity

            identity = await stack.enter_async_context(open_identity(settings.trust.identity))
            authenticators += identity.authenticators
            reloads["identity"] = identity.prepare
        if settings.trust.policy.mode is not PolicyMode.OFF:
            from headrace.cli.policy import open_policy

            policy = open_policy(settings)
            overseers.append(policy.overseer)
            services["deciding"] = policy.desk
            reloads["policy"] = policy.prepare
        if settings.trust.theft is not None:
            from headrace.cli.theft import open_theft

            if (theft := open_theft(settings.trust.theft, engine)) is not None:
                overseers.append(theft)
        yield Trust(
            overseers=tuple(overseers),
            authenticators=tuple(authenticators),
            services=services,
            reloads=reloads,
        )
