"""What a template's source tells about a model, and what that means for its requests."""

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.core.request import (
    Effort,
    FormatKind,
    Message,
    Reasoning,
    Request,
    ResponseFormat,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolChoice,
    ToolMode,
)
from headrace.engine.grammar.composed import Composed, Opening
from headrace.engine.idiom import Idiom

TEMPLATES: dict[str, str] = json.loads(
    (Path(__file__).parents[2] / "oracle" / "vectors" / "template_transformers.json").read_text("utf-8")
)["templates"]
TOOLS = (Tool("f", "does f", {"type": "object"}), Tool("g", strict=True))


def ask(*, thinks: Reasoning = Reasoning(), **fields: Any) -> Request:  # noqa: B008 - a frozen value
    fields.setdefault("messages", (Message(Role.USER, (TextPart("q"),)),))
    return Request(id="r", model="m", reasoning=thinks, **fields)


@pytest.mark.parametrize(
    ("source", "family", "is_told", "open_mark"),
    [
        (TEMPLATES["smollm2"], "generic", False, None),
        (TEMPLATES["llama3-like"], "llama_json", True, None),
        (TEMPLATES["qwen-like"], "hermes", True, "<think>"),
        (TEMPLATES["qwen3-like"], "hermes", True, "<think>"),
        (TEMPLATES["mistral-like"], "generic", False, None),
        (TEMPLATES["mistral-tools-like"], "mistral_lists", True, None),
        (TEMPLATES["deepseek-like"], "generic", False, "<think>"),
        ("{% if tools %}[func_name1(params_name1=params_value1)]{% endif %}", "pythonic", True, None),
        (
            "{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]{{ args }}[THINK]x[/THINK]",
            "mistral_names",
            True,
            "[THINK]",
        ),
        ("{{ tools }} respond with <|tool_call|> followed by a JSON list", "granite", True, None),
        ("{% if tools %}<tool_call>\n<function=f>\n<parameter=a>{% endif %}", "tagged", True, None),
        # Calls in a way that is not read here: such a model is told about tools in words.
        ("{% if tools %}<tool_call>f\n<arg_key>a</arg_key>{% endif %}", "generic", False, None),
        ("", "generic", False, None),
    ],
)
def test_the_source_of_a_template_tells_how_its_model_calls_and_thinks(
    source: str, family: str, is_told: bool, open_mark: str | None
) -> None:
    idiom = Idiom.of(source)
    assert (idiom.family.name, idiom.is_told) == (family, is_told)
    assert (None if idiom.marks is None else idiom.marks.open) == open_mark


def test_a_vocabulary_with_marks_of_thoughts_is_a_model_that_thinks() -> None:
    assert Idiom.of("", lambda text: text in ("<think>", "</think>")).marks is not None
    assert Idiom.of("", lambda text: text == "</think>").marks is None


@pytest.mark.parametrize(
    ("source", "thinks", "told", "limit"),
    [
        ("enable_thinking </think>", Reasoning(), {}, None),
        ("enable_thinking </think>", Reasoning(Effort.NONE), {"enable_thinking": False}, None),
        ("enable_thinking </think>", Reasoning(max_tokens=0), {"enable_thinking": False}, 0),
        ("enable_thinking </think>", Reasoning(Effort.LOW, 20), {"enable_thinking": True}, 20),
        ("{% if thinking %}</think>{% endif %}", Reasoning(Effort.NONE), {"thinking": False}, None),
        ("{{ message.thinking }} {# thinking #} </think>", Reasoning(Effort.NONE), {}, 0),
        ("{{ reasoning_effort }}</think>", Reasoning(Effort.XHIGH), {"reasoning_effort": "high"}, None),
        ("{{ reasoning_effort }}</think>", Reasoning(Effort.NONE), {"reasoning_effort": "none"}, 0),
        ("</think>", Reasoning(Effort.NONE), {}, 0),
        ("</think>", Reasoning(Effort.HIGH), {}, None),
        ("no thoughts", Reasoning(Effort.NONE, 5), {}, None),
    ],
)
def test_a_template_is_told_what_it_knows_and_a_budget_does_the_rest(
    source: str, thinks: Reasoning, told: dict[str, Any], limit: int | None
) -> None:
    idiom = Idiom.of(source)
    assert idiom.variables(thinks) == told
    assert idiom.thought_limit(thinks) == limit


def test_nothing_is_parted_and_nothing_held_where_nothing_was_asked_for() -> None:
    plain = Idiom.of(TEMPLATES["smollm2"])
    assert plain.speech(ask(), 0, is_open=False) is None
    assert plain.form(ask(), is_open=False) is None
    assert plain.markers(ask()) == frozenset()
    quiet = ask(tools=TOOLS, tool_choice=ToolChoice(ToolMode.NONE))
    assert plain.speech(quiet, 0, is_open=False) is None
    assert plain.form(quiet, is_open=False) is None
    # Free calls need no grammar.
    free = ask(tools=TOOLS[:1])
    assert plain.form(free, is_open=False) is None
    assert plain.speech(free, 0, is_open=False) is not None
    form = ResponseFormat(FormatKind.JSON_OBJECT)
    assert plain.form(ask(response_format=form), is_open=False) == form
    thinking = Idiom.of(TEMPLATES["qwen3-like"])
    assert thinking.speech(ask(messages=None, prompt="p"), 0, is_open=False) is None
    assert thinking.markers(ask()) == {"<think>", "</think>"}
    assert thinking.markers(free) == {"<think>", "</think>", "<tool_call>", "</tool_call>"}


def test_a_form_says_which_calls_may_be_made_and_how_often() -> None:
    def calls(choice: ToolChoice, source: str = TEMPLATES["qwen3-like"], **fields: Any) -> Any:
        form = Idiom.of(source).form(ask(tools=TOOLS, tool_choice=choice, **fields), is_open=True)
        assert isinstance(form, Composed) and form.calls is not None
        assert form.opening is (Opening.BEGUN if "</think>" in source else Opening.NONE)
        names = tuple(tool.name for tool in form.calls.tools)
        return names, form.calls.is_required, sorted(form.calls.held), form.calls.most

    required = ToolMode.REQUIRED
    assert calls(ToolChoice(required)) == (("f", "g"), True, ["g"], None)
    assert calls(ToolChoice(required, ("f",))) == (("f",), True, [], 1)
    assert calls(ToolChoice(required, max_calls=3)) == (("f", "g"), True, ["g"], 3)
    assert calls(ToolChoice()) == (("f", "g"), False, ["g"], None)
    assert calls(ToolChoice(names=("f",))) == (("f",), False, [], None)
    # A model that was taught no calls does not know when to stop.
    assert calls(ToolChoice(required), TEMPLATES["smollm2"]) == (("f", "g"), True, ["g"], 1)
    assert calls(ToolChoice(required, max_calls=2), TEMPLATES["smollm2"]) == (("f", "g"), True, ["g"], 2)


def test_tools_are_told_in_words_where_the_template_knows_none() -> None:
    idiom = Idiom.of(TEMPLATES["smollm2"])
    call = ToolCall("call_1", "f", '{"a": 1}')
    messages = (
        Message(Role.SYSTEM, (TextPart("Be kind."),)),
        Message(Role.USER, (TextPart("q"),)),
        Message(Role.ASSISTANT, (TextPart("Let me see."),), tool_calls=(call, ToolCall("call_2", "g", ""))),
        Message(Role.TOOL, (TextPart("5"),), tool_call_id="call_1"),
        Message(Role.TOOL, (TextPart("6"),), tool_call_id="call_2"),
        Message(Role.ASSISTANT, (TextPart("Eleven."),)),
    )
    told, tools = idiom.conversation(messages, TOOLS)
    assert tools == ()
    assert [message.role for message in told] == [Role.SYSTEM, Role.USER, Role.ASSISTANT, Role.USER, Role.ASSISTANT]
    assert told[0].text.startswith("Be kind.\n\nYou can call tools.")
    assert '{"name": "f", "description": "does f", "parameters": {"type": "object"}}\n{"name": "g"}' in told[0].text
    assert told[2].text == 'Let me see.\n{"name": "f", "arguments": {"a": 1}}\n{"name": "g", "arguments": {}}'
    assert told[3].text == "Result of the call:\n5\n\nResult of the call:\n6"
    assert not any(message.tool_calls for message in told)
    assert idiom.conversation(messages[1:2], ()) == (messages[1:2], ())
    assert idiom.conversation(messages[1:2], TOOLS)[0][0].role is Role.SYSTEM
    taught = Idiom.of(TEMPLATES["qwen3-like"])
    assert taught.conversation(messages, TOOLS) == (messages, TOOLS)
