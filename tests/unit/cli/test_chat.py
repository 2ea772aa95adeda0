"""The terminal chat: history, commands, and what happens to an answer that is cut short."""

import asyncio
import io
import os
import re
import signal
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import pytest
from tests.scripted import Scripted, Turn

from headrace.cli.chat import Chat, Conversation, Terminal
from headrace.cli.generate import Answer, Ask, as_dict, stream, to_format, to_request
from headrace.core.backend import ModelCard, Probe
from headrace.core.errors import ContextTooLong, InvalidRequest
from headrace.core.events import ChoiceFinished, Event, Finished, FinishReason, Started, TextDelta, TokenLogprob, Usage
from headrace.core.request import FormatKind, Limits, Request, ResponseFormat, Sampling


class Parrot:
    """A backend that answers with the last message, word by word; `on_word` may interrupt or fail it."""

    def __init__(self, on_word: Callable[[int], None] = lambda _: None) -> None:
        self.requests: list[Request] = []
        self.closed = 0
        self._on_word = on_word

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        text = request.messages[-1].text if request.messages else request.prompt or ""
        words = text.split()
        try:
            yield Started(request.id, request.model, len(words))
            for number, word in enumerate(words):
                self._on_word(number)
                await asyncio.sleep(0)
                yield TextDelta(0, word + " ", 1)
            yield ChoiceFinished(0, FinishReason.STOP)
            yield Finished(Usage(len(words), len(words)))
        finally:
            self.closed += 1

    def models(self) -> tuple[ModelCard, ...]:
        return ()

    async def probe(self, request: Request) -> Probe:
        return Probe(0, 0, fits=True)

    async def release(self, session: str, tenant: str = "local") -> None:
        pass


def talk(backend: Parrot, *lines: str, conversation: Conversation | None = None) -> str:
    out = io.StringIO()
    source: Iterator[str] = iter(lines)

    def read(_: str) -> str:
        try:
            line = next(source)
        except StopIteration:
            raise EOFError from None
        if line == "^C":
            raise KeyboardInterrupt
        return line + "\n"

    terminal = Terminal(read, out, is_pretty=False)
    Chat(backend, "m", terminal, conversation or Conversation(), Sampling(), Limits()).run()
    return out.getvalue()


def texts(request: Request) -> list[str]:
    assert request.messages is not None
    return [f"{message.role.value}: {message.text}" for message in request.messages]


def test_each_turn_sends_everything_that_was_said() -> None:
    backend = Parrot()
    assert talk(backend, "one two", "three") == "one two \nthree \n"
    assert texts(backend.requests[1]) == ["user: one two", "assistant: one two ", "user: three"]
    assert backend.closed == 2


def test_commands_change_the_conversation_and_are_not_sent() -> None:
    backend = Parrot()
    shown = talk(
        backend, "/system Be kind", "hello", "/clear", "again", "/history", "/nonsense", "/help", "/exit", "no"
    )
    assert texts(backend.requests[0]) == ["system: Be kind", "user: hello"]
    assert texts(backend.requests[1]) == ["system: Be kind", "user: again"]
    assert len(backend.requests) == 2
    assert "no command /nonsense" in shown and "/clear " in shown and "user: again" in shown


def test_the_prompts_colours_are_marked_as_taking_no_room_so_that_long_lines_can_be_edited() -> None:
    prompts = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        raise EOFError

    Chat(Parrot(), "m", Terminal(read, io.StringIO(), is_pretty=True), Conversation(), Sampling(), Limits()).run()
    assert re.sub("\x01[^\x02]*\x02", "", prompts[0]) == "> "


def test_a_models_text_cannot_steer_the_terminal() -> None:
    out = io.StringIO()
    lines = iter(["\x1b]0;owned\x07 a\tb \x9b2J", "/history"])

    def read(_: str) -> str:
        try:
            return next(lines)
        except StopIteration:
            raise EOFError from None

    Chat(Parrot(), "m", Terminal(read, out, is_pretty=True), Conversation(), Sampling(), Limits()).run()
    shown = re.sub("\x1b\\[[012]m", "", out.getvalue())
    assert "]0;owned" in shown
    assert not set("\x1b\x07\x9b") & set(shown)


def test_empty_lines_are_ignored_and_ctrl_c_at_the_prompt_says_how_to_leave() -> None:
    backend = Parrot()
    assert "Ctrl-D or /exit leaves." in talk(backend, "", "   ", "^C", "hi")
    assert len(backend.requests) == 1


def test_ctrl_c_stops_the_answer_keeps_what_was_said_and_the_chat_goes_on() -> None:
    def interrupt(number: int) -> None:
        if number == 2:
            os.kill(os.getpid(), signal.SIGINT)

    backend = Parrot(interrupt)
    conversation = Conversation()
    shown = talk(backend, "a b c d e f", "g", conversation=conversation)
    assert backend.closed == 2
    assert shown.endswith("g \n") and "f" not in shown
    first_answer = conversation.turns[1].text
    assert first_answer.startswith("a b ") and "f" not in first_answer


def test_what_could_not_be_answered_is_not_kept() -> None:
    def fail(number: int) -> None:
        raise ContextTooLong("The prompt has 9 tokens and the model's context 8.")

    conversation = Conversation()
    shown = talk(Parrot(fail), "too long", conversation=conversation)
    assert "context 8. (/clear starts anew.)" in shown
    assert conversation.turns == []


def ask(**changes: object) -> Ask:
    fields = {"prompt": "p", "system": None, "raw": False, "sampling": Sampling(), "limits": Limits(), **changes}
    return Ask(**fields)  # type: ignore[arg-type]


def test_a_prompt_becomes_a_conversation_or_with_raw_the_text_itself() -> None:
    assert texts(to_request("p", ask(system="s"), "m")) == ["system: s", "user: p"]
    raw = to_request("p", ask(raw=True), "m")
    assert (raw.messages, raw.prompt) == (None, "p")


def test_an_answer_is_written_as_it_comes_and_described_as_one_document() -> None:
    answer, written = Answer(), list[str]()
    asyncio.run(stream(Parrot(), to_request("x y", ask(), "m"), answer, written.append))
    assert written == ["x ", "y "]
    assert as_dict("m", answer) == {
        "model": "m",
        "text": "x y ",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 2, "completion_tokens": 2, "cached_tokens": 0},
    }


def test_what_a_model_thinks_is_shown_beside_its_answer_and_is_a_part_of_the_document() -> None:
    backend = Scripted([Turn(reasoning="let me see", text="Paris")], any_model=True)
    answer, written, thoughts = Answer(), list[str](), list[str]()
    asyncio.run(stream(backend, to_request("x", ask(), "m"), answer, written.append, thoughts.append))
    assert "".join(written) == "Paris"
    assert "".join(thoughts) == "let me see\n\n"
    document = as_dict("m", answer)
    assert (document["text"], document["reasoning"]) == ("Paris", "let me see")
    out = io.StringIO()
    Terminal(input, out, is_pretty=False).think("hm")
    assert out.getvalue() == ""
    Terminal(input, out, is_pretty=True).think("h\x1bm")
    assert out.getvalue() == "\x1b[2mhm\x1b[0m"


def test_a_constraint_and_a_wish_for_log_probabilities_reach_the_backend(tmp_path: Path) -> None:
    file = tmp_path / "schema.json"
    file.write_text('{"type": "object"}')
    request = to_request("p", ask(response_format=to_format(file, None), logprobs=2), "m")
    assert request.response_format == ResponseFormat(FormatKind.JSON_SCHEMA, schema={"type": "object"})
    assert request.logprobs == 2
    assert to_format(None, "a+") == ResponseFormat(FormatKind.REGEX, source="a+")
    assert to_format(None, None) == ResponseFormat()


@pytest.mark.parametrize("text", ["{", "[1]", '"x"', "[" * 100_000])
def test_a_file_that_holds_no_schema_is_refused_by_name(tmp_path: Path, text: str) -> None:
    file = tmp_path / "schema.json"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=r"^json_schema: .*schema\.json"):
        to_format(file, None)
    with pytest.raises(InvalidRequest, match="--regex is given as well"):
        to_format(file, "a")


def test_log_probabilities_are_part_of_the_document() -> None:
    token = TokenLogprob("a", b"a", -0.5, (("b", b"b", -0.25),))
    answer = Answer(["a"], Usage(1, 1), "stop", [token])
    assert as_dict("m", answer)["logprobs"] == [
        {"token": "a", "logprob": -0.5, "top": [{"token": "b", "logprob": -0.25}]}
    ]


def test_a_reader_that_fails_closes_the_stream() -> None:
    backend = Parrot()

    def full(_: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        asyncio.run(stream(backend, to_request("x y", ask(), "m"), Answer(), full))
    assert backend.closed == 1
