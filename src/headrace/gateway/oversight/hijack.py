"""The overseer that looks for signs that somebody else steers an agent, and raises verdicts; policies act on them.

    begin      texts that nobody vouches for are looked through, each once; a request that holds a canary is told
    hear       canaries are taken out of what is answered; one in a call of a tool, and a call that is unlike the agent,
               raise the alarm before the call is judged: this one comes before the guard of tools
    end        what the agent did becomes its habits, what was denied is counted

In shadow mode, the default, verdicts are recorded and change nothing, and canaries stay. Judges nothing itself:
`trust/monitors/hijack` does.
"""

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Final

from headrace.core.errors import HeadraceError
from headrace.core.events import ChoiceFinished, Event, ReasoningDelta, TextDelta, ToolCallDelta
from headrace.core.request import Principal, Request
from headrace.core.trust import Effect, Integrity, Verdict
from headrace.core.usage import UsageRecord
from headrace.gateway.contract import Case
from headrace.gateway.settings import Target
from headrace.trust.flow.arguments import destinations
from headrace.trust.flow.labels import is_users_alone, labels_of
from headrace.trust.flow.tools import ToolBook
from headrace.trust.monitors.hijack.canaries import SecretFilter
from headrace.trust.monitors.hijack.features import Signs, signs_of
from headrace.trust.monitors.hijack.sequence import Habits
from headrace.trust.monitors.hijack.settings import VERSION, HijackSettings, Mode

MAX_SEEN: Final = 8192
"""Texts whose signs are remembered: a conversation brings them again with every turn."""


class HijackOverseer:
    """One for all requests. `settings`, `book` and `canaries` are replaced when settings are read again."""

    def __init__(self, settings: HijackSettings, book: ToolBook, canaries: Sequence[str] = ()) -> None:
        self.settings = settings
        self.book = book
        self.canaries = tuple(canaries)
        self.habits = Habits()
        self._seen: OrderedDict[bytes, Signs] = OrderedDict()

    @property
    def reads_answers(self) -> bool:
        """See `contract.Overseer`: those to requests that declare tools, and all of them if there are canaries."""
        return self.settings.mode is not Mode.OFF

    def begin(self, case: Case) -> "HijackOversight | None":
        """Looks through what nobody vouches for. A body that cannot be read is none of its affair."""
        if self.settings.mode is Mode.OFF or (not self.canaries and is_users_alone(case.ask.raw)):
            return None  # there is nothing that nobody vouches for
        try:
            request = case.decode()
        except HeadraceError:
            return None
        case.verdicts.extend(self._of_texts(request))
        if not request.tools and not self.canaries:
            return None
        return HijackOversight(self, case, request)

    def verdict(self, monitor: str, score: float, reason: str, *, is_alarm: bool) -> Verdict:
        """One of ours. Only an alarm counts for policies, and only if it is enforced."""
        return Verdict(
            monitor=monitor,
            version=VERSION,
            score=round(score, 3),
            action="label" if is_alarm else "note",
            reason=reason,
            is_shadow=self.settings.mode is not Mode.ENFORCE,
        )

    def _of_texts(self, request: Request) -> list[Verdict]:
        messages = request.messages or ()
        labels = labels_of(messages, self.book.rule)
        tools = tuple(tool.name for tool in request.tools)
        worst, sources = Signs({}), ""
        for message, label in zip(messages, labels, strict=True):
            if label.integrity >= Integrity.USER or message.tool_calls or not message.text:
                continue
            signs = self._signs(message.text, tools)
            if signs.score > worst.score:
                worst, sources = signs, ", ".join(sorted(label.sources))
        if not worst.counts:
            return []
        is_alarm = worst.score >= self.settings.threshold
        found = ", ".join(f"{name} {count}" for name, count in sorted(worst.counts.items()))
        return [self.verdict("hijack", worst.score, f"signs in text of {sources}: {found}", is_alarm=is_alarm)]

    def _signs(self, text: str, tools: Sequence[str]) -> Signs:
        key = blake2b("\0".join((*tools, text)).encode("utf-8", "surrogatepass"), digest_size=16).digest()
        signs = self._seen.get(key)
        if signs is None:
            signs = self._seen[key] = signs_of(text, tools)
            if len(self._seen) > MAX_SEEN:
                self._seen.popitem(last=False)
        else:
            self._seen.move_to_end(key)
        return signs


class HijackOversight:
    """One for each request."""

    reads_answer = True

    def __init__(self, overseer: HijackOverseer, case: Case, request: Request) -> None:
        self._overseer = overseer
        self._case = case
        self._request = request
        self._agent = agent_of(request.principal)
        self._filters: dict[tuple[int, type[Event]], SecretFilter] = {}
        self._calls: dict[tuple[int, int], tuple[str, list[str]]] = {}
        self._num_judged = len(case.tools)

    def allows(self, _: Target) -> bool:
        """Any."""
        return True

    def prepare(self, request: Request, _: Target) -> Request:
        """Unchanged."""
        return request

    def hear(self, event: Event) -> Sequence[Event]:
        """What goes on of an event, without canaries."""
        if isinstance(event, ToolCallDelta):
            name, pieces = self._calls.setdefault((event.choice, event.index), (event.name or "", []))
            pieces.append(event.arguments)
            self._calls[event.choice, event.index] = (name or event.name or "", pieces)
        elif isinstance(event, TextDelta | ReasoningDelta) and self._overseer.canaries:
            return self._filtered(event)
        elif isinstance(event, ChoiceFinished):
            self._look_at_calls(event.choice)
            return (*self._rest(event.choice), event)
        return (event,)

    def add(self, piece: bytes) -> None:
        """Never called: answers are read."""

    def end(self, record: UsageRecord) -> None:
        """Calls that were judged become the agent's habits; too many denials are told of in the next request's case."""
        habits = self._overseer.habits
        for use in self._case.tools[self._num_judged :]:
            is_denied = use.decision is not None and not use.decision.is_allowed
            habits.saw(self._agent, _step(use.name, self._case), is_denied=is_denied)

    def _filtered(self, event: TextDelta | ReasoningDelta) -> Sequence[Event]:
        secrets = self._filters.setdefault((event.choice, type(event)), SecretFilter(self._overseer.canaries))
        before = secrets.num_found
        text = secrets.add(event.text)
        if secrets.num_found > before:
            self._tell("canary", 1.0, "a canary appeared in an answer")
        if self._is_watching or text == event.text:
            return (event,)
        return (replace(event, text=text, logprobs=()) if isinstance(event, TextDelta) else replace(event, text=text),)

    def _rest(self, choice: int) -> Sequence[Event]:
        told: list[Event] = []
        for kind in (ReasoningDelta, TextDelta):
            secrets = self._filters.get((choice, kind))
            rest = "" if secrets is None else secrets.end()
            if rest and not self._is_watching:
                told.append(kind(choice, rest, 0))
        return told

    @property
    def _is_watching(self) -> bool:
        settings = self._overseer.settings
        return settings.mode is not Mode.ENFORCE or not settings.filters_secrets

    def _look_at_calls(self, choice: int) -> None:
        overseer = self._overseer
        for name, pieces in [call for (of, _), call in self._calls.items() if of == choice]:
            arguments = "".join(pieces)
            if any(secret in text for secret in overseer.canaries for text in (arguments, _unescaped(arguments))):
                self._tell("canary", 1.0, f"a canary appeared in a call of {name}")
            surprise = overseer.habits.surprise(self._agent, _step(name, self._case))
            if surprise >= overseer.settings.surprise:
                self._tell("hijack.sequence", surprise, f"a call of {name} is unlike this agent", is_alarm=False)
            facts = overseer.book.facts(name, self._request.tools)
            going = destinations(facts, arguments) if facts.effect is Effect.EGRESS else ()
            if sum(overseer.habits.is_new_destination(self._agent, one) for one in going):
                self._tell("hijack.destination", 0.5, f"{name} has a destination that is new for it", is_alarm=False)
        num_denied = overseer.habits.num_denied(self._agent)
        if num_denied >= overseer.settings.denials:
            reason = f"{num_denied} of its latest calls were denied"
            self._tell("hijack.denials", min(1.0, num_denied / 10), reason, is_alarm=False)

    def _tell(self, monitor: str, score: float, reason: str, *, is_alarm: bool = True) -> None:
        self._case.verdicts.append(self._overseer.verdict(monitor, score, reason, is_alarm=is_alarm))


def agent_of(principal: Principal) -> str:
    """Whose habits a call is compared with."""
    return "\0".join((principal.tenant, principal.subject, principal.agent or ""))


def _unescaped(arguments: str) -> str:
    """Arguments with each character as it is, however JSON writes it."""
    try:
        return json.dumps(json.loads(arguments), ensure_ascii=False)
    except (ValueError, RecursionError):
        return ""


def _step(name: str, case: Case) -> tuple[str, bool]:
    """A call as habits know it: the tool, and whether somebody untrusted may have asked for it."""
    return name, case.label is None or case.label.integrity >= Integrity.USER
