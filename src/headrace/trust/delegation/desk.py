"""All that a running server knows of delegations: the keys that count, what is revoked, what was read, what is spent.

Says of a token who shows it, and of a request under one whether it may be made. Knows no files and no clock: time is
passed in.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

from headrace.core.policy import Question
from headrace.core.request import Principal
from headrace.core.trust import Delegation
from headrace.trust.delegation.bounds import refusal
from headrace.trust.delegation.budget import DelegationBudgets
from headrace.trust.delegation.grant import Block, Bounds
from headrace.trust.delegation.token import Moment, RootKeys, Token, VoidToken, authorize, read_token

MAX_TOKENS: Final = 4096
CHECKS: Final = "checks"
"""A fact of delegations whose tokens have checks of their own, which only the token itself can answer."""

_PREFIXES: Final = ("key", "user", "agent")

Granter = Callable[[str], Principal | None]
"""Who granted: what a subject that is known here (`key:laptop`) may do now. None: nobody of that name any more."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a reload replaces."""

    keys: RootKeys
    max_age_s: float
    revoked: frozenset[str] = frozenset()


class DelegationDesk:
    """See above."""

    def __init__(self, rules: Rules, granter: Granter, budgets: DelegationBudgets | None = None) -> None:
        self.budgets = budgets or DelegationBudgets()
        self._rules = rules
        self._granter = granter
        self._by_text: OrderedDict[bytes, Token] = OrderedDict()
        self._by_ids: OrderedDict[tuple[str, ...], Token] = OrderedDict()

    @property
    def rules(self) -> Rules:
        """Those in force."""
        return self._rules

    def replace(self, rules: Rules) -> None:
        """Go by other keys and revocations from the next request on."""
        self._rules = rules
        self._by_text.clear()
        self._by_ids.clear()

    def revoke(self, ids: Iterable[str]) -> None:
        """Void every token with such a block, from the next request on."""
        self._rules = replace(self._rules, revoked=self._rules.revoked | frozenset(ids))

    def block_id(self, text: str) -> str:
        """The id of a token's first block, by which it is taken back. Raises VoidToken."""
        return self._read(text).grant.blocks[0].revocation_id

    def principal(self, text: str, now_s: float) -> Principal:
        """Who acts by a token: whoever granted it, within what all its blocks allow. Raises VoidToken."""
        token = self._read(text)
        grant = token.grant
        bounds = grant.bounds
        if bounds.expires_s is None or bounds.expires_s - now_s > self._rules.max_age_s:
            raise VoidToken(f"the delegation must end within {self._rules.max_age_s:.0f} s; ask for a shorter one")
        if now_s >= bounds.expires_s:
            raise VoidToken("the delegation has ended; ask for another one")
        if (why := authorize(token, Moment(operation="call", unix_s=now_s))) is not None:
            raise VoidToken(why)
        return _within(self._granted_by(token), token)

    def refuses(self, principal: Principal, model: str, labels: frozenset[str], now_s: float) -> str | None:
        """Why a delegated principal may not ask for a model now, None if it may. Also for requests that come later than
        their token was shown: those of batches, and of services that ask again."""
        delegation = principal.delegation
        assert delegation is not None
        if delegation.expires_s is None or now_s >= delegation.expires_s:
            return "the delegation has ended"
        if not self._rules.revoked.isdisjoint(delegation.revocation_ids):
            return "the delegation was revoked"
        if (why := refusal(delegation, model=model, labels=labels)) is not None:
            return why
        token = self._by_ids.get(delegation.revocation_ids)
        if token is None:
            # A restart has forgotten the token. Its bounds are here; checks of its own are not.
            return "the delegation has to be shown again" if CHECKS in delegation.facts else None
        moment = Moment(operation="request", unix_s=now_s, model=model, labels=labels)
        return authorize(token, moment)

    def refuses_tool(self, question: Question, now_s: float) -> str | None:
        """Why a token's own checks do not allow a tool call, None if they do. Its bounds are asked elsewhere."""
        delegation = question.principal.delegation
        if delegation is None or CHECKS not in delegation.facts:
            return None
        token = self._by_ids.get(delegation.revocation_ids)
        if token is None:
            return "the delegation has to be shown again"
        labels = question.context.get("labels", ())
        moment = Moment(
            operation="tool",
            unix_s=now_s,
            tool=question.resource,
            effect=str(question.attributes.get("effect", "egress")),
            labels=frozenset(labels) if isinstance(labels, tuple) else frozenset(),
        )
        return authorize(token, moment)

    def blocks(self, delegation: Delegation) -> tuple[Block, ...]:
        """What counts: each block with its own bounds; after a restart every block with the least of them."""
        token = self._by_ids.get(delegation.revocation_ids)
        if token is not None:
            return token.grant.blocks
        least = Bounds(max_calls=delegation.max_calls, max_cost_nanos=delegation.max_cost_nanos)
        return tuple(Block(revocation_id=one, bounds=least) for one in delegation.revocation_ids)

    def _read(self, text: str) -> Token:
        digest = sha256(text.encode("utf-8", "surrogatepass")).digest()
        token = self._by_text.get(digest)
        if token is None:
            token = read_token(text, self._rules.keys, self._rules.revoked)
            self._by_text[digest] = token
            self._by_ids[tuple(one.revocation_id for one in token.grant.blocks)] = token
            for kept in (self._by_text, self._by_ids):
                if len(kept) > MAX_TOKENS:
                    kept.popitem(last=False)
        elif any(one.revocation_id in self._rules.revoked for one in token.grant.blocks):
            raise VoidToken("the delegation was revoked")
        return token

    def _granted_by(self, token: Token) -> Principal:
        grant = token.grant
        if not grant.subject.startswith("key:"):
            # Of users and programs nothing is kept here: the first block says what they could hand on.
            return Principal(
                tenant=grant.tenant,
                user=grant.user,
                scopes=grant.scopes,
                priority=grant.priority,
                tags=grant.tags,
                labels=grant.carries,
                subject=grant.subject,
            )
        granter = self._granter(grant.subject)
        if granter is None or granter.tenant != grant.tenant:
            raise VoidToken("whoever granted the delegation may not any more")
        # A key that was shown together with something else had less than the key alone.
        priority = min(granter.priority, grant.priority) if grant.priority else granter.priority
        return replace(granter, labels=granter.labels | grant.carries, priority=priority)


def _within(granter: Principal, token: Token) -> Principal:
    grant = token.grant
    delegation = grant.delegation()
    if token.has_checks:
        delegation = replace(delegation, facts={**delegation.facts, CHECKS: "own"})
    models = delegation.models
    routes = granter.routes
    if models is not None and (both := (routes & models if routes else models)):
        routes = both  # where nothing is left of them, every request is refused by the bounds themselves
    holder = grant.holder
    is_full = holder == grant.subject or holder.startswith("spiffe://") or holder.partition(":")[0] in _PREFIXES
    return replace(
        granter,
        scopes=granter.scopes & grant.scopes,
        routes=routes,
        subject=holder if is_full else f"agent:{holder}",
        agent=holder,
        delegation=delegation,
    )
