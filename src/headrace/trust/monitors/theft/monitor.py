"""The monitor: requests that steer probabilities in, verdicts and refusals out; flags of accounts, until somebody
clears them.

    counts (who, tenant, linked accounts, input) --> past a threshold --> verdict, flag, evidence, once a day
                                                      flagged, enforced and without the scope --> only what was seen

What was tried before goes on being answered, so that a program with its fixed biases does not break by another's
attack under the same tenant. Values in, values out; knows no clock, no log and no sockets.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Final

from headrace.core.errors import Forbidden, HeadraceError, RateLimited
from headrace.core.monitors import Flag
from headrace.core.request import Principal
from headrace.core.trust import Verdict
from headrace.trust.monitors.theft.counts import DAY_S, Ages, DistinctCounts
from headrace.trust.monitors.theft.linking import Group
from headrace.trust.monitors.theft.settings import ACTIONS, Mode, TheftSettings
from headrace.trust.monitors.theft.steering import Steering
from headrace.trust.monitors.theft.surface import is_free
from headrace.trust.monitors.theft.windows import Seen

MAX_FLAGS: Final = 10_000
THROTTLED_S: Final = 10.0
"""From one request to the next of an account that is slowed down."""
BIAS, SAMPLING, WINDOW, LINK, SURFACE = "theft.bias", "theft.sampling", "theft.window", "theft.link", "theft.surface"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one of the monitors saw. `score` in [0, 1]."""

    monitor: str
    score: float
    action: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What is said of one request. `raised` are flags that were not there before."""

    verdicts: tuple[Verdict, ...] = ()
    refusal: HeadraceError | None = None
    raised: tuple[Flag, ...] = ()


NOTHING: Final = Judgement()


def account_of(principal: Principal) -> str:
    """What the monitor calls somebody: tenant and subject."""
    subject = principal.subject or (f"key:{principal.key}" if principal.key else principal.user or "")
    return f"{principal.tenant}/{subject}"


class TheftMonitor:
    """All of it. Bounded: `max_subjects` of each kind, and a few dozen digests of each."""

    def __init__(self, settings: TheftSettings, secret: bytes) -> None:
        self.settings = settings
        self.secret = secret
        self._counts = self._new_counts()
        self._ages = Ages(settings.max_subjects)
        self._flags: dict[tuple[str, str], Flag] = {}
        self._next_s: dict[str, float] = {}  # of accounts that are slowed down
        self._group_of: dict[str, str] = {}

    def replace(self, settings: TheftSettings) -> None:
        """Go on with other settings, and with what was counted and flagged."""
        self.settings = settings
        for name, limit in self._limits().items():
            self._counts[name].bound(settings.max_subjects, 4 * limit)
        self._ages.bound(settings.max_subjects)

    def _new_counts(self) -> dict[str, DistinctCounts]:
        subjects = self.settings.max_subjects
        return {name: DistinctCounts(subjects, 4 * limit) for name, limit in self._limits().items()}

    def _limits(self) -> dict[str, int]:
        settings = self.settings
        return {
            "accounts": settings.bias_vectors,
            "groups": settings.tenant_bias_vectors,
            "prompts": settings.prompt_bias_vectors,
            "cuts": settings.sampling_vectors,
            "refused": settings.bias_vectors,
        }

    def judge(self, principal: Principal, steering: Steering, unix_s: float) -> Judgement:
        """A request that steers. Counted, then held against the thresholds."""
        account = account_of(principal)
        share = self._share(account, unix_s)
        alarms = []
        if steering.bias is not None:
            for what, counts, subject, limit in self._biases(principal, account, steering, share):
                if counts.add(subject, steering.bias, unix_s) > limit:
                    alarms.append((BIAS, f"distinct biases of one {what} on a day"))
                    break  # what is refused here is counted nowhere else
        if steering.cuts is not None:
            limit = _part(self.settings.sampling_vectors, share)
            if self._counts["cuts"].add(account, steering.cuts, unix_s) > limit:
                alarms.append((SAMPLING, "distinct cuts and penalties of one principal on a day"))
        return self._alarm(principal, alarms, unix_s) if alarms else NOTHING

    def refuse(self, principal: Principal, request_id: str, reason: str, unix_s: float) -> Judgement:
        """A request was beyond the surface. Who goes on asking so is flagged; nothing more follows, as nothing is
        told."""
        account = account_of(principal)
        finding = Finding(monitor=SURFACE, score=1.0, action="refuse", reason=reason)
        raised: tuple[Flag, ...] = ()
        limit = _part(self.settings.bias_vectors, self._share(account, unix_s))
        if self._counts["refused"].add(account, request_id.encode(), unix_s) > limit:
            raised = self.raise_flag(account, principal.tenant, replace(finding, action="note"), unix_s)
        return Judgement(verdicts=(self.verdict(finding),), raised=raised)

    def _biases(
        self, principal: Principal, account: str, steering: Steering, share: float
    ) -> Iterable[tuple[str, DistinctCounts, str, int]]:
        """Under what a bias is counted: what, where, whose, and up to how many."""
        settings = self.settings
        yield "principal", self._counts["accounts"], account, _part(settings.bias_vectors, share)
        if principal.key is not None and principal.subject != f"key:{principal.key}":
            key = f"{principal.tenant}/key:{principal.key}"
            yield "key", self._counts["accounts"], key, settings.bias_vectors
        if is_free(principal):
            return  # its experiments are nobody else's
        yield "input", self._counts["prompts"], steering.prompt.hex(), settings.prompt_bias_vectors
        yield "tenant", self._counts["groups"], f"tenant:{principal.tenant}", settings.tenant_bias_vectors
        if (group := self._group_of.get(account)) is not None:
            yield "group of linked accounts", self._counts["groups"], f"group:{group}", settings.tenant_bias_vectors

    def _share(self, account: str, unix_s: float) -> float:
        settings = self.settings
        days = self._ages.days(account, unix_s)
        grown = 1.0 if settings.ramp_days <= 0 else min(1.0, days / settings.ramp_days)
        return settings.ramp_share + (1.0 - settings.ramp_share) * grown

    def _alarm(self, principal: Principal, alarms: Iterable[tuple[str, str]], unix_s: float) -> Judgement:
        free = is_free(principal)
        verdicts: list[Verdict] = []
        raised: list[Flag] = []
        for monitor, reason in alarms:
            finding = Finding(monitor=monitor, score=1.0, action="note" if free else "throttle", reason=reason)
            verdicts.append(self.verdict(finding))
            raised += self.raise_flag(account_of(principal), principal.tenant, finding, unix_s)
        refusal = None
        if not free and self.settings.mode is Mode.ENFORCE:
            refusal = RateLimited(
                "logit_bias: too many different settings of how tokens are drawn (logit_bias, cuts, penalties) were "
                "tried today; repeat earlier ones, leave them out, or ask whoever runs this server.",
                param="logit_bias",
                retry_after_s=DAY_S - unix_s % DAY_S,
            )
        return Judgement(verdicts=tuple(verdicts), refusal=refusal, raised=tuple(raised))

    def raise_flag(self, account: str, tenant: str, finding: Finding, unix_s: float) -> tuple[Flag, ...]:
        """Something was found about an account of a tenant; its flag, if that was not raised already."""
        key = (account, finding.monitor)
        known = self._flags.get(key)
        if known is not None:
            score, count = max(known.score, round(finding.score, 1)), known.count + 1
            self._flags[key] = replace(known, last_s=unix_s, count=count, score=score, action=finding.action)
            return ()
        if len(self._flags) >= MAX_FLAGS:
            del self._flags[min(self._flags, key=lambda one: self._flags[one].last_s)]
        flag = Flag(
            account=account,
            tenant=tenant,
            monitor=finding.monitor,
            score=round(finding.score, 1),
            action=finding.action,
            since_s=unix_s,
            last_s=unix_s,
            reason=finding.reason,
            is_shadow=self.settings.mode is not Mode.ENFORCE,
        )
        self._flags[key] = flag
        return (flag,)

    def follow(self, principal: Principal, unix_s: float) -> Judgement:
        """What was found of an account before, by its windows and its links, follows each of its requests."""
        if not self._flags:
            return NOTHING
        account = account_of(principal)
        found = [flag for monitor in (WINDOW, LINK) if (flag := self._flags.get((account, monitor))) is not None]
        if not found:
            return NOTHING
        free = is_free(principal)
        findings = [
            Finding(monitor=one.monitor, score=one.score, action="note" if free else one.action, reason=one.reason)
            for one in found
        ]
        worst = max((ACTIONS.index(one.action) for one in findings), default=0)
        refusal = None if self.settings.mode is not Mode.ENFORCE else self._hinder(account, ACTIONS[worst], unix_s)
        return Judgement(verdicts=tuple(map(self.verdict, findings)), refusal=refusal)

    def _hinder(self, account: str, action: str, unix_s: float) -> HeadraceError | None:
        if action == "refuse":
            return Forbidden("this account's requests are refused for now; ask whoever runs this server.")
        if action != "throttle":
            return None
        wait_s = self._next_s.get(account, 0.0) - unix_s
        if wait_s > 0:
            return RateLimited(
                "this account is slowed down for now; ask whoever runs this server.", retry_after_s=wait_s
            )
        if len(self._next_s) >= self.settings.max_subjects:
            self._next_s.clear()
        self._next_s[account] = unix_s + THROTTLED_S
        return None

    def verdict(self, finding: Finding) -> Verdict:
        """In this monitor's version. The score has one digit: more would tell how far it is to a threshold."""
        return Verdict(
            monitor=finding.monitor,
            version=f"theft-1.{self.settings.revision}",
            score=round(finding.score, 1),
            action=finding.action,
            reason=finding.reason,
            is_shadow=self.settings.mode is not Mode.ENFORCE,
        )

    def flags(self) -> tuple[Flag, ...]:
        """All that are raised, the latest last."""
        return tuple(sorted(self._flags.values(), key=lambda flag: flag.last_s))

    def name_evidence(self, flag: Flag, evidence_id: str) -> None:
        """The log commits to what a flag says under this id."""
        if (kept := self._flags.get((flag.account, flag.monitor))) is not None:
            self._flags[flag.account, flag.monitor] = replace(kept, evidence_id=evidence_id)

    def clear(self, account: str) -> tuple[Flag, ...]:
        """Take an account's flags away and begin to count anew; those that there were."""
        cleared = tuple(flag for flag in self.flags() if flag.account == account)
        for flag in cleared:
            del self._flags[flag.account, flag.monitor]
        self._counts["accounts"].forget(account)
        self._counts["cuts"].forget(account)
        self._counts["refused"].forget(account)
        if (group := self._group_of.pop(account, None)) is not None:
            self._counts["groups"].forget(f"group:{group}")
        return cleared

    def snapshot(self) -> bytes:
        """What was counted and flagged, as JSON; digests stand for what was asked, under the monitor's secret."""
        kept = {name: counts.snapshot() for name, counts in self._counts.items()}
        flags = [asdict(flag) for flag in self._flags.values()]
        return json.dumps({"version": 1, "ages": self._ages.snapshot(), "counts": kept, "flags": flags}).encode()

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot. Raises ValueError for what is none, and then nothing has changed."""
        try:
            found = json.loads(data)
            if found["version"] != 1:
                raise ValueError(f"its version is {found['version']!r}, and 1 is known")
            ages = Ages(self.settings.max_subjects)
            ages.restore(found["ages"])
            counts = self._new_counts()
            for name, one in counts.items():
                one.restore(found["counts"][name])
            flags = {(flag.account, flag.monitor): flag for flag in (Flag(**one) for one in found["flags"])}
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"it is no snapshot of this monitor: {error!r}") from error
        self._ages, self._counts, self._flags = ages, counts, flags

    def absorb(self, found: Seen | Group, unix_s: float) -> tuple[Flag, ...]:
        """What was seen of an account's inputs: a window, or that it asks as others do; the flags that this raises."""
        settings = self.settings
        if isinstance(found, Seen):
            if not found.is_unusual or found.share is None:
                return ()
            action = settings.window_action if found.is_lasting else "note"
            reason = "inputs are unlike what is usual on their route"
            finding = Finding(monitor=WINDOW, score=1.0 - found.share, action=action, reason=reason)
            return self.raise_flag(found.account, found.tenant, finding, unix_s)
        root = min(found.tenants)
        raised: list[Flag] = []
        for account, tenant in found.tenants.items():
            self._group_of[account] = root
            reason = "inputs share a template with accounts of other tenants"
            finding = Finding(monitor=LINK, score=1.0, action=settings.link_action, reason=reason)
            raised += self.raise_flag(account, tenant, finding, unix_s)
        return tuple(raised)


def _part(limit: int, share: float) -> int:
    return max(1, int(limit * share))
