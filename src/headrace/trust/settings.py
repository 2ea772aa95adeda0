"""What an operator can say of trust, as one value: each part's own settings, and a table of the settings file each.

Read from a file by `cli`. Knows no files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.trust.delegation.settings import DelegationSettings
from headrace.trust.flow.settings import FlowSettings, ToolRule
from headrace.trust.identity.settings import AnswerSettings, IdentitySettings
from headrace.trust.log.settings import LogSettings
from headrace.trust.monitors.hijack.settings import HijackSettings
from headrace.trust.monitors.theft.settings import TheftSettings
from headrace.trust.policy.settings import PolicySettings
from headrace.trust.records.settings import ActionSettings, RecordsSettings
from headrace.trust.spiffe.settings import SpiffeSettings
from headrace.trust.supply.settings import SupplySettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSettings:
    """Each field has the name of its table."""

    model_signatures: SupplySettings = field(default_factory=SupplySettings)
    policy: PolicySettings = field(default_factory=PolicySettings)
    delegation: DelegationSettings | None = None
    spiffe: SpiffeSettings = field(default_factory=SpiffeSettings)
    theft: TheftSettings | None = None
    identity: IdentitySettings = field(default_factory=IdentitySettings)
    answer_signatures: AnswerSettings | None = None
    log: LogSettings = field(default_factory=LogSettings)
    hijack: HijackSettings | None = None
    flow: FlowSettings = field(default_factory=FlowSettings)
    tools: Mapping[str, ToolRule] = field(default_factory=dict)
    records: RecordsSettings = field(default_factory=RecordsSettings)
    actions: ActionSettings = field(default_factory=ActionSettings)

    @property
    def tenants(self) -> frozenset[str]:
        """Those of callers that have no keys."""
        return frozenset(self.identity.tenants) | self.spiffe.tenants

    @property
    def names_callers(self) -> bool:
        """Whether something of it tells who calls: then nobody is anonymous, also without keys."""
        return self.identity.names_callers or self.spiffe.names_callers or self.delegation is not None
