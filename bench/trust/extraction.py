"""How somebody finds a model's hidden size through its API, and what is left of that where probabilities are guarded.

A row of logits is the output matrix times a hidden state, so rows over the same tokens, side by side, have the hidden
size as their rank, however many they are (Carlini et al. 2024, arXiv 2403.06634, section 4.2). An attack is a way to
fill such a matrix: a context a row, a token a column. Speaks neutral requests to whatever answers them; knows no gate.
"""

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import HeadraceError
from headrace.core.events import Event, PromptLogprobs, Score, TextDelta, TokenLogprob
from headrace.core.request import (
    FormatKind,
    Input,
    Limits,
    Principal,
    Request,
    ResponseFormat,
    Sampling,
    Task,
)

Run = Callable[[Request], AsyncGenerator[Event, None]]
Matrix = NDArray[np.float64]

NUM_DRAWN: Final = 128
NUM_SCORED: Final = 512
UNKNOWN: Final = -9000.0
"""What is told below this says only that a token is none of the likeliest."""


@dataclass(slots=True)
class Account:
    """Who asks, and what came of it. `run` answers; a refusal ends one question, not the attack."""

    run: Run
    model: str
    principal: Principal
    num_queries: int = 0
    refusals: list[HeadraceError] = field(default_factory=list)

    async def ask(self, **about: object) -> list[Event]:
        """The whole answer, empty if there is none."""
        self.num_queries += 1
        fields = {"limits": Limits(max_tokens=1), "sampling": Sampling(temperature=0.0)} | about
        request = Request(id=f"q{self.num_queries}", model=self.model, principal=self.principal, **fields)  # type: ignore[arg-type]
        events = self.run(request)
        try:
            return [event async for event in events]
        except HeadraceError as error:
            self.refusals.append(error)
            return []
        finally:
            await events.aclose()


@dataclass(frozen=True, slots=True)
class Aim:
    """What an attack is after: contexts as rows and tokens as columns, ids and what they read as. `num_queries` is what
    it may ask."""

    contexts: tuple[str, ...]
    tokens: tuple[int, ...]
    texts: tuple[str, ...]
    num_queries: int

    @property
    def nothing(self) -> Matrix:
        """A matrix with nothing known."""
        return np.full((len(self.contexts), len(self.tokens)), np.nan)


Attack = Callable[[Account, Aim], Awaitable[Matrix]]


async def by_bias(account: Account, aim: Aim) -> Matrix:
    """A bias that makes each token win, and its log-probability."""
    found = aim.nothing
    for row, context in enumerate(aim.contexts):
        for column, token in enumerate(aim.tokens):
            if account.num_queries >= aim.num_queries:
                return found
            sampling = Sampling(temperature=0.0, logit_bias=((token, 100.0),))
            _take(found, row, aim, await account.ask(prompt=context, logprobs=0, sampling=sampling), only=column)
    return found


async def by_choices(account: Account, aim: Aim) -> Matrix:
    """One bias that lifts all of them, and many choices drawn at once: each is one of them."""
    sampling = Sampling(
        temperature=100.0, logit_bias=tuple((token, 100.0) for token in aim.tokens), num_choices=NUM_DRAWN
    )
    return await _redraw(account, aim, sampling)


async def by_heat(account: Account, aim: Aim) -> Matrix:
    """Without a bias: at a temperature at which every token comes, and many choices."""
    return await _redraw(account, aim, Sampling(temperature=100.0, num_choices=NUM_DRAWN))


async def by_few_choices(account: Account, aim: Aim) -> Matrix:
    """The same with as many choices as anybody may have."""
    return await _redraw(account, aim, Sampling(temperature=100.0, num_choices=4))


async def by_top(account: Account, aim: Aim) -> Matrix:
    """Nothing but the likeliest tokens that everybody is told."""
    found = aim.nothing
    for row, context in enumerate(aim.contexts):
        if account.num_queries < aim.num_queries:
            _take(found, row, aim, await account.ask(prompt=context, logprobs=5))
    return found


async def by_form(account: Account, aim: Aim) -> Matrix:
    """A form that allows one text, which is the token."""
    found = aim.nothing
    for row, context in enumerate(aim.contexts):
        for column, text in enumerate(aim.texts):
            if account.num_queries >= aim.num_queries:
                return found
            form = ResponseFormat(kind=FormatKind.CHOICE, choices=(text,))
            _take(found, row, aim, await account.ask(prompt=context, logprobs=0, response_format=form), only=column)
    return found


async def by_score(account: Account, aim: Aim) -> Matrix:
    """Each token as a continuation to score."""
    found = aim.nothing
    for row, context in enumerate(aim.contexts):
        for first in range(0, len(aim.texts), NUM_SCORED):
            if account.num_queries >= aim.num_queries:
                return found
            inputs = tuple(Input(context, text) for text in aim.texts[first : first + NUM_SCORED])
            for event in await account.ask(task=Task.SCORE, inputs=inputs):
                if isinstance(event, Score):
                    found[row, first + event.index] = event.value
    return found


async def by_echo(account: Account, aim: Aim) -> Matrix:
    """Each token as the end of a prompt that is told with its log-probabilities."""
    found = aim.nothing
    for row, context in enumerate(aim.contexts):
        for column, text in enumerate(aim.texts):
            if account.num_queries >= aim.num_queries:
                return found
            for event in await account.ask(prompt=context + text, prompt_logprobs=0):
                if isinstance(event, PromptLogprobs) and (last := event.tokens[-1]) is not None:
                    found[row, column] = last.logprob
    return found


async def by_bisection(account: Account, aim: Aim) -> Matrix:
    """No log-probability at all: the bias at which a token just becomes the greedy answer is how far it is from the
    likeliest."""
    found = aim.nothing
    for row, context in enumerate(aim.contexts):
        for column, (token, text) in enumerate(zip(aim.tokens, aim.texts, strict=True)):
            low, high = 0.0, 32.0
            while high - low > 1e-4:
                if account.num_queries >= aim.num_queries:
                    return found
                bias = (low + high) / 2
                events = await account.ask(
                    prompt=context, sampling=Sampling(temperature=0.0, logit_bias=((token, bias),))
                )
                if not events:
                    break
                said = "".join(event.text for event in events if isinstance(event, TextDelta))
                low, high = (low, bias) if said == text else (bias, high)
            else:
                found[row, column] = -high
    return found


ATTACKS: Final[dict[str, Attack]] = {
    "bias": by_bias,
    "choices": by_choices,
    "heat": by_heat,
    "few choices": by_few_choices,
    "top": by_top,
    "form": by_form,
    "score": by_score,
    "echo": by_echo,
    "bisection": by_bisection,
}


async def insist(name: str, account: Account, aim: Aim) -> Matrix:
    """An attack again and again, until its budget is used; what is known of all its turns."""
    found = aim.nothing
    while account.num_queries < aim.num_queries:
        more = await ATTACKS[name](account, aim)
        found = np.where(np.isnan(more), found, more)
    return found


async def _redraw(account: Account, aim: Aim, sampling: Sampling) -> Matrix:
    """Draw for each context until all is known, or a share of the budget is used."""
    found = aim.nothing
    share = max(1, aim.num_queries // len(aim.contexts))
    for row, context in enumerate(aim.contexts):
        for turn in range(share):
            seeded = replace(sampling, seed=row * share + turn)
            if account.num_queries >= aim.num_queries:
                return found
            if not (events := await account.ask(prompt=context, logprobs=0, sampling=seeded)):
                break
            _take(found, row, aim, events)
            if not np.isnan(found[row]).any():
                break
    return found


def _take(found: Matrix, row: int, aim: Aim, events: Sequence[Event], *, only: int | None = None) -> None:
    """What an answer's first tokens tell of the aim's columns."""
    columns = {text: column for column, text in enumerate(aim.texts)}
    ids = {token: column for column, token in enumerate(aim.tokens)}
    for event in events:
        for token in event.logprobs if isinstance(event, TextDelta) else ():
            for text, token_id, value in _told(token):
                column = columns.get(text) if token_id is None else ids.get(token_id)
                if column is not None and only in (None, column) and value > UNKNOWN and math.isfinite(value):
                    found[row, column] = value


def _told(token: TokenLogprob) -> list[tuple[str, int | None, float]]:
    ids = token.alternative_ids or (None,) * len(token.alternatives)
    others = [(text, one, value) for (text, _, value), one in zip(token.alternatives, ids, strict=True)]
    return [(token.token, token.token_id, token.logprob), *others]


@dataclass(frozen=True, slots=True)
class Rank:
    """What a matrix says of the hidden size: `size` None: nothing. `rows` and `columns` are of what is known without a
    hole; `drop` is how many times the singular value behind `size` is smaller than the one before."""

    size: int | None
    rows: int
    columns: int
    drop: float


def rank_of(matrix: Matrix, *, min_drop: float = 8.0) -> Rank:
    """The rank test. A softmax takes one number from every row, which is taken out by taking the mean of the row's
    known columns out; a rank is believed only where the singular values fall `min_drop` times at once, before the last
    of them: a matrix that is no larger than the rank tells nothing."""
    whole = _whole(matrix)
    rows, columns = whole.shape
    if min(rows, columns) < 3:
        return Rank(None, rows, columns, 1.0)
    values = np.linalg.svd(whole - whole.mean(axis=1, keepdims=True), compute_uv=False)
    values = np.maximum(values[: min(rows, columns - 1)], 1e-9 * values[0])  # the mean took one dimension
    drops = values[:-1] / values[1:]
    # A noise floor below the smallest scale that is told is no rank; and neither is a drop among the last few.
    best = int(np.argmax(drops[1:])) + 1 if len(drops) > 1 else 0
    is_seen = drops[best] >= min_drop and best + 1 < len(values)
    return Rank(best + 1 if is_seen else None, rows, columns, float(drops[best]))


def _whole(matrix: Matrix) -> Matrix:
    """The largest part without a hole that is found greedily: columns and rows with the most holes go first."""
    known = ~np.isnan(matrix)
    rows, columns = np.ones(len(matrix), bool), np.ones(matrix.shape[1], bool)
    while not known[np.ix_(rows, columns)].all():
        part = known[np.ix_(rows, columns)]
        by_row, by_column = part.mean(axis=1), part.mean(axis=0)
        if by_row.min() <= by_column.min():
            rows[np.flatnonzero(rows)[by_row == by_row.min()]] = False
        else:
            columns[np.flatnonzero(columns)[by_column == by_column.min()]] = False
        if not rows.any() or not columns.any():
            return np.empty((0, 0))
    whole: Matrix = matrix[np.ix_(rows, columns)]
    return whole
