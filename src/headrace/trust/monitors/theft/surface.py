"""The surface: what of a model's probabilities is told to a caller without the scope `logprobs`.

One rule for every protocol, over neutral requests and events. Top-k log-probabilities with a bias (or without one, of
tokens that the caller picks: by a continuation to score, a prompt, a bias that forces one, a form that allows one) give
whole rows of logits, whose rank is the hidden size and whose span is the output matrix (Carlini et al. 2024, arXiv
2403.06634; Finlayson et al. 2024, arXiv 2403.09539). So a caller sees the likeliest few of every row, rounded, and
of a token that is not among them that it is not: it cannot pick columns. No counting here: that is `counts.py`'s.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from headrace.core.errors import Forbidden
from headrace.core.events import Event, PromptLogprobs, Score, TextDelta, TokenLogprob
from headrace.core.request import Principal, Request, Task
from headrace.trust.monitors.theft.settings import TheftSettings

SCOPE: Final = "logprobs"

STEERS: Final = frozenset(
    {
        "logit_bias",
        "allowed_token_ids",
        "bad_words",
        "logits_processors",
        "custom_logit_processor",
        "custom_params",
        "samplers",
    }
)
"""Names of fields that shift which token comes, without telling a probability."""

_NEUTRAL: Final = frozenset({"logprobs", "top_logprobs", "prompt_logprobs", "include"})
_REMEDY: Final = f"or ask whoever runs this server for the scope {SCOPE!r}."
_ASKS_PROMPT: Final = frozenset({"logprobs", "prompt_logprobs"})

Refusal = Callable[[Request, TheftSettings], bool]

_RULES: Final[tuple[tuple[str, Refusal, str], ...]] = (
    (
        "logprobs",
        lambda request, _: request.logprobs is not None and bool(request.sampling.logit_bias),
        "log-probabilities are not told together with logit_bias; leave one of them out,",
    ),
    (
        "prompt_logprobs",
        lambda request, _: request.prompt_logprobs is not None,
        "log-probabilities of the input (prompt_logprobs, or echo with logprobs) are not told; leave them out,",
    ),
    (
        "top_logprobs",
        lambda request, limits: (request.logprobs or 0) > limits.max_top_logprobs,
        "more alternatives are asked for than are told; ask for {0.max_top_logprobs} or fewer,",
    ),
    (
        "n",
        lambda request, limits: request.logprobs is not None and request.sampling.num_drawn > limits.max_choices,
        "with log-probabilities at most {0.max_choices} choices are drawn (n, best_of); ask for fewer,",
    ),
    (
        "logprobs",
        lambda request, _: request.task is Task.SCORE and request.logprobs is not None,
        "log-probabilities of a text that the caller gives are not told; leave logprobs out,",
    ),
)


def is_free(principal: Principal) -> bool:
    """Whether somebody may see all of it."""
    return SCOPE in principal.scopes


def asks_foreign(probes: frozenset[str]) -> frozenset[str]:
    """Fields among `probes` that ask a backend for probabilities in words that no neutral request has."""
    return probes - _NEUTRAL - STEERS


def check_fields(probes: frozenset[str]) -> None:
    """Raise Forbidden for fields that would travel to a backend unread and make it tell more than is told."""
    foreign = asks_foreign(probes)
    if foreign:
        name = min(foreign)
        raise _forbidden(name, "probabilities are not told in this backend's own words; use logprobs,")
    steers = probes & STEERS - {"logit_bias"}  # which a neutral request has: it is held to the rules above
    tells = probes & _NEUTRAL - {"include"}
    if tells and steers:
        name = min(steers)
        raise _forbidden("logprobs", f"log-probabilities are not told together with {name}; leave one of them out,")


def check_request(request: Request, probes: frozenset[str], limits: TheftSettings) -> None:
    """Raise Forbidden, naming the field and the remedy, for what is asked beyond the surface."""
    if request.prompt_logprobs is not None and probes.isdisjoint(_ASKS_PROMPT):
        request = replace(request, prompt_logprobs=None)  # an echo of token ids, which needs what they read as
    for name, is_beyond, words in _RULES:
        if is_beyond(request, limits):
            raise _forbidden(name, words.format(limits))


def check_states(task: Task, model: str) -> None:
    """Raise Forbidden for a task whose answer is a generating model's inside: its hidden states, or how likely it finds
    a text that the caller picks."""
    if task is Task.EMBED:
        words = f"the model {model!r} generates, and its hidden states are not told; name a model that embeds,"
        raise _forbidden("model", words)
    if task is Task.SCORE:
        words = f"the model {model!r} generates, and likelihoods of given texts are not told; name one that reranks,"
        raise _forbidden("model", words)


def widen(request: Request, limits: TheftSettings) -> Request:
    """As a backend is asked: with as many alternatives as decide whether a token is among the likeliest."""
    if request.logprobs is None or request.logprobs >= limits.max_top_logprobs:
        return request
    return replace(request, logprobs=limits.max_top_logprobs)


@dataclass(frozen=True, slots=True)
class Told:
    """What of an answer's probabilities is told. `num_asked` is how many alternatives the caller asked for."""

    num_asked: int
    decimals: int

    def narrow(self, event: Event) -> Event:
        """An event with no more in it. Raises Forbidden for likelihoods that no backend should have told."""
        narrow = _NARROW.get(type(event))
        return event if narrow is None else narrow(self, event)

    def _of_text(self, event: TextDelta) -> Event:
        if not event.logprobs:
            return event
        return replace(event, logprobs=tuple(map(self._of_token, event.logprobs)))

    def _of_score(self, event: Score) -> Event:
        if event.is_greedy is not None or event.logprobs:
            raise _forbidden(
                "model", "it generates, and likelihoods of given texts are not told; name one that reranks,"
            )
        return event

    def _of_prompt(self, event: PromptLogprobs) -> Event:
        # Asked for only where an echo needs its text; a value here would be a backend's own idea.
        bare = tuple(
            None if token is None else TokenLogprob(token.token, token.token_bytes, math.nan, token_id=token.token_id)
            for token in event.tokens
        )
        return replace(event, tokens=bare)

    def _of_token(self, token: TokenLogprob) -> TokenLogprob:
        kept = token.alternatives[: self.num_asked]
        told = tuple((text, data, self._round(value)) for text, data, value in kept)
        is_likely = any(data == token.token_bytes and text == token.token for text, data, _ in token.alternatives)
        value = self._round(token.logprob) if is_likely else -math.inf
        ids = token.alternative_ids[: len(kept)]
        return replace(token, logprob=value, alternatives=told, alternative_ids=ids)

    def _round(self, value: float) -> float:
        return round(value, self.decimals) if math.isfinite(value) else value


_NARROW: Final[Mapping[type, Callable[[Told, Any], Event]]] = {
    TextDelta: Told._of_text,
    Score: Told._of_score,
    PromptLogprobs: Told._of_prompt,
}


def _forbidden(name: str, words: str) -> Forbidden:
    return Forbidden(f"{name}: {words} {_REMEDY}", param=name)
