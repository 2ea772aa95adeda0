"""Joins what judges and records: settings, secrets and the state directory -> overseers, authenticators and services.

    overseers:       what counts, delegations, signs of hijacking, labels and tools, policies, theft, the recorder
    authenticators:  delegations, those of identity, then keys

Knows every constructor and decides nothing. What is off is not even imported. All of it ends after the gateway that
asks it: what was recorded last is logged then.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from headrace.cli.config import Settings
from headrace.core.backend import Backend
from headrace.core.clock import SystemClock
from headrace.core.identity import Authenticator
from headrace.core.provenance import Notary
from headrace.core.request import Principal, Request
from headrace.core.trust import Label
from headrace.gateway.contract import Overseer
from headrace.models.store import Layout
from headrace.observe.trust_metrics import TrustMetrics
from headrace.server.config import is_loopback
from headrace.trust.flow.settings import Mode as FlowMode
from headrace.trust.policy.settings import PolicyMode
from headrace.trust.records.settings import RecordMode

if TYPE_CHECKING:
    from headrace.cli.spiffe import Spiffe
    from headrace.gateway.actions import ActionLog
    from headrace.gateway.notary.notary import LogNotary
    from headrace.gateway.oversight.policy import Left
    from headrace.gateway.oversight.recorder import Recorder
    from headrace.gateway.workloads.source import Source
    from headrace.trust.policy.in_force import OwnChecks

Prepare = Callable[[Settings], Callable[[], None]]
"""Reads what settings name anew, and raises HeadraceError if it cannot be used; what it returns puts it in force and
cannot fail. Called off the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """`overseers` are asked in this order, the recorder last; `authenticators` in this order, before keys; `services`
    are fields of `server.services.Services`. `reloads` are by table of the settings file: what is not there holds after
    a restart only. `label_of` labels what a request reads; None: nobody labels. `action_log` is who commits to what
    administrators do."""

    overseers: tuple[Overseer, ...] = ()
    authenticators: tuple[Authenticator, ...] = ()
    reloads: Mapping[str, "Prepare"] = field(default_factory=dict)
    services: Mapping[str, Any] = field(default_factory=dict)
    action_log: "ActionLog | None" = None
    spiffe: "Spiffe | None" = None
    label_of: Callable[[Request], Label | None] = lambda _: None

    @property
    def workload(self) -> "Source | None":
        """Where this program's own SVIDs come from."""
        return None if self.spiffe is None else self.spiffe.source


@dataclass(frozen=True, slots=True)
class TrustGround:
    """What trust stands on: the state directory, this process's engine, if it has one, and where metrics are told.
    `granter` tells what whoever delegates may do itself, by its subject."""

    layout: Layout
    engine: Backend | None = None
    registry: CollectorRegistry | None = None
    granter: Callable[[str], Principal | None] = lambda _: None


@asynccontextmanager
async def open_trust(settings: Settings, ground: TrustGround) -> AsyncIterator[Trust]:
    """All of it, for as long as the block runs. Raises HeadraceError if something of it cannot be used."""
    async with AsyncExitStack() as stack:
        joining = _Joining(settings, ground, stack)
        await joining.know_callers()
        await joining.keep_records()
        await joining.judge()
        yield joining.trust()


class _Joining:
    """What was joined so far."""

    def __init__(self, settings: Settings, ground: TrustGround, stack: AsyncExitStack) -> None:
        self._settings = settings
        self._ground = ground
        self._stack = stack
        self._overseers: list[Overseer] = []
        self._recorder: Recorder | None = None
        self._notary: LogNotary | None = None
        self._signing: Notary | None = None  # what others have found is signed before it is logged
        self._authenticators: list[Authenticator] = []
        self._services: dict[str, Any] = {}
        self._reloads: dict[str, Prepare] = {}
        self._budgets: Left | None = None
        self._own_checks: OwnChecks | None = None
        self._spiffe: Spiffe | None = None
        self._label_of: Callable[[Request], Label | None] = lambda _: None
        self._metrics = TrustMetrics(records=self._count_records, waiting=self._count_waiting)

    async def know_callers(self) -> None:
        """Users, workloads, and agents on somebody's behalf."""
        trust = self._settings.trust
        if trust.spiffe.is_on:
            await self._know_workloads()
        if trust.delegation is not None:
            from headrace.cli.delegation import open_delegation

            has_guard = trust.flow.mode is FlowMode.ENFORCE
            opening = open_delegation(trust.delegation, self._ground.layout, self._ground.granter, has_guard=has_guard)
            delegation = await self._stack.enter_async_context(opening)
            self._overseers.append(delegation.overseer)
            self._authenticators.append(delegation.authenticator)
            self._services["delegating"] = delegation.keeper
            self._reloads["delegation"] = delegation.prepare
            self._budgets, self._own_checks = delegation.left, delegation.refuses_tool
        if trust.identity.names_callers:
            from headrace.cli.identity import open_identity

            identity = await self._stack.enter_async_context(open_identity(trust.identity))
            self._authenticators += identity.authenticators
            self._reloads["identity"] = identity.prepare
        if self._settings.trust.answer_signatures is not None:
            from headrace.cli.identity import open_answer_signer

            self._services["answer_signer"] = open_answer_signer(self._settings.trust.answer_signatures)

    async def _know_workloads(self) -> None:
        # Imported here because it speaks gRPC, which takes a moment.
        from headrace.cli.spiffe import open_spiffe

        settings, spiffe = self._settings, self._settings.trust.spiffe
        audiences = {one.audience for one in settings.gateway.backends.values() if one.audience}
        opening = open_spiffe(spiffe, self._ground.layout.identity, SystemClock(), audiences=sorted(audiences))
        self._spiffe = await self._stack.enter_async_context(opening)
        is_needed = spiffe.is_required and not is_loopback(settings.host)
        self._authenticators += self._spiffe.authenticators(is_needed=is_needed)
        self._reloads["spiffe"] = self._spiffe.prepare

    async def keep_records(self) -> None:
        """The log, and the recorder that hands in to it."""
        trust, layout = self._settings.trust, self._ground.layout
        if not trust.records.is_on:
            return
        from headrace.cli.log import open_log, trust_file
        from headrace.cli.records import open_records

        log = await self._stack.enter_async_context(open_log(trust.log, layout, self._metrics.add_merged))
        trusted = partial(trust_file, trust.log, log.keys)
        opening = open_records(trust.records, layout, log.notary, log.store, trusted, self._metrics.add_sealed)
        records = await self._stack.enter_async_context(opening)
        self._notary, self._recorder, self._signing = log.notary, records.recorder, records.notary
        self._services["records"] = records.book
        if log.public is not None:
            self._services["public_log"] = log.public

    async def judge(self) -> None:
        """What is said of texts and tools, then policies, which ask about that, then the monitor of theft."""
        trust = self._settings.trust
        if trust.hijack is not None:
            from headrace.cli.hijack import open_hijack

            hijack = open_hijack(self._settings, trust.hijack)
            self._overseers.append(hijack.overseer)
            self._reloads["hijack"] = hijack.prepare
        guards_tools = trust.flow.mode is not FlowMode.OFF
        if guards_tools or trust.policy.mode is not PolicyMode.OFF:
            from headrace.cli.policy import open_policy

            policy = open_policy(self._settings, self._budgets, self._own_checks)
            self._stack.callback(policy.judge.log.flush)
            self._services["deciding"] = policy.desk
            self._reloads["policy"] = policy.prepare
            if guards_tools:
                from headrace.cli.flow import OpenFlow, open_endorsements

                opening_it = open_endorsements(self._ground.layout, self._signing, self._ground.granter)
                keeper = await self._stack.enter_async_context(opening_it)
                flow = OpenFlow(self._settings, policy.judge, keeper)
                self._overseers.append(flow.overseer)
                self._services["endorsing"], self._label_of = keeper, flow.overseer.label
                self._reloads |= {"flow": flow.prepare, "tools": flow.prepare}
            self._overseers.append(policy.overseer)  # off or not: a reload may switch it on
        if trust.theft is not None:
            from headrace.cli.theft import open_theft, prepare_theft

            home = self._ground.layout.home
            opening = open_theft(trust.theft, self._ground.engine, folder=home, notary=self._signing)
            if (theft := await self._stack.enter_async_context(opening)) is not None:
                self._overseers.append(theft)
                self._services["monitors"] = theft
                self._reloads["theft"] = lambda settings: prepare_theft(theft, settings.trust.theft)

    def trust(self) -> Trust:
        """All of it, in order."""
        overseers = self._overseers
        if overseers:
            from headrace.gateway.oversight.counting import CountingOverseer

            overseers = [CountingOverseer(self._metrics.add), *overseers]
        if self._recorder is not None:
            overseers = [*overseers, self._recorder]
        if overseers and self._ground.registry is not None:
            self._ground.registry.register(self._metrics)
        return Trust(
            overseers=tuple(overseers),
            authenticators=tuple(self._authenticators),
            services=self._services,
            reloads=self._reloads,
            action_log=self._action_log(),
            spiffe=self._spiffe,
            label_of=self._label_of,
        )

    def _action_log(self) -> "ActionLog | None":
        if self._notary is None or self._signing is None:
            return None
        from headrace.gateway.actions import ActionLog

        is_strict = self._settings.trust.records.mode is RecordMode.ENFORCE
        return ActionLog(self._signing, self._notary.merged, is_strict)

    def _count_records(self) -> tuple[int, int] | None:
        recorder = self._recorder
        return None if recorder is None else (recorder.counts.num_sealed, recorder.counts.num_lost)

    def _count_waiting(self) -> int | None:
        return None if self._notary is None else self._notary.num_waiting
