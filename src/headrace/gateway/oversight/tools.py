"""Guards the calls of tools in answers: a judge is asked about each before anybody is told of it.

Labels what the model reads (`Case.label`); invisible characters in text that nobody vouches for are told of, or taken
out before a backend is asked. Collects each call until its choice ends, and asks about calls one by one. What is
allowed goes on as it came. A call that is denied is withheld: in its place the answer has a sentence that names the
tool, the policy and the reason, so that whoever runs the agent can tell its user; if no call is left, the choice ends
as `content_filter`. Calls that are left are numbered anew from 0, without a gap. Where it only watches (shadow),
everything passes and what would have happened is told in the case.

Knows no policies: the judge does. Whose words an argument's value is, `trust/flow` says. What was endorsed is heard
after a denial that holds (`appeal.py`), and only then.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

from headrace.core.endorsing import Doubt, WithheldCall
from headrace.core.errors import HeadraceError, UpstreamFault
from headrace.core.events import ChoiceFinished, Event, FinishReason, TextDelta, ToolCallDelta
from headrace.core.policy import Judge, Question, Value
from headrace.core.request import Message, Request, Role
from headrace.core.shape import Need
from headrace.core.trust import Decision, Integrity, Label, ToolUse, Verdict
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Case
from headrace.gateway.oversight.appeal import Appeal, Appeals, offered
from headrace.gateway.settings import Target
from headrace.trust.flow.arguments import Evidence, Vouch, evidence_of, untrusted_arguments, untrusted_values
from headrace.trust.flow.endorsement import Asked, call_digest, value_form
from headrace.trust.flow.hygiene import clean
from headrace.trust.flow.labels import USER, is_users_alone, joined, labels_of
from headrace.trust.flow.settings import FlowSettings, Invisible, Mode
from headrace.trust.flow.tools import ToolBook, ToolFacts

HONEY: Final = Verdict(monitor="honey-tool", version="1", score=1.0, action="label", reason="a trap was called")
MAX_HELD: Final = 8 * 2**20
"""Characters of calls that one answer may hold back before they are judged."""


class ToolOverseer:
    """One for all requests. `settings`, `book` and `judge` are replaced when settings are read again. `appeals` None:
    nobody can endorse anything."""

    def __init__(self, judge: Judge, settings: FlowSettings, book: ToolBook, appeals: Appeals | None = None) -> None:
        self.judge = judge
        self.settings = settings
        self.book = book
        self.appeals = appeals

    @property
    def reads_answers(self) -> bool:
        """See `contract.Overseer`: those to requests that declare tools."""
        return self.settings.mode is not Mode.OFF

    def label(self, request: Request) -> Label | None:
        """That of everything that a request reads; None where nobody labels."""
        settings = self.settings
        if settings.mode is Mode.OFF:
            return None
        is_operator = settings.system == "operator"
        rule_of = self.book.among(request.tools)
        return joined(labels_of(request.messages or (), rule_of, system_is_operator=is_operator))

    def begin(self, case: Case) -> "ToolOversight | None":
        """Labels what the model reads; of a request without tools, declared or called, no more than that. Raises what
        the caller's protocol refuses, where tools are guarded: what cannot be read cannot be judged."""
        settings = self.settings
        if settings.mode is Mode.OFF:
            return None
        if settings.system == "user" and is_users_alone(case.ask.raw):
            case.label = USER
            return None  # reading it would tell nothing more
        try:
            request = case.decode()
        except HeadraceError:
            if settings.mode is Mode.ENFORCE and Need.TOOLS in case.ask.shape.needs:
                raise
            return None
        messages = request.messages or ()
        rule_of = self.book.among(request.tools)
        labels = labels_of(messages, rule_of, system_is_operator=settings.system == "operator")
        case.label = joined(labels)
        honey = self.book.honey
        if honey and (touched := honey.intersection(call.name for one in messages for call in one.tool_calls)):
            case.verdicts.append(replace(HONEY, reason=f"{min(touched)} is a trap, and was called before"))
        cleaned = self._clean(case, messages, labels) if settings.invisible is not Invisible.KEEP else None
        if settings.invisible is not Invisible.STRIP or settings.mode is not Mode.ENFORCE:
            cleaned = None
        # An agent may have left its declarations out this time, and a model calls what it has called before.
        has_tools = bool(request.tools) or any(one.tool_calls for one in messages)
        return ToolOversight(self, case, request, cleaned) if has_tools or cleaned is not None else None

    def _clean(
        self, case: Case, messages: Sequence[Message], labels: Sequence[Label]
    ) -> Mapping[Message, Message] | None:
        """Turns without what nobody sees in them, by the turns as they came; None where there is nothing. A note of it
        becomes one of the case's verdicts."""
        cleaned: dict[Message, Message] = {}
        counts: Counter[str] = Counter()
        for message, label in zip(messages, labels, strict=True):
            if label.integrity >= Integrity.USER or message.text.isascii():
                continue
            # What the user wrote beside a document is the user's to write.
            is_own = message.role is Role.USER
            parts = [None if is_own and not part.is_quoted else clean(part.text) for part in message.parts]
            if found := sum((Counter(one.counts) for one in parts if one is not None), Counter()):
                counts.update(found)
                pairs = zip(message.parts, parts, strict=True)
                kept = tuple(part if one is None else replace(part, text=one.text) for part, one in pairs)
                cleaned[message] = replace(message, parts=kept)
        if not counts:
            return None
        shown = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
        score = min(1.0, counts.total() / 20)
        case.verdicts.append(Verdict(monitor="hygiene", version="1", score=score, reason=f"invisible: {shown}"))
        return cleaned


@dataclass(slots=True)
class _Held:
    """A call so far."""

    id: str = ""
    name: str = ""
    deltas: list[ToolCallDelta] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        return "".join(one.arguments for one in self.deltas)


class ToolOversight:
    """One for each request."""

    reads_answer = True

    def __init__(
        self, overseer: ToolOverseer, case: Case, request: Request, cleaned: Mapping[Message, Message] | None
    ) -> None:
        self._judge, self._book, self._settings = overseer.judge, overseer.book, overseer.settings
        self._appeals = overseer.appeals if overseer.settings.mode is Mode.ENFORCE else None
        self._case = case
        self._request = request
        self._cleaned = cleaned
        self._held: dict[int, dict[int, _Held]] = {}
        self._num_held = 0
        self._num_calls = sum(len(message.tool_calls) for message in request.messages or ())

    def allows(self, _: Target) -> bool:
        """Any."""
        return True

    def prepare(self, request: Request, _: Target) -> Request:
        """Without what nobody sees, where that is to be taken out."""
        cleaned = self._cleaned
        if cleaned is None or request.messages is None:
            return request
        return replace(request, messages=tuple(cleaned.get(message, message) for message in request.messages))

    def hear(self, event: Event) -> Sequence[Event]:
        """Calls are held back until their choice ends, and everything else goes on at once."""
        if type(event) is ToolCallDelta:
            self._hold(event)
            return () if self._settings.mode is Mode.ENFORCE else (event,)
        if type(event) is ChoiceFinished and event.choice in self._held:
            told = self._judged(event, self._held.pop(event.choice))
            return told if self._settings.mode is Mode.ENFORCE else (event,)
        return (event,)

    def add(self, piece: bytes) -> None:
        """Never called: answers are read."""

    def end(self, record: UsageRecord) -> None:
        """Calls that never became whole are nobody's."""
        self._held.clear()

    def _hold(self, delta: ToolCallDelta) -> None:
        held = self._held.setdefault(delta.choice, {}).setdefault(delta.index, _Held())
        held.id, held.name = held.id or delta.id or "", held.name or delta.name or ""
        held.deltas.append(delta)
        self._num_held += len(delta.arguments)
        if self._num_held > MAX_HELD and self._settings.mode is Mode.ENFORCE:
            raise UpstreamFault(
                f"the model's calls of tools have more than {MAX_HELD} characters, which is more than can be judged; "
                "ask for less at once."
            )

    def _judged(self, finish: ChoiceFinished, calls: Mapping[int, _Held]) -> list[Event]:
        """What goes on of the calls of a choice, and its end."""
        denials: list[str] = []
        left: list[ToolCallDelta] = []
        num_left = 0
        for held in calls.values():
            decision, offer = self._decide(held)
            if decision.is_allowed or not decision.is_enforced:
                left.extend(replace(one, index=num_left) if one.index != num_left else one for one in held.deltas)
                num_left += 1
            else:
                denials.append(withheld(held.name, decision, offer))
        told: list[Event] = []
        if denials:
            told.append(TextDelta(finish.choice, "\n".join(denials), 0))
            if num_left == 0:
                finish = replace(finish, reason=FinishReason.FILTERED, stop_match=None)
        return [*told, *left, finish]

    def _decide(self, held: _Held) -> tuple[Decision, str]:
        """Ask about one call, and have it told in the case; and what a refusal says of endorsing it."""
        case, arguments = self._case, held.arguments
        facts = self._book.facts(held.name, self._request.tools)
        if facts.rule.is_honey:
            case.verdicts.append(replace(HONEY, reason=f"{held.name} is a trap, and was called"))
        decision, endorsements, offer = self._heard(facts, arguments)
        if self._settings.mode is not Mode.ENFORCE:
            decision = replace(decision, is_enforced=False)
        self._num_calls += 1
        case.decisions.append(decision)
        case.tools.append(
            ToolUse(
                call_id=held.id,
                name=held.name,
                manifest=facts.manifest,
                arguments=arguments,
                effect=facts.effect,
                decision=decision,
                endorsements=endorsements,
            )
        )
        return decision, offer

    def _heard(self, facts: ToolFacts, arguments: str) -> tuple[Decision, tuple[str, ...], str]:
        """The decision about a call, the endorsements that it took, and what is offered where there were none."""
        question, appeals = self._question(facts, arguments), self._appeals
        if appeals is None:
            return self._judge.decide(question), (), ""
        decision = appeals.weigh(question)
        if decision.is_allowed or not decision.is_enforced:
            return (decision if decision.is_allowed else self._judge.decide(question)), (), ""
        shape = self._case.ask.shape
        principal = shape.principal
        asked = Asked(
            tenant=principal.tenant,
            subject=principal.subject,
            tool=facts.name,
            call=call_digest(facts, arguments),
            session=shape.session,
            blocks=() if principal.delegation is None else principal.delegation.revocation_ids,
        )

        def ask(vouch: Vouch | None, is_endorsed: bool) -> Question:
            return self._question(facts, arguments, vouch, is_endorsed=is_endorsed)

        appeal = Appeal(appeals, asked, ask, principal, shape.id)
        if (ruling := appeal.hear()) is not None:
            return ruling.decision, ruling.endorsements, ""
        decision = self._judge.decide(question)  # and has it logged
        call = self._withheld(asked, arguments, self._doubts(facts, arguments), decision)
        return decision, (), offered(call.call, call.doubts) if appeal.offer(call) else ""

    def _doubts(self, facts: ToolFacts, arguments: str) -> tuple[Doubt, ...]:
        found = untrusted_values(facts, arguments, self._evidence)
        return tuple(Doubt(argument=path, value=value_form(value)) for path, value in found)

    def _withheld(self, asked: Asked, arguments: str, doubts: tuple[Doubt, ...], decision: Decision) -> WithheldCall:
        return WithheldCall(
            tenant=asked.tenant,
            tool=asked.tool,
            call=asked.call or "",
            arguments=arguments,
            doubts=doubts,
            request_id=self._case.ask.shape.id,
            subject=asked.subject,
            at_s=self._case.started_unix_s,
            session=asked.session,
            under=asked.blocks,
            policies=decision.policies,
            reason=decision.reason,
        )

    def _question(
        self, facts: ToolFacts, arguments: str, vouch: Vouch | None = None, *, is_endorsed: bool = False
    ) -> Question:
        shape, label = self._case.ask.shape, self._case.label or USER
        delegation = shape.principal.delegation
        untrusted = untrusted_arguments(facts, arguments, self._evidence, vouch)
        context: dict[str, Value] = {
            "labels": tuple(sorted(shape.labels)),
            "integrity": int(label.integrity),
            "confidentiality": int(label.confidentiality),
            "sources": tuple(sorted(label.sources)),
            "untrusted_arguments": untrusted,
            "depth": 0 if delegation is None else delegation.depth,
            "calls": self._num_calls,
            "verdicts": tuple(sorted({one.monitor for one in self._case.verdicts if raises(one)})),
            "model": shape.model,
        }
        if vouch is not None:
            before = untrusted_arguments(facts, arguments, self._evidence)
            context["endorsed_arguments"] = tuple(sorted({*before} - {*untrusted}))
        if is_endorsed:
            context["is_endorsed"] = True
        if shape.session is not None:
            context["session"] = shape.session
        return Question(
            principal=shape.principal,
            action="tool",
            resource=facts.name,
            attributes={
                "effect": facts.effect.name.lower(),
                "manifest": facts.manifest,
                "is_pinned": facts.is_pinned,
                "is_changed": facts.is_changed,
            },
            context=context,
        )

    @cached_property
    def _evidence(self) -> Evidence:
        messages, settings = self._request.messages or (), self._settings
        rule_of = self._book.among(self._request.tools)
        labels: Sequence[Label] = labels_of(messages, rule_of, system_is_operator=settings.system == "operator")
        return evidence_of(
            messages,
            labels,
            rule_of,
            is_bounded=settings.amounts == "bounded",
            explicit=[(kind, value) for kind, values in settings.endorses.items() for value in values],
        )


def raises(verdict: Verdict) -> bool:
    """Whether a verdict counts for policies: it is more than a note, and more than watched."""
    return not verdict.is_shadow and verdict.action != "note"


def withheld(name: str, decision: Decision, offer: str = "") -> str:
    """What stands in the place of a call that was denied; `offer` says what would have let it pass."""
    by = f" by {', '.join(decision.policies)}" if decision.policies else ""
    why = f": {decision.reason}" if decision.reason else ""
    return f"[The call of {name!r} was withheld{by}{why}.{offer}]"
