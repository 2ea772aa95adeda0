"""What an answer must be for nobody better to be asked: tests of a whole answer in events, by name. Values in, values
out.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from headrace.core.events import ChoiceFinished, Event, FinishReason, TextDelta, ToolCallDelta
from headrace.core.request import FormatKind, Request
from headrace.gateway.fits import fits

MIN_LOGPROB: Final = "min_logprob"


@dataclass(slots=True)
class Spoken:
    """One choice of an answer."""

    text: str = ""
    calls: dict[int, str] = field(default_factory=dict)
    reason: FinishReason | None = None
    logprobs: list[float] = field(default_factory=list)


def spoken(events: Iterable[Event]) -> list[Spoken]:
    """An answer by choices."""
    choices: dict[int, Spoken] = {}
    for event in events:
        if isinstance(event, (TextDelta, ToolCallDelta, ChoiceFinished)):
            one = choices.setdefault(event.choice, Spoken())
            if isinstance(event, TextDelta):
                one.text += event.text
                one.logprobs += [token.logprob for token in event.logprobs]
            elif isinstance(event, ToolCallDelta):
                one.calls[event.index] = one.calls.get(event.index, "") + event.arguments
            else:
                one.reason = event.reason
    return list(choices.values())


def objection(names: Sequence[str], request: Request, events: Iterable[Event]) -> str:
    """Which verifier says no to an answer, empty if none does."""
    choices = spoken(events)
    for name in names:
        word, _, value = name.partition(":")
        if not all(_VERIFIERS[word](one, request, value) for one in choices):
            return name
    return ""


def needs_logprobs(names: Iterable[str]) -> bool:
    """Whether a verifier looks at log-probabilities, which have to be asked for."""
    return any(name.startswith(MIN_LOGPROB) for name in names)


def _parse(text: str) -> object:
    return json.loads(text, parse_constant=_refuse)


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is no JSON")


def _is_json(choice: Spoken, _: Request, __: str) -> bool:
    # An answer that is all calls has no text; what is in the calls is JSON as well.
    texts = [*([choice.text] if choice.text or not choice.calls else ()), *choice.calls.values()]
    try:
        for text in texts:
            _parse(text)
    except (ValueError, RecursionError):
        return False
    return True


def _fits_schema(choice: Spoken, request: Request, value: str) -> bool:
    form = request.response_format
    if not _is_json(choice, request, value) and (form.kind is not FormatKind.TEXT or choice.calls):
        return False
    if form.kind is FormatKind.JSON_SCHEMA and not choice.calls:
        return fits(_parse(choice.text), form.schema)
    if form.kind is FormatKind.CHOICE:
        return choice.text in form.choices
    parameters = [tool.parameters for tool in request.tools]
    return all(any(fits(_parse(text), one) for one in parameters) for text in choice.calls.values())


def _is_finished(choice: Spoken, _: Request, __: str) -> bool:
    return choice.reason not in {None, FinishReason.LENGTH, FinishReason.FILTERED}


def _is_sure(choice: Spoken, _: Request, least: str) -> bool:
    # Without log-probabilities there is nothing to doubt: a call has none.
    return not choice.logprobs or sum(choice.logprobs) / len(choice.logprobs) > float(least)


_VERIFIERS: Final[dict[str, Callable[[Spoken, Request, str], bool]]] = {
    "json": _is_json,
    "schema": _fits_schema,
    "finished": _is_finished,
    MIN_LOGPROB: _is_sure,
}
VERIFIERS: Final = tuple(_VERIFIERS)
