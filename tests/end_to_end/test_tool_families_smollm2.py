"""Every family's way of calling and thinking on the real model, by giving it their templates: its tokens are none of
theirs, so that marks are plain text here; that they may be control tokens is `unit/engine/test_text_tools.py`'s."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from tests.end_to_end.test_server_smollm2 import MODEL
from tests.end_to_end.test_tools_smollm2 import ADD, REQUIRED, TOOLS, ask, calls_of, collect, play, text_of, turn

from headrace.core.events import Event, Finished, ReasoningDelta, Started
from headrace.core.request import Effort, Limits, Reasoning, Request, Role, Sampling, ToolCall, ToolChoice, ToolMode
from headrace.engine.text import TextEngine
from headrace.kernels.plan import PAGE_TOKENS
from headrace.models.load import LoadedModel, load_model
from headrace.models.template import ChatTemplate

SOURCES: dict[str, str] = json.loads(
    (Path(__file__).parents[1] / "oracle" / "vectors" / "template_transformers.json").read_text("utf-8")
)["templates"]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{{ m.tool_calls }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{# the rest tells the family: "
)
FAMILIES = {
    "hermes": SOURCES["qwen3-like"],
    "mistral_lists": SOURCES["mistral-tools-like"],
    "mistral_names": CHATML + "tools [TOOL_CALLS] [ARGS] #}",
    "llama_json": SOURCES["llama3-like"],
    "pythonic": CHATML + "tools [func_name1( #}",
    "tagged": CHATML + "tools <tool_call> <function=f> <parameter=a> #}",
    "granite": CHATML + "tools <|tool_call|> #}",
}


@pytest.fixture(scope="module")
def plain(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=tmp_path_factory.mktemp("packed"))


def taught(model: LoadedModel, source: str) -> LoadedModel:
    """The model with another template."""
    return replace(model, template=ChatTemplate(source, bos_token="<|im_start|>", eos_token="<|im_end|>"))


def thought_of(events: list[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, ReasoningDelta))


@pytest.mark.parametrize("family", FAMILIES)
def test_required_calls_are_valid_in_every_familys_syntax(plain: LoadedModel, family: str) -> None:
    async def main(engine: TextEngine) -> None:
        assert engine._roster.served(MODEL).idiom.family.name == family
        for seed in range(2):
            choice = ToolChoice(ToolMode.REQUIRED, max_calls=2)
            sampling = Sampling(temperature=1.2, seed=seed)
            # The one that thinks is told not to, or it might not come to an end.
            request = ask(tool_choice=choice, sampling=sampling, reasoning=Reasoning(Effort.NONE))
            if family == "tagged":  # in which the length of a text cannot be bounded
                request = replace(request, tools=(ADD,))
            events = await collect(engine, request)
            calls = calls_of(events)
            assert 1 <= len(calls) <= 2
            for _, name, arguments in calls:
                jsonschema.validate(json.loads(arguments), TOOLS[name or ""].parameters)
            assert text_of(events) == ""

    play(taught(plain, FAMILIES[family]), main)


def test_a_thought_is_told_apart_ended_and_followed_by_the_call(plain: LoadedModel) -> None:
    opened = SOURCES["qwen3-like"].replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant\\n<think>\\n'")
    assert opened != SOURCES["qwen3-like"]

    async def main(engine: TextEngine) -> None:
        free = await collect(engine, ask(tools=(), limits=Limits(max_tokens=24)))
        assert text_of(free) == ""
        assert isinstance(free[-1], Finished) and free[-1].usage.reasoning_tokens == 24
        budget: dict[str, Any] = {"reasoning": Reasoning(max_tokens=12), "limits": Limits(max_tokens=150)}
        events = await collect(engine, ask(tools=(), **budget))
        assert thought_of(free).startswith(thought_of(events))
        assert text_of(events) != ""
        assert isinstance(events[-1], Finished) and 12 < events[-1].usage.reasoning_tokens <= 12 + 6
        called = await collect(engine, ask(tools=(ADD,), tool_choice=REQUIRED, **budget))
        assert thought_of(called) != ""
        ((_, name, arguments),) = calls_of(called)[:1]
        assert name == "add"
        jsonschema.validate(json.loads(arguments), ADD.parameters)

    play(taught(plain, opened), main)


@pytest.mark.parametrize("family", ["hermes", "mistral_lists"])
def test_what_was_called_is_found_in_the_cache_when_it_comes_back(plain: LoadedModel, family: str) -> None:
    """The template writes calls as the grammar asked for them, so that the next turn begins with the same tokens."""

    async def main(engine: TextEngine) -> None:
        first: Request = ask(tool_choice=REQUIRED, reasoning=Reasoning(Effort.NONE))
        events = await collect(engine, first)
        assert isinstance(events[0], Started)
        (call_id, name, arguments), *_ = calls_of(events)
        assert call_id and name
        call = turn("", Role.ASSISTANT, tool_calls=(ToolCall(call_id, name, arguments),))
        result = turn("sunny", Role.TOOL, tool_call_id=call_id)
        again = await collect(engine, replace(first, messages=(*(first.messages or ()), call, result)))
        assert isinstance(again[0], Started)
        # Qwen's says behind the question that it shall not think, and leaves that out later.
        shared = events[0].prompt_tokens - (16 if family == "hermes" else 0)
        assert again[0].cached_tokens >= shared // PAGE_TOKENS * PAGE_TOKENS

    play(taught(plain, FAMILIES[family]), main)
