"""What changed between the requests of two messages, as far as Anthropic's protocol has a word for it."""

from dataclasses import replace
from typing import Any

import pytest

from headrace.api.anthropic_diagnosis import diagnose, fingerprint
from headrace.core.events import CacheMiss, MissReason, Started
from headrace.core.request import Effort, Message, Reasoning, Request, Role, TextPart, Tool

STARTED = Started("msg_1", "m", 100, 0, {"model": "sha256:1", "template": "sha256:2"})


def said(role: Role, text: str) -> Message:
    return Message(role, (TextPart(text),))


FIRST = Request(id="msg_1", model="m", messages=(said(Role.SYSTEM, "s"), said(Role.USER, "a")))
NEXT = replace(FIRST, messages=(*(FIRST.messages or ()), said(Role.ASSISTANT, "b"), said(Role.USER, "c")))
KNOWN = fingerprint(FIRST, STARTED)


def reason(request: Request = NEXT, **started: Any) -> dict[str, Any] | None:
    return diagnose(request, replace(STARTED, cached_tokens=64, **started), KNOWN)


def test_a_conversation_that_only_grew_has_no_reason() -> None:
    assert reason() is None
    assert reason(FIRST) is None


@pytest.mark.parametrize("lost", [MissReason.EVICTED, MissReason.EXPIRED, MissReason.COLD])
def test_what_grew_and_was_lost_all_the_same_is_unavailable(lost: MissReason) -> None:
    assert reason(cache_miss=CacheMiss(lost, 64)) == {"type": "unavailable"}
    assert reason(cache_miss=CacheMiss(MissReason.EXTENDED, 64)) is None


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"messages": (said(Role.SYSTEM, "t"), *(NEXT.messages or ())[1:])}, "system_changed"),
        ({"messages": (NEXT.messages or ())[1:]}, "system_changed"),
        ({"tools": (Tool("f"),)}, "tools_changed"),
        ({"messages": (said(Role.SYSTEM, "s"), said(Role.USER, "x"))}, "messages_changed"),
        ({"messages": (said(Role.SYSTEM, "s"),)}, "messages_changed"),
    ],
)
def test_the_first_part_that_differs_is_named_with_what_it_cost(fields: dict[str, Any], kind: str) -> None:
    assert reason(replace(NEXT, **fields)) == {"type": kind, "cache_missed_input_tokens": 36}


def test_another_model_template_or_adapter_is_another_model() -> None:
    for changed in ({"model": "n"}, {"digests": {"model": "sha256:3", "template": "sha256:2"}}):
        told = reason(**changed)
        assert told is not None
        assert told["type"] == "model_changed"


def test_parameters_that_alter_the_prompt_are_unavailable() -> None:
    assert reason(replace(NEXT, reasoning=Reasoning(Effort.HIGH))) == {"type": "unavailable"}


def test_an_unknown_message_is_not_found() -> None:
    assert diagnose(NEXT, STARTED, None) == {"type": "previous_message_not_found"}
