"""`headrace chat`: a conversation in the terminal.

Each answer is one run of the event loop, so that Ctrl-C while it streams cancels that answer (the engine frees it at
once) and Ctrl-C while nothing runs only says how to leave. What was said before an interruption stays in the history.
Works without a terminal too: lines in, answers out, nothing decorative.
"""

import asyncio
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from headrace.cli.assembly import open_model
from headrace.cli.config import compose
from headrace.cli.generate import Answer, check_answers, printable, stream
from headrace.core.backend import Backend
from headrace.core.errors import HeadraceError
from headrace.core.request import Limits, Message, Request, Role, Sampling, TextPart

HELP = """\
/system TEXT  give instructions; without a text, take them back
/clear        forget the conversation
/history      show it
/help         this list
/exit         leave (or Ctrl-D)
Ctrl-C stops an answer and keeps what was said."""

_DIM, _BOLD, _PLAIN = "\x1b[2m", "\x1b[1m", "\x1b[0m"
# \x01 and \x02 enclose what takes no room on the screen, or readline would put the cursor of a long line elsewhere.
_PROMPT = f"\x01{_BOLD}\x02> \x01{_PLAIN}\x02"


@dataclass(slots=True)
class Conversation:
    """What was said, and the instructions before it."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)

    def messages(self) -> tuple[Message, ...]:
        """Everything, as a request carries it."""
        first = [Message(Role.SYSTEM, (TextPart(self.system),))] if self.system else []
        return (*first, *self.turns)

    def say(self, role: Role, text: str) -> None:
        """Append a turn."""
        self.turns.append(Message(role, (TextPart(text),)))


@dataclass(frozen=True, slots=True)
class Terminal:
    """Where lines come from and text goes; `is_pretty` adds colour, prompts and figures."""

    read_line: Callable[[str], str]
    out: TextIO
    is_pretty: bool

    def write(self, text: str) -> None:
        """Show text at once."""
        self.out.write(text)
        self.out.flush()

    def say(self, text: str) -> None:
        """Show what the model says, at once."""
        self.write(printable(text) if self.is_pretty else text)

    def think(self, text: str) -> None:
        """Show what the model thinks, at once; not where an answer is read by a program."""
        if self.is_pretty:
            self.write(f"{_DIM}{printable(text)}{_PLAIN}")

    def note(self, text: str) -> None:
        """Show a line beside the conversation."""
        self.write(f"{_DIM}{printable(text)}{_PLAIN}\n" if self.is_pretty else f"{text}\n")


class Chat:
    """One conversation with one backend."""

    def __init__(
        self,
        backend: Backend,
        model: str,
        terminal: Terminal,
        conversation: Conversation,
        sampling: Sampling,
        limits: Limits,
    ) -> None:
        self._backend = backend
        self._model = model
        self._terminal = terminal
        self._conversation = conversation
        self._sampling = sampling
        self._limits = limits

    def run(self) -> None:
        """Until the person leaves."""
        prompt = _PROMPT if self._terminal.is_pretty else ""
        with asyncio.Runner() as runner:
            while True:
                try:
                    line = self._terminal.read_line(prompt).strip()
                except EOFError:
                    return
                except KeyboardInterrupt:
                    self._terminal.write("\n")
                    self._terminal.note("Ctrl-D or /exit leaves.")
                    continue
                if line.startswith("/"):
                    if not self._obey(line):
                        return
                elif line:
                    self._answer(runner, line)

    def _obey(self, line: str) -> bool:
        """Do what a /command says; False to leave."""
        command, _, rest = line.partition(" ")
        conversation, note = self._conversation, self._terminal.note
        if command in {"/exit", "/quit"}:
            return False
        if command == "/clear":
            conversation.turns.clear()
            note("The conversation is forgotten.")
        elif command == "/system":
            conversation.system = rest.strip() or None
            note("Instructions set." if conversation.system else "Instructions taken back.")
        elif command == "/history":
            for message in conversation.messages():
                note(f"{message.role.value}: {message.text}")
        elif command == "/help":
            note(HELP)
        else:
            note(f"There is no command {command}; /help lists them.")
        return True

    def _answer(self, runner: asyncio.Runner, line: str) -> None:
        conversation, answer = self._conversation, Answer()
        conversation.say(Role.USER, line)
        request = Request(
            id=f"chat-{uuid.uuid4().hex}",
            model=self._model,
            messages=conversation.messages(),
            sampling=self._sampling,
            limits=self._limits,
        )
        began = time.monotonic()
        try:
            runner.run(stream(self._backend, request, answer, self._terminal.say, self._terminal.think))
        except KeyboardInterrupt:
            self._terminal.write(" ...")
        except HeadraceError as error:
            conversation.turns.pop()  # what could not be answered was not said
            self._terminal.note(f"{error} (/clear starts anew.)")
            return
        conversation.say(Role.ASSISTANT, answer.text)
        self._terminal.write("\n")
        if self._terminal.is_pretty and answer.usage is not None:
            self._terminal.note(_figures(answer, time.monotonic() - began) + "\n")


def run_chat(
    flags: Mapping[str, Any], config: Path | None, system: str | None, sampling: Sampling, limits: Limits
) -> None:
    """Load the model and talk."""
    settings = compose(flags, os.environ, config).settings
    sampling.check()
    limits.check()
    check_answers(limits)
    is_pretty = sys.stdin.isatty() and sys.stdout.isatty()
    if is_pretty:
        # Importing it gives input() line editing and history.
        import readline  # noqa: F401
    terminal = Terminal(input if is_pretty else _read_plain, sys.stdout, is_pretty)
    with open_model(settings) as backend:
        if is_pretty:
            terminal.note(f"{settings.model}. /help lists commands; Ctrl-C stops an answer, Ctrl-D leaves.\n")
        Chat(backend, backend.models()[0].id, terminal, Conversation(system), sampling, limits).run()
    if is_pretty:
        terminal.write("\n")


def _read_plain(_: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _figures(answer: Answer, seconds: float) -> str:
    assert answer.usage is not None
    count = answer.usage.completion_tokens
    return f"{count} tokens in {seconds:.1f} s ({count / max(seconds, 1e-9):.0f} tokens/s)"
