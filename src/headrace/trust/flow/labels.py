"""The label of every part of a conversation: from its role and its authenticated source, never from what it says.

A client's turns are its principal's words, but for the documents that stand in them; a tool's result is the tool's,
which is found through the call that it answers. What a model wrote is as trustworthy as the least of what it had read;
where what it had read is not here (a summary, an assistant's turn before any user's), nobody knows. What was kept with
a label has it still, whatever stands before it now. Text that looks like a turn of another role is text of the turn
that it stands in.
"""

import re
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Final

from headrace.core.gateway import RawBody
from headrace.core.request import Message, Role
from headrace.core.trust import TRUSTED, Confidentiality, Integrity, Label
from headrace.trust.flow.settings import ToolRule

USER: Final = Label(Integrity.USER, Confidentiality.TENANT, frozenset({"user"}))
OPERATOR: Final = Label(Integrity.OPERATOR, Confidentiality.TENANT, frozenset({"operator"}))
DOCUMENT: Final = Label(Integrity.UNKNOWN, Confidentiality.TENANT, frozenset({"document"}))
UNKNOWN: Final = Label(Integrity.UNKNOWN, Confidentiality.TENANT, frozenset({"unknown"}))

RuleOf = Callable[[str], ToolRule]

# Fields that hold turns, or say how an answer is drawn. Any other may hold documents, tools, or what nobody knows.
_TURNS: Final = frozenset({"messages", "prompt"})
_PLAIN: Final = _TURNS.union(
    {
        *("model", "system", "user", "metadata", "stream", "stream_options", "max_tokens", "max_completion_tokens"),
        *("stop", "stop_sequences", "n", "seed", "temperature", "top_p", "top_k", "min_p", "presence_penalty"),
        *("frequency_penalty", "logit_bias", "logprobs", "top_logprobs", "response_format", "reasoning_effort"),
        "thinking",
    }
)
_DIALECTS: Final = frozenset({"chat", "completions", "messages"})
# What a turn of a tool, a call or its result is called in any of them, and what a turn may bring along; and a letter in
# another spelling. Somebody who only writes of such things is read in full.
_MARKS: Final = tuple(rb"tool function search_result document file image audio video \u".split())
_SPEAKER: Final = re.compile(rb'"role"\s*:\s*"(user|assistant)"')


def is_users_alone(raw: RawBody | None) -> bool:
    """Whether a body holds turns of its sender, its system and the model alone, as far as that can be told without
    reading it: their label is USER then. False where that cannot be told."""
    if raw is None or raw.dialect not in _DIALECTS:
        return False
    if not raw.fields.keys() <= _PLAIN or raw.fields.keys().isdisjoint(_TURNS):
        return False
    first = _SPEAKER.search(raw.fields.get("messages", b""))
    if first is not None and first[1] == b"assistant":
        return False  # what it had read is not here
    return not any(mark in value for value in raw.fields.values() for mark in _MARKS)


def callers(messages: Sequence[Message]) -> tuple[str | None, ...]:
    """For each turn the tool whose result it is: None for other turns and for an answer to a call that nobody made
    before it."""
    asked: dict[str, str] = {}
    found: list[str | None] = []
    for message in messages:
        found.append(asked.get(message.tool_call_id or "") if message.role is Role.TOOL else None)
        if message.role is Role.ASSISTANT:
            asked.update({call.id: call.name for call in message.tool_calls})
    return tuple(found)


def labels_of(messages: Sequence[Message], rule_of: RuleOf, *, system_is_operator: bool = False) -> tuple[Label, ...]:
    """The label of each turn, and so of each of its parts. An assistant's is the join of all before it."""
    system = OPERATOR if system_is_operator else USER
    so_far, has_begun = TRUSTED, False
    labels: list[Label] = []
    for message, caller in zip(messages, callers(messages), strict=True):
        if message.role in (Role.SYSTEM, Role.DEVELOPER):
            label = system
        elif message.role is Role.USER:
            label, has_begun = USER, True
            if any(part.is_quoted for part in message.parts):
                label = USER.join(DOCUMENT)
        elif message.role is Role.ASSISTANT:
            label = so_far if has_begun and not message.is_summary else UNKNOWN
        else:
            label = UNKNOWN if caller is None else _of_tool(caller, rule_of(caller))
        if message.label is not None:
            label = label.join(message.label)
        labels.append(label)
        so_far = so_far.join(label)
    return tuple(labels)


def joined(labels: Sequence[Label]) -> Label:
    """The label of everything that a model reads; of a prompt without turns, that of its caller."""
    return reduce(Label.join, labels, TRUSTED) if labels else USER


def _of_tool(name: str, rule: ToolRule) -> Label:
    integrity = Integrity.USER if rule.is_trusted else Integrity.TOOL
    return Label(integrity, rule.confidentiality, frozenset({f"tool:{name}"}))
