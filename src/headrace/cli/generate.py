"""`headrace generate`: one prompt, one answer, on standard output as it is made or as one JSON document."""

import asyncio
import json as jsonlib
import os
import re
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from headrace.cli.assembly import open_model
from headrace.cli.config import compose
from headrace.core.backend import Backend
from headrace.core.errors import InvalidRequest
from headrace.core.events import ChoiceFinished, Finished, ReasoningDelta, TextDelta, TokenLogprob, Usage
from headrace.core.request import FormatKind, Limits, Message, Request, ResponseFormat, Role, Sampling, TextPart

Write = Callable[[str], Any]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What the person typed."""

    prompt: str
    system: str | None
    raw: bool
    sampling: Sampling
    limits: Limits
    response_format: ResponseFormat = field(default_factory=ResponseFormat)
    logprobs: int | None = None


@dataclass(slots=True)
class Answer:
    """An answer as it grows; what has come is kept when it is cut short."""

    pieces: list[str] = field(default_factory=list)
    usage: Usage | None = None
    reason: str | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Everything so far."""
        return "".join(self.pieces)


def run_generate(ask: Ask, flags: Mapping[str, Any], config: Path | None, *, json: bool) -> None:
    """Load the model, answer, and leave."""
    settings = compose(flags, os.environ, config).settings
    prompt = sys.stdin.read() if ask.prompt == "-" else ask.prompt
    answer = Answer()
    # What can be refused is refused before a model is loaded.
    to_request(prompt, ask, "model").check()
    check_answers(ask.limits)
    if ask.logprobs is not None and not json:
        raise InvalidRequest("logprobs: they are part of the JSON document only; add --json.", param="logprobs")
    with open_model(settings) as backend:
        request = to_request(prompt, ask, backend.models()[0].id)
        asyncio.run(stream(backend, request, answer, (lambda _: None) if json else _write))
    if json:
        typer.echo(jsonlib.dumps(as_dict(settings.model, answer), ensure_ascii=False))
    else:
        _write("\n")


def check_answers(limits: Limits) -> None:
    """Raise InvalidRequest for limits under which there would be nothing to show."""
    if limits.max_tokens == 0:
        raise InvalidRequest("max_tokens: 0 is not in [1, 2147483647]; give a number inside.", param="max_tokens")


def to_request(prompt: str, ask: Ask, model: str) -> Request:
    """The neutral request for a prompt: a conversation, or with `raw` the text itself."""
    messages = None
    if not ask.raw:
        system = [Message(Role.SYSTEM, (TextPart(ask.system),))] if ask.system else []
        messages = (*system, Message(Role.USER, (TextPart(prompt),)))
    return Request(
        id=f"cli-{uuid.uuid4().hex}",
        model=model,
        messages=messages,
        prompt=prompt if ask.raw else None,
        sampling=ask.sampling,
        limits=ask.limits,
        response_format=ask.response_format,
        logprobs=ask.logprobs,
    )


def to_format(schema_file: Path | None, regex: str | None) -> ResponseFormat:
    """The constraint that was typed. Raises InvalidRequest for two of them, or a file that holds no JSON schema."""
    if schema_file is not None and regex is not None:
        raise InvalidRequest("json_schema: --regex is given as well; an answer has one form.", param="json_schema")
    if regex is not None:
        return ResponseFormat(FormatKind.REGEX, source=regex)
    if schema_file is None:
        return ResponseFormat()
    try:
        schema = jsonlib.loads(schema_file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"json_schema: {schema_file} cannot be read: {error}.", param="json_schema") from error
    if not isinstance(schema, dict | bool):
        raise InvalidRequest(
            f"json_schema: {schema_file} holds no JSON schema, which is an object.", param="json_schema"
        )
    return ResponseFormat(FormatKind.JSON_SCHEMA, schema=schema)


async def stream(
    backend: Backend, request: Request, answer: Answer, write: Write, think: Write = lambda _: None
) -> None:
    """Run the request, writing and collecting text as it comes, thoughts apart; closing is cancelling, so it is always
    closed."""
    events = backend.run(request)
    try:
        async for event in events:
            if isinstance(event, ReasoningDelta):
                answer.thoughts.append(event.text)
                think(event.text)
            elif isinstance(event, TextDelta):
                if answer.thoughts and event.text and not answer.text:
                    think("\n\n")
                answer.pieces.append(event.text)
                answer.logprobs += event.logprobs
                write(event.text)
            elif isinstance(event, ChoiceFinished):
                answer.reason = event.reason.value
            elif isinstance(event, Finished):
                answer.usage = event.usage
    finally:
        await events.aclose()


def as_dict(model: str, answer: Answer) -> dict[str, Any]:
    """The document that --json prints."""
    usage = answer.usage or Usage(0, 0)
    document: dict[str, Any] = {
        "model": model,
        "text": answer.text,
        "finish_reason": answer.reason,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "cached_tokens": usage.cached_tokens,
        },
    }
    if answer.thoughts:
        document["reasoning"] = "".join(answer.thoughts)
    if answer.logprobs:
        document["logprobs"] = [
            {
                "token": token.token,
                "logprob": token.logprob,
                "top": [{"token": text, "logprob": logprob} for text, _, logprob in token.alternatives],
            }
            for token in answer.logprobs
        ]
    return document


def printable(text: str) -> str:
    """A model's text without control characters, which a terminal would obey; tabs and line ends stay."""
    return _CONTROL.sub("", text)


def _write(text: str) -> None:
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
