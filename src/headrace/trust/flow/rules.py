"""The rules for calls of tools, written plainly: what the policies that are shipped say, for those who run none of
their own, and what these are held against in tests.

    a call is allowed   if it only reads
                        or everything that the model has read is the user's or the operator's
                        or every argument that decides about something was said by somebody trusted
    and never           if the tool's manifest is not the pinned one, nor, with `needs_pin`, without a pin
                        if it is a honey tool, or a monitor that is enforced has raised the label
                        if secrets would leave that somebody untrusted may have asked for
                        if the delegation under which the caller acts does not have the tool or its effect

Knows no policy language.
"""

from dataclasses import dataclass

from headrace.core.trust import Confidentiality, Decision, Effect, Integrity, Label
from headrace.trust.flow.tools import ToolFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call as the rules see it."""

    facts: ToolFacts
    label: Label
    untrusted: tuple[str, ...]
    is_endorsed: bool = False
    is_raised: bool = False
    needs_pin: bool = False


def decide(call: Call) -> Decision:
    """Whether a call may go on, and which rules said so."""
    facts, label = call.facts, call.label
    forbids = []
    if facts.is_changed:
        forbids.append(("manifest-changed", "its declaration is not the one that was approved"))
    if call.needs_pin and not facts.is_pinned:
        forbids.append(("manifest-unpinned", "its declaration was never approved"))
    if facts.rule.is_honey:
        forbids.append(("honey-tool", "nobody has reason to call it"))
    if call.is_raised and facts.effect is not Effect.READ:
        forbids.append(("monitor-raised", "a monitor has raised an alarm about what was read"))
    is_trusted = label.integrity >= Integrity.USER
    is_secret = label.confidentiality >= Confidentiality.SECRET
    if is_secret and not is_trusted and facts.effect is Effect.EGRESS and not call.is_endorsed:
        forbids.append(("secret-egress", "secrets were read beside text that nobody vouches for"))
    permits = [
        name
        for name, holds in (
            ("reads", facts.effect is Effect.READ),
            ("trusted-context", is_trusted),
            ("trusted-arguments", not call.untrusted),
            ("endorsed", call.is_endorsed),
        )
        if holds
    ]
    if forbids or not permits:
        named = ", ".join(call.untrusted)
        reason = "; ".join(text for _, text in forbids) or f"nobody trusted has said {named}"
        policies = tuple(name for name, _ in forbids)
        return Decision(action="tool", resource=facts.name, is_allowed=False, policies=policies, reason=reason)
    return Decision(action="tool", resource=facts.name, is_allowed=True, policies=tuple(permits))
