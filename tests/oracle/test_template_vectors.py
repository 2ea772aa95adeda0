"""Our rendering equals transformers', recorded by scripts/record_templates.py for eleven families of chat templates."""

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.core.errors import InvalidRequest
from headrace.models.template import ChatTemplate

VECTORS: dict[str, Any] = json.loads(
    (Path(__file__).parent / "vectors" / "template_transformers.json").read_text("utf-8")
)


class RecordedClock:
    def monotonic_s(self) -> float:
        return 0.0

    def unix_s(self) -> float:
        return float(VECTORS["unix_s"])


def case_name(case: dict[str, Any]) -> str:
    parts = [
        case["template"],
        case["conversation"],
        "tools" if case["tools"] else "",
        "prompt" if case["add_generation_prompt"] else "",
        *case["variables"],
    ]
    return "-".join(filter(None, parts))


@pytest.mark.parametrize("case", VECTORS["cases"], ids=case_name)
def test_rendering_equals_transformers(case: dict[str, Any]) -> None:
    source = VECTORS["templates"][case["template"]]
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>", clock=RecordedClock())
    messages = VECTORS["conversations"][case["conversation"]]

    try:
        rendered = template.render(
            messages,
            case["tools"],
            add_generation_prompt=case["add_generation_prompt"],
            variables=case["variables"],
        )
    except InvalidRequest as error:
        assert case.get("error", "no error expected").rstrip(".") in error.message
    else:
        assert rendered == case.get("text")
