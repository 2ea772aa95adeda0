"""Conversations for templates that know instructions at the beginning alone, and users and assistants that take turns.

Agents say new things of their own in system messages in the middle. Where a template refuses them, or leaves them out,
the words are read as part of the user's turn beside them: the model still hears them, with less weight. Knows no
template.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from headrace.core.request import Message, Role, TextPart

_INSTRUCTIONS: Final = frozenset({Role.SYSTEM, Role.DEVELOPER})
_JOINED: Final = _INSTRUCTIONS | {Role.USER}


def has_later_instructions(messages: Sequence[Message]) -> bool:
    """Whether an instruction stands behind something else."""
    is_instruction = [message.role in _INSTRUCTIONS for message in messages]
    return any(is_instruction[sum(is_instruction) :])


def fold_instructions(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The same words with all instructions that come later in turns of users, and no two turns of one of these roles in
    a row."""
    folded: list[Message] = []
    for message in messages:
        role, last = message.role, folded[-1] if folded else None
        if role in _INSTRUCTIONS and last is not None:
            role = last.role if last.role in _INSTRUCTIONS else Role.USER
        if last is not None and last.role is role and role in _JOINED:
            folded[-1] = replace(last, parts=(TextPart(f"{last.text}\n\n{message.text}"),))
        else:
            folded.append(replace(message, role=role))
    return tuple(folded)
