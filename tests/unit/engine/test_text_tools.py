"""Tools, thoughts and reading without answering through the whole engine on the toy model."""

import json
from typing import Any, ClassVar

import jsonschema
import pytest
from tests.doubles import TOY_PAGE_BYTES, ManualClock, ToyModel, ToyProgram, ToyTemplate, ToyTokenizer, toy_text
from tests.unit.engine.test_text import IDS, PROMPT, ask, collect, greedy, make, run, text_of

from headrace.core.errors import UnsupportedField
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.request import (
    Breakpoint,
    CacheHints,
    Effort,
    FormatKind,
    Message,
    Reasoning,
    ResponseFormat,
    Role,
    TextPart,
    Tool,
    ToolChoice,
    ToolMode,
)
from headrace.engine.config import EngineConfig
from headrace.engine.text import TextEngine
from headrace.kernels.plan import PAGE_TOKENS

TOOL = Tool(
    "f",
    "",
    {"type": "object", "properties": {"a": {"enum": [1, "two", None]}, "b": {"type": "boolean"}}, "required": ["a"]},
)
REQUIRED = ToolChoice(ToolMode.REQUIRED)
SAID = "Say something long about mills."
OPEN = f"{SAID} <think>"


class ThinkingTemplate(ToyTemplate):
    """The toy's, of a model that thinks."""

    tool_source = "{{ messages }}</think>"


class FillingTokenizer(ToyTokenizer):
    """The toy's, whose tokens of some characters fill in the middle."""

    filling: tuple[int, ...] = (1, 2, 3)
    filling_ends: ClassVar[frozenset[int]] = frozenset({1, 2, 3, 64})


class MarkedTokenizer(ToyTokenizer):
    """The toy's, with marks as control tokens in the place of some characters, and a line end."""

    special_tokens: ClassVar[dict[str, int]] = {
        **ToyTokenizer.special_tokens,
        "<tool_call>": 32,
        "</tool_call>": 60,
        "<think>": 62,
        "</think>": 64,
    }
    byte_table: ClassVar[list[bytes]] = [
        b"\n" if token == 3 else b"" if token in {32, 60, 62, 64} else data
        for token, data in enumerate(ToyTokenizer.byte_table)
    ]

    def token_text(self, token: int) -> str:
        names = {number: mark for mark, number in self.special_tokens.items()}
        return names.get(token) or super().token_text(token)

    def split(self, text: str) -> list[str | int]:
        for mark, token in self.special_tokens.items():
            before, found, after = text.partition(mark)
            if found:
                return [*self.split(before), token, *self.split(after)]
        return [text] if text else []


class QwenTemplate(ToyTemplate):
    """The toy's, of a family with marks."""

    tool_source = "{{ tools }} <tool_call> enable_thinking <think></think>"
    said: list[int] | None = None

    def encode_chat(self, tokenizer: ToyTokenizer, *given: Any, **options: Any) -> list[int]:
        return self.said or super().encode_chat(tokenizer, *given, **options)


def made(**fields: Any) -> TextEngine:
    """An engine around a toy with some part of it replaced."""
    sizes: dict[str, Any] = {"max_batch_tokens": 64, "prefill_chunk": 32, "max_sequences": 4}
    config = EngineConfig(**sizes, checks=True, threads=1, kv_memory_bytes=128 * TOY_PAGE_BYTES)
    models: list[Any] = [ToyModel(program=ToyProgram(), context_length=1024, **fields)]
    return TextEngine(models, config, clock=ManualClock(), threads=object(), seeds=lambda: 5)


def chat(text: str) -> tuple[Message, ...]:
    return (Message(Role.USER, (TextPart(text),)),)


def calls_of(events: list[Event], choice: int = 0) -> list[tuple[str, str]]:
    names, arguments = [], dict[int, str]()
    for event in events:
        if isinstance(event, ToolCallDelta) and event.choice == choice:
            if event.name is not None:
                names.append(event.name)
            arguments[event.index] = arguments.get(event.index, "") + event.arguments
    return list(zip(names, arguments.values(), strict=True))


def thought_of(events: list[Event], choice: int = 0) -> str:
    return "".join(event.text for event in events if isinstance(event, ReasoningDelta) and event.choice == choice)


def usage_of(events: list[Event]) -> Usage:
    assert isinstance(events[-1], Finished)
    return events[-1].usage


def test_every_required_call_is_valid_and_every_token_of_it_is_counted() -> None:
    engine = made()

    async def main() -> None:
        seen = set()
        for seed in range(20):
            request = ask(
                messages=chat(SAID), tools=(TOOL,), tool_choice=REQUIRED, temperature=1.5, seed=seed, max_tokens=120
            )
            events = await collect(engine.run(request))
            ((name, arguments),) = calls_of(events)
            assert name == "f"
            jsonschema.validate(json.loads(arguments), {**TOOL.parameters, "additionalProperties": False})
            assert events[-2] == ChoiceFinished(0, FinishReason.TOOL_CALLS)
            told = sum(event.num_tokens for event in events if isinstance(event, TextDelta | ToolCallDelta))
            assert told == usage_of(events).completion_tokens
            seen.add(arguments)
        assert len(seen) > 4

    run(engine, main)


def test_the_best_of_several_calls_is_told_once() -> None:
    engine = made()

    async def main() -> None:
        request = ask(
            messages=chat(SAID), tools=(TOOL,), tool_choice=REQUIRED, temperature=1.0, best_of=3, max_tokens=120
        )
        events = await collect(engine.run(request))
        assert len(calls_of(events)) == 1
        assert [event.reason for event in events if isinstance(event, ChoiceFinished)] == [FinishReason.TOOL_CALLS]

    run(engine, main)


@pytest.mark.parametrize("logprobs", [None, 0])
def test_a_thought_ends_after_its_budget_and_the_answer_begins(logprobs: int | None) -> None:
    engine = made(template=ThinkingTemplate())

    async def main() -> None:
        ids = ToyTokenizer().encode(OPEN)
        options: dict[str, Any] = {"messages": chat(OPEN), "max_tokens": 40, "ignore_eos": True, "logprobs": logprobs}
        free = await collect(engine.run(ask(**options)))
        assert thought_of(free) == toy_text(greedy(40, ids))
        assert usage_of(free).reasoning_tokens == 40
        events = await collect(engine.run(ask(**options, reasoning=Reasoning(max_tokens=5))))
        assert thought_of(events) == toy_text(greedy(5, ids))
        assert usage_of(events).reasoning_tokens == 5 + len("</think>")
        behind = ToyTokenizer().encode(OPEN + thought_of(events) + "</think>")
        assert text_of(events) == toy_text(greedy(40 - 5 - len("</think>"), behind))
        assert usage_of(events).completion_tokens == 40
        quiet = await collect(engine.run(ask(**options, reasoning=Reasoning(Effort.NONE))))
        assert thought_of(quiet) == ""
        behind = ToyTokenizer().encode(OPEN + "</think>")
        assert text_of(quiet) == toy_text(greedy(40 - len("</think>"), behind))

    run(engine, main)


def test_the_end_of_a_thought_is_forced_whole_and_nothing_behind_it() -> None:
    tokenizer = MarkedTokenizer()
    engine = made(tokenizer=tokenizer, template=QwenTemplate())

    async def main() -> None:
        opened = [*ToyTokenizer().encode(SAID), 62]
        template.said = opened
        request = ask(messages=chat(SAID), max_tokens=30, ignore_eos=True, reasoning=Reasoning(max_tokens=3))
        events = await collect(engine.run(request))
        thought = greedy(3, opened)
        expected = greedy(30 - 3 - 4, [*opened, *thought, 3, 64, 3, 3])
        shown = "".join(tokenizer.byte_table[token].decode() or tokenizer.token_text(token) for token in expected)
        assert text_of(events) == shown.lstrip("\n")
        assert usage_of(events).reasoning_tokens == 5

    template = engine._roster.served("toy").model.template
    assert isinstance(template, QwenTemplate)
    run(engine, main)


def test_behind_a_thought_comes_the_form_of_the_answer_or_a_call() -> None:
    engine = made(template=ThinkingTemplate())

    async def main() -> None:
        form = ResponseFormat(FormatKind.CHOICE, choices=("yes", "no"))
        options: dict[str, Any] = {"messages": chat(OPEN), "max_tokens": 200, "reasoning": Reasoning(max_tokens=9)}
        events = await collect(engine.run(ask(**options, response_format=form, num_choices=3, temperature=1.0)))
        assert {text_of(events, choice) for choice in range(3)} <= {"yes", "no"}
        assert len({thought_of(events, choice) for choice in range(3)}) == 3
        events = await collect(engine.run(ask(**options, tools=(TOOL,), tool_choice=REQUIRED, temperature=1.0)))
        ((_, arguments),) = calls_of(events)
        jsonschema.validate(json.loads(arguments), TOOL.parameters)
        assert text_of(events) == ""
        # A model that may think, but was not made to, may also answer at once.
        outcomes = set()
        for seed in range(8):
            request = ask(messages=chat(SAID), response_format=form, max_tokens=20, temperature=1.0, seed=seed)
            events = await collect(engine.run(request))
            outcomes.add("thinks" if thought_of(events) else text_of(events))
        assert outcomes == {"thinks", "yes", "no"}

    run(engine, main)


@pytest.mark.parametrize("num_choices", [1, 3])
def test_reading_without_answering_tells_the_end_and_nothing_else(num_choices: int) -> None:
    engine = make()

    async def main() -> None:
        request = ask(max_tokens=0, num_choices=num_choices, session="s", logprobs=2)
        events = await collect(engine.run(request))
        assert isinstance(events[0], Started)
        ends = [ChoiceFinished(choice, FinishReason.LENGTH) for choice in range(num_choices)]
        assert sorted(events[1:-1], key=repr) == ends
        assert usage_of(events) == Usage(len(IDS), 0, 0)
        again = await collect(engine.run(ask(max_tokens=4, session="s")))
        assert isinstance(again[0], Started)
        assert again[0].cached_tokens == (len(IDS) - 1) // PAGE_TOKENS * PAGE_TOKENS
        assert text_of(again) == toy_text(greedy(4))
        await engine.release("s")

    run(engine, main)


def test_a_gap_is_filled_by_models_that_have_the_tokens_and_refused_by_others() -> None:
    engine = made(tokenizer=FillingTokenizer())

    async def main() -> None:
        ids = [1, *ToyTokenizer().encode("def f("), 2, *ToyTokenizer().encode("return x"), 3]
        events = await collect(engine.run(ask(prompt="def f(", suffix="return x", max_tokens=30)))
        assert isinstance(events[0], Started)
        assert events[0].prompt_tokens == len(ids)
        expected = greedy(30, ids)
        assert 64 not in expected[:3] and expected[3] == 64  # a token of the kind that ends a file
        assert text_of(events) == toy_text(expected[:3])

    run(engine, main)
    plain = make()

    async def refused() -> None:
        with pytest.raises(UnsupportedField, match="suffix: toy has no tokens"):
            await collect(plain.run(ask(suffix="x")))

    run(plain, refused)


def test_tools_stand_in_front_and_their_end_is_where_a_breakpoint_may_be() -> None:
    engine = made()
    served = engine._roster.served("toy")
    tools = (TOOL, Tool("g", "does something else"))
    for texts in (("q",), ("long question " * 3, "answer", "more")):
        messages = tuple(
            Message(Role.ASSISTANT if place % 2 else Role.USER, (TextPart(text),)) for place, text in enumerate(texts)
        )
        cache = CacheHints(breakpoints=(Breakpoint(-1), Breakpoint(0), Breakpoint(None)))
        request = ask(messages=messages, tools=tools, cache=cache)
        tokens = served.encode(request)
        before, first, whole = (keep.num_tokens for keep in served.keeps(request, tokens))
        text = toy_text(tokens.tolist())
        assert whole == len(tokens)
        # Tools are the last thing but how to call them, and what is said comes behind that.
        assert text[:before].endswith("does something else")
        assert text[:first].endswith(texts[0])
        assert served.message_at(request, before, tokens) == 0
    without = ask(messages=(Message(Role.SYSTEM, (TextPart("abc"),)), *chat("q")), cache=cache)
    assert served.end_of(without, -1, served.encode(without)) == 0
    opened = make(system="Be kind. ")._roster.served("toy")
    request = ask(messages=chat("q"))
    assert opened.end_of(request, -1, opened.encode(request)) == len("Be kind. ")


def test_tools_of_a_raw_prompt_are_refused() -> None:
    engine = make()

    async def main() -> None:
        with pytest.raises(UnsupportedField, match="tools: go with messages only"):
            await collect(engine.run(ask(prompt=PROMPT, tools=(TOOL,))))

    run(engine, main)


def test_no_answer_is_begun_for_a_model_that_begins_with_a_thought() -> None:
    engine = made(template=ThinkingTemplate())

    async def main() -> None:
        with pytest.raises(UnsupportedField, match="answer_start: toy begins its answers with what it thinks"):
            await collect(engine.run(ask(messages=chat(OPEN), answer_start="So")))
        events = await collect(engine.run(ask(messages=chat(SAID), answer_start=" So", ignore_eos=True)))
        assert usage_of(events).prompt_tokens == len(ToyTokenizer().encode(SAID + " So"))

    run(engine, main)


def test_marks_that_are_control_tokens_are_read_and_never_shown() -> None:
    engine = made(tokenizer=MarkedTokenizer(), template=QwenTemplate())

    async def main() -> None:
        thinking = Reasoning(Effort.LOW, 4)
        options: dict[str, Any] = {"tools": (TOOL,), "tool_choice": REQUIRED, "temperature": 1.0, "max_tokens": 300}
        num_thoughts = 0
        for seed in range(8):
            events = await collect(engine.run(ask(messages=chat(SAID), seed=seed, reasoning=thinking, **options)))
            ((name, arguments), *_) = calls_of(events)
            assert name == "f"
            jsonschema.validate(json.loads(arguments), TOOL.parameters)
            assert text_of(events) == ""
            assert not {"<tool_call>", "<think>", "</think>"} & {thought_of(events)}
            usage = usage_of(events)
            # Its marks, what is between them, and the line ends that go with the second.
            assert usage.reasoning_tokens <= 1 + 4 + 4
            num_thoughts += usage.reasoning_tokens > 0
        assert num_thoughts > 0
        # Who brings no tools sees no mark of calls either.
        plain = await collect(engine.run(ask(messages=chat(SAID), max_tokens=200, ignore_eos=True)))
        assert "tool_call" not in text_of(plain) + thought_of(plain)

    run(engine, main)


def test_who_leaves_in_the_middle_of_a_call_leaves_nothing_behind() -> None:
    engine = made()

    async def main() -> None:
        request = ask(
            messages=chat(SAID), tools=(TOOL,), tool_choice=REQUIRED, num_choices=3, max_tokens=200, logprobs=0
        )
        events = engine.run(request)
        async for event in events:
            if isinstance(event, ToolCallDelta):
                break
        await events.aclose()
        # The next one finds everything free, and a grammar that is as good as new.
        again = await collect(engine.run(ask(messages=chat(SAID), tools=(TOOL,), tool_choice=REQUIRED, max_tokens=200)))
        assert len(calls_of(again)) == 1

    run(engine, main)


def test_an_answer_is_over_when_its_last_call_is_and_its_siblings_go_on() -> None:
    engine = made()

    async def main() -> None:
        two = ToolChoice(ToolMode.REQUIRED, max_calls=2)
        for seed in range(6):
            request = ask(
                messages=chat(SAID),
                tools=(TOOL,),
                tool_choice=two,
                num_choices=3,
                temperature=1.0,
                seed=seed,
                max_tokens=250,
            )
            events = await collect(engine.run(request))
            for choice in range(3):
                calls = calls_of(events, choice)
                assert 1 <= len(calls) <= 2
                for _, arguments in calls:
                    jsonschema.validate(json.loads(arguments), TOOL.parameters)
            told = sum(event.num_tokens for event in events if isinstance(event, TextDelta | ToolCallDelta))
            assert told == usage_of(events).completion_tokens

    run(engine, main)
