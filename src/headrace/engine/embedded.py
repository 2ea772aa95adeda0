"""Headrace inside a program: open a model, ask it, close it.

    async with headrace.Engine.open("smollm2-135m-instruct") as engine:
        async for event in engine.generate("What is the capital of France?", max_tokens=32):
            if isinstance(event, TextDelta):
                print(event.text, end="")

    async with headrace.Engine.open("all-minilm-l6-v2") as engine:
        vectors = await engine.embed(["the cat sat", "a dog barked"])

A composition root like `cli`: it resolves the name, loads, starts and stops. What runs is `engine.text.TextEngine`,
reachable as `backend` for whoever wants the contract itself.
"""

import asyncio
import itertools
import os
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from headrace.core.backend import Backend
from headrace.core.errors import InvalidRequest, Unavailable
from headrace.core.events import Event, Score
from headrace.core.request import Limits, Message, Request, Role, Sampling, TextPart
from headrace.engine.config import EngineConfig
from headrace.engine.text import Setup, TextEngine
from headrace.engine.texts import InputsRunner
from headrace.models.catalog import system_turn
from headrace.models.store import default_home, open_home, resolve

_SAMPLING = {field.name for field in fields(Sampling)}
_LIMITS = {field.name for field in fields(Limits)}
_REQUEST = {"logprobs", "prompt_logprobs", "reasoning", "response_format", "suffix", "tool_choice", "tools"}


class Engine:
    """A model in this process. Made by `open`; use it with `async with`."""

    def __init__(self, path: Path, name: str, cache_dir: Path | None, config: EngineConfig | None) -> None:
        self._path = path
        self._name = name
        self._cache_dir = cache_dir
        self._config = config
        self._text: TextEngine | None = None
        self._numbers = itertools.count(1)
        self._chats = True

    @classmethod
    def open(cls, model: str | Path, *, home: Path | None = None, config: EngineConfig | None = None) -> "Engine":
        """Prepare a model by name, by alias, or by the path of a GGUF file or a safetensors folder.

        `home` is the state directory (None: the usual one); packed weights are cached there.

        Raises:
            NotFound: no such model is installed; the message says how to pull it.
        """
        home = default_home(os.environ) if home is None else home
        path = resolve(str(model), home)
        name = str(model)
        if Path(model).expanduser().exists():
            name = path.stem if path.is_file() else path.name
        return cls(path, name, open_home(home).packed, config)

    @property
    def backend(self) -> Backend:
        """The running engine as the contract that every part of Headrace speaks. Raises Unavailable if not open."""
        if self._text is None:
            raise Unavailable("The engine is not open; use it inside `async with headrace.Engine.open(...) as engine`.")
        return self._text

    async def generate(
        self,
        prompt: str | None = None,
        *,
        messages: Iterable[Message | Mapping[str, str]] | None = None,
        raw: bool = False,
        adapter: str | None = None,
        **options: Any,
    ) -> AsyncGenerator[Event, None]:
        """Answer `prompt` (a user turn; `raw`: text that continues as it stands) or `messages`.

        adapter: one of the folder that `EngineConfig.adapters` names.

        messages have a role and a content. options are the fields of `core.request.Sampling` and `Limits`: max_tokens,
        temperature (0, greedy, unless given), top_p, top_k, min_p, seed, num_choices, stop, stop_token_ids, ignore_eos,
        deadline_s and so on; and of `Request`, as values of `core.request`: response_format, tools, tool_choice and
        reasoning; suffix (with a raw prompt: what follows what is to be written); logprobs and prompt_logprobs (how
        many alternatives are told of each token). Closing the iterator cancels the work.

        Raises:
            InvalidRequest: an option nobody knows or a value out of range; the message names it.
        """
        backend = self.backend
        request = self._request(prompt, messages, raw or not self._chats, options)
        if adapter is not None:
            request = replace(request, model=f"{self._name}:{adapter}")
        events = backend.run(request)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def embed(
        self, texts: Iterable[str | Sequence[int]], dimensions: int | None = None, *, truncate: bool = False
    ) -> NDArray[np.float32]:
        """The vectors of `texts` (or of their token ids), in their order: float32 [texts, dimensions].

        How hidden states become a vector, and whether it has length 1, is the model's affair. `dimensions` keeps that
        many of the first numbers and normalises again, for models that were trained for it (Matryoshka, arXiv
        2205.13147); `truncate` cuts texts that are too long for the model instead of refusing them. Texts are computed
        in batches, more than 2,048 in several requests. Cancelling the call cancels the work.

        Raises:
            InvalidRequest: no text, an empty one, or a model that does not embed; the message names it.
            ContextTooLong: a text is too long for the model.
        """
        return await self._inputs().embed(texts, dimensions=dimensions, truncate=truncate)

    async def score(
        self, pairs: Iterable[tuple[str | Sequence[int], str | Sequence[int]]], *, truncate: bool = False
    ) -> list[Score]:
        """How well the texts of each pair go together: a `core.events.Score` for each, in the order of `pairs`.

        A model that judges pairs (a cross-encoder) gives its own score. One that generates gives the natural
        log-probability of the second text as a continuation of the first, with that of each token, and whether greedy
        decoding would have written it: what evaluations by multiple choice compare.

        Raises:
            InvalidRequest: no pair, two empty texts, or a model that does not score; the message names it.
            ContextTooLong: a pair is too long for the model.
        """
        return await self._inputs().score(pairs, truncate=truncate)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._text = await loop.run_in_executor(None, self._build)
        self._text.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._text is not None:
            text, self._text = self._text, None
            await text.close()

    def _build(self) -> TextEngine:
        """Load the model and put an engine around it; takes a while at the first start."""
        from headrace.models.load import load_model  # noqa: PLC0415 - needs the compiled module

        model = load_model(self._path, name=self._name, cache_dir=self._cache_dir)
        self._chats = model.template is not None
        setup = Setup(system=system_turn(model.digest))
        return TextEngine([model], self._config, setups={model.name: setup})

    def _inputs(self) -> InputsRunner:
        return InputsRunner(self.backend, self._name, self._new_id)

    def _new_id(self) -> str:
        return f"local-{next(self._numbers)}"

    def _request(
        self,
        prompt: str | None,
        messages: Iterable[Message | Mapping[str, str]] | None,
        raw: bool,
        options: dict[str, Any],
    ) -> Request:
        unknown = options.keys() - _SAMPLING - _LIMITS - _REQUEST
        if unknown:
            known = ", ".join(sorted(_SAMPLING | _LIMITS | _REQUEST))
            name = min(unknown)
            raise InvalidRequest(f"{name}: no such option; there are {known}.", param=name)
        options.setdefault("temperature", 0.0)
        if isinstance(options.get("stop"), str):
            options["stop"] = (options["stop"],)
        turns = None if messages is None else tuple(_message(message) for message in messages)
        if prompt is not None and turns is None and not raw:
            turns = (Message(Role.USER, (TextPart(prompt),)),)
            prompt = None
        return Request(
            id=self._new_id(),
            model=self._name,
            prompt=prompt,
            messages=turns,
            sampling=Sampling(**{name: value for name, value in options.items() if name in _SAMPLING}),
            limits=Limits(**{name: value for name, value in options.items() if name in _LIMITS}),
            **{name: value for name, value in options.items() if name in _REQUEST},
        )


def _message(message: Message | Mapping[str, str]) -> Message:
    if isinstance(message, Message):
        return message
    try:
        return Message(Role(message["role"]), (TextPart(message["content"]),))
    except (KeyError, ValueError) as error:
        raise InvalidRequest(
            f"messages: {dict(message)!r} needs a role ({', '.join(Role)}) and a content.", param="messages"
        ) from error
