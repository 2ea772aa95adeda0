"""Joins what guards tools: settings and a judge -> the overseer, and the overseer anew; and who keeps endorsements.
Decides nothing."""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from headrace.cli.config import Settings
from headrace.core.clock import SystemClock
from headrace.core.provenance import Notary
from headrace.core.request import Principal
from headrace.gateway.oversight.appeal import Appeals
from headrace.gateway.oversight.endorsing import EndorsementKeeper
from headrace.gateway.oversight.tools import ToolOverseer
from headrace.memory import endorsements as rows
from headrace.memory.store import Store
from headrace.models.store import Layout
from headrace.trust.flow.tools import ToolBook
from headrace.trust.policy.in_force import JudgeInForce


class OpenFlow:
    """What a running server has of it."""

    def __init__(self, settings: Settings, judge: JudgeInForce, keeper: EndorsementKeeper) -> None:
        appeals = Appeals(keeper, judge.weigh)
        self.overseer = ToolOverseer(judge, settings.trust.flow, ToolBook(settings.trust.tools), appeals)

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """What is returned puts other settings in force; answers under way go on as they began."""
        book = ToolBook(settings.trust.tools)

        def put_in_force() -> None:
            self.overseer.settings, self.overseer.book = settings.trust.flow, book

        return put_in_force


@asynccontextmanager
async def open_endorsements(
    layout: Layout, notary: Notary | None, granter: Callable[[str], Principal | None]
) -> AsyncIterator[EndorsementKeeper]:
    """Who keeps endorsements, as long as the block runs. Raises HeadraceError."""
    store = Store(layout.endorsements, rows.MIGRATIONS)
    await store.open()
    try:
        new_id = partial(secrets.token_hex, 12)
        keeper = EndorsementKeeper(store, SystemClock(), new_id, notary=notary, granter=granter)
        await keeper.open()
        try:
            yield keeper
        finally:
            await keeper.close()
    finally:
        await store.close()
