"""Texts and conversations as token ids, and back, for those who ask for nothing else (`core.service.Tokens`).

Opens a model as a request to it does; knows no protocol and starts no work in the engine.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import InvalidRequest
from headrace.core.request import Request
from headrace.core.service import Tokenized
from headrace.engine.guests import Hold
from headrace.engine.served import Served


class Prepare(Protocol):
    """Runs what may take long away from the loop."""

    async def __call__(self, request: Request, function: Callable[..., Any], *more: Any) -> Any:
        """What the function makes of the request."""
        ...


class EngineTokens:
    """`open_model` holds the model that a request names; see `TextEngine`."""

    def __init__(self, open_model: Callable[[Request], Awaitable[tuple[Served, Hold]]], prepare: Prepare) -> None:
        self._open_model = open_model
        self._prepare = prepare

    async def tokenize(self, request: Request, *, adds_special: bool, opens_answer: bool) -> Tokenized:
        """See `core.service.Tokens`."""
        request.check()
        served, hold = await self._open_model(request)
        try:
            ids: list[int] = await self._prepare(request, _encode, served, adds_special, opens_answer)
            return Tokenized(tuple(ids), tuple(map(served.piece, ids)), served.model.context_length)
        finally:
            hold.release()

    async def detokenize(self, request: Request) -> str:
        """See `core.service.Tokens`."""
        request.check()
        served, hold = await self._open_model(request)
        try:
            text: str = await self._prepare(request, _decode, served)
            return text
        finally:
            hold.release()


def _encode(request: Request, served: Served, adds_special: bool, opens_answer: bool) -> list[int]:
    if request.prompt is None:
        ids: NDArray[np.int32] = served.encode(request)
        # What a template writes before an answer stands behind everything that it writes without one.
        end = len(ids) if opens_answer else served.end_of(request, len(request.messages or ()) - 1, ids)
        return list(map(int, ids[:end]))
    tokenizer = served.model.tokenizer
    if served.generates or not adds_special:
        return list(tokenizer.encode(request.prompt, special=True, bos=adds_special))
    return list(tokenizer.encode_input(request.prompt)[0])


def _decode(request: Request, served: Served) -> str:
    tokens, size = request.tokens or (), served.model.plan.vocab_size
    for index, token in enumerate(tokens):
        if not 0 <= token < size:
            raise InvalidRequest(
                f"tokens[{index}]: {token} is not in [0, {size - 1}], the model's vocabulary.", param="tokens"
            )
    return served.text(list(tokens))
