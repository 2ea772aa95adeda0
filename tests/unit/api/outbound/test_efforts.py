"""An effort of thinking is a wish: a model that does not think is not asked, and answers as ever."""

import json
from typing import Any

import pytest

from headrace.api.outbound.codec import Quirks
from headrace.api.outbound.registry import CODECS
from headrace.core.request import Effort, Message, Reasoning, Request, Role, TextPart

ASKED = Request(id="r", model="m", messages=(Message(Role.USER, (TextPart("Hi"),)),), reasoning=Reasoning(Effort.HIGH))


def asked(protocol: str, model: str) -> Any:
    """What the body says of thinking."""
    body = json.loads(CODECS[protocol].encode(ASKED, model, Quirks()).body)
    found = (body.get("reasoning_effort"), body.get("reasoning"), body.get("thinking"))
    config = body.get("generationConfig", {}).get("thinkingConfig")
    return next((one for one in (*found, config) if one is not None), None)


@pytest.mark.parametrize(
    ("protocol", "model", "said"),
    [
        ("chat", "gpt-5", "high"),
        ("chat", "o3", "high"),
        ("chat", "gpt-4.1", None),
        ("chat", "openai/gpt-4o", None),
        ("responses", "gpt-5", {"effort": "high"}),
        ("responses", "gpt-4.1-mini", None),
        ("messages", "claude-sonnet-5", {"type": "adaptive"}),
        ("messages", "claude-3-5-haiku", None),
        ("gemini", "gemini-3-flash", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
        ("gemini", "gemini-2.0-flash", None),
    ],
)
def test_only_models_that_think_are_asked_to(protocol: str, model: str, said: Any) -> None:
    assert asked(protocol, model) == said
