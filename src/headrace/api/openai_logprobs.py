"""Log-probabilities on the wire: OpenAI's shape for chat, its older one for completions, vLLM's for a prompt.

Values only. In completions a token that is no whole character is named as OpenAI names it, `bytes:\\xe2\\x9d`: names
are keys there, and two halves of characters would read alike.
"""

import codecs
import math
from collections.abc import Iterable
from typing import Any, Final, Protocol

import msgspec

from headrace.core.events import PromptLogprobs, TokenLogprob

# What OpenAI says instead of minus infinity, which JSON cannot.
UNLIKELY: Final = -9999.0


class TopLogprob(msgspec.Struct):
    """One likely token at a place."""

    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(msgspec.Struct):
    """The token at a place, and the likely ones."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class Renderer(Protocol):
    """Makes the `logprobs` of one choice, all at once or delta by delta."""

    def render(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
        """The next tokens of the choice."""
        ...


class ChatRenderer:
    """`{"content": [...], "refusal": null}`."""

    def __init__(self, num_alternatives: int) -> None:
        self._num_alternatives = num_alternatives

    def render(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
        """The next tokens of the choice."""
        return {"content": [self._entry(token) for token in tokens], "refusal": None}

    def _entry(self, token: TokenLogprob) -> ChatLogprob:
        top = [
            TopLogprob(text, finite(logprob), list(data))
            for text, data, logprob in token.alternatives[: self._num_alternatives]
        ]
        return ChatLogprob(token.token, finite(token.logprob), list(token.token_bytes), top)


class CompletionRenderer:
    """Four lists side by side. Offsets count characters of the choice's text, so a renderer belongs to one choice."""

    def __init__(self, num_alternatives: int) -> None:
        self._num_alternatives = num_alternatives
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._num_chars = 0

    def render(self, tokens: Iterable[TokenLogprob]) -> dict[str, Any]:
        """The next tokens of the choice; one whose log-probability is NaN has none."""
        names: list[str] = []
        logprobs: list[float | None] = []
        top: list[dict[str, float] | None] = []
        offsets: list[int] = []
        for token in tokens:
            name = _name(token.token, token.token_bytes)
            offsets.append(self._num_chars)
            self._num_chars += len(self._decoder.decode(token.token_bytes))
            names.append(name)
            if math.isnan(token.logprob):
                logprobs.append(None)
                top.append(None)
                continue
            logprobs.append(finite(token.logprob))
            likely = {
                _name(text, data): finite(logprob)
                for text, data, logprob in token.alternatives[: self._num_alternatives]
            }
            # OpenAI: "up to logprobs + 1 elements", as the token that was taken is always among them.
            top.append(likely | {name: finite(token.logprob)})
        return {"text_offset": offsets, "token_logprobs": logprobs, "tokens": names, "top_logprobs": top}


def prompt_text(event: PromptLogprobs) -> str:
    """What a prompt reads as, when it came as token ids."""
    if event.text is not None:
        return event.text
    return b"".join(token.token_bytes for token in event.tokens if token is not None).decode("utf-8", "replace")


def echoed_tokens(event: PromptLogprobs, text: str) -> list[TokenLogprob]:
    """A prompt's tokens as a completion repeats them. The first is what the others leave of `text`."""
    known = [token for token in event.tokens if token is not None]
    data = text.encode("utf-8", "replace")
    first = data[: max(0, len(data) - sum(len(token.token_bytes) for token in known))]
    return [TokenLogprob(first.decode("utf-8", "replace"), first, math.nan), *known]


def prompt_table(event: PromptLogprobs, num_alternatives: int) -> list[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: for each token a table by id (by text where the backend knows no ids)."""
    return [None if token is None else _ranked(token, num_alternatives) for token in event.tokens]


def _ranked(token: TokenLogprob, num_alternatives: int) -> dict[str, Any]:
    def key(text: str, token_id: int | None) -> str:
        return text if token_id is None else str(token_id)

    own = key(token.token, token.token_id)
    ids = token.alternative_ids or (None,) * len(token.alternatives)
    ranked = {
        key(text, token_id): {"logprob": finite(logprob), "rank": rank, "decoded_token": text}
        for rank, ((text, _, logprob), token_id) in enumerate(zip(token.alternatives, ids, strict=True), 1)
    }
    # The rank is known only of tokens among the likeliest.
    mine = ranked.get(own, {"logprob": finite(token.logprob), "rank": None, "decoded_token": token.token})
    return {own: mine} | dict(list(ranked.items())[:num_alternatives])


def _name(token: str, token_bytes: bytes) -> str:
    try:
        token_bytes.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token_bytes)
    return token


def finite(logprob: float) -> float:
    """A log-probability as JSON can say it."""
    return logprob if math.isfinite(logprob) else UNLIKELY
