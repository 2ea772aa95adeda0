"""The few hand-written doubles, each implementing a real contract.

`ToyProgram` stands for `native.Program`. It writes every token into the page that the page table names and draws the
next token from a hash of all tokens it reads back through the page table: a wrong page, a stale page or a page shared
across a boundary gives wrong tokens, as it would in a model. It also checks the arrays as strictly as native code does.
"""

import itertools
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from headrace.core.request import Sampling, Task
from headrace.engine.runner import Results
from headrace.kernels.plan import PAGE_TOKENS, Buffer, BufferKind, CacheShape, KvKind, Rows
from headrace.models.pooling import ScoreActivation

TOY_CACHE = CacheShape(num_layers=1, num_kv_heads=1, head_dim=8)
TOY_PAGE_BYTES = TOY_CACHE.page_bytes(KvKind.HALF)
TOY_VOCAB = 97

# Element types of the sampling arrays: of those with one entry per selected row, some of them optional, and of others.
_ROW_KEYS = {"temperature": "f4", "top_k": "i4", "top_p": "f4", "min_p": "f4", "seed": "u8", "choice": "u4"} | {
    "position": "u4", "logprobs": "b1", "typical_p": "f4", "mask_rows": "i4", "num_top": "i4", "targets": "i4"
}  # fmt: skip
_OPTIONAL_KEYS = ("logprobs", "typical_p", "mask_rows", "num_top", "targets")
_OTHER_KEYS = {"masks": "u4", "adjust_starts": "i4", "adjust_tokens": "i4"} | {
    "adjust_bias": "f4", "adjust_repetition": "f4", "adjust_minus": "f4"
}  # fmt: skip


GREEDY = Sampling(temperature=0.0)


def toy_next(
    tokens: list[int],
    sampling: Sampling = GREEDY,
    seed: int = 0,
    choice: int = 0,
    mask: NDArray[np.uint32] | None = None,
) -> int:
    """The token that follows `tokens`: greedy, or drawn by (seed, choice, position); one that a mask allows."""
    state = 1469598103934665603
    for token in tokens:
        state = ((state ^ (token + 1)) * 1099511628211) % 2**64
    if sampling.temperature > 0:
        for value in (seed & (2**64 - 1), choice, len(tokens)):
            state = ((state ^ (value + 1)) * 1099511628211) % 2**64
    if mask is None:
        return (state >> 17) % TOY_VOCAB
    allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")).tolist()
    return int(allowed[(state >> 17) % len(allowed)]) if allowed else -1


def toy_answer(prompt: list[int], count: int, sampling: Sampling, seed: int = 0, choice: int = 0) -> list[int]:
    """What a cold run alone gives: `count` tokens after `prompt`."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(toy_next(tokens, sampling, seed, choice))
    return tokens[len(prompt) :]


def toy_logprob(token: int, position: int) -> float:
    """What the toy says of a token at a position; a float32 holds it exactly."""
    return -((token * 7 + position) % 101) / 16


class ToyProgram:
    """`poison`: a row whose last token it is comes out as no number; `failures`: how many steps raise."""

    def __init__(self, poison: int | None = None, failures: int = 0) -> None:
        self.poison = poison
        self.failures = failures
        self.steps: list[int] = []  # tokens of each step
        self.before_step: Any = None  # called at the start of each step

    def step(  # noqa: PLR0917 - the native signature
        self,
        threads: Any,
        pool: NDArray[np.uint16],
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        page_tables: NDArray[np.int32],
        selected: NDArray[np.int32],
        output: NDArray[np.float32] | None = None,
        sampling: dict[str, NDArray[Any]] | None = None,
        adapters: list[Any] | None = None,
    ) -> Results | None:
        assert adapters is None or len(adapters) == len(contexts)
        if self.before_step is not None:
            self.before_step()
        self._check(pool, tokens, starts, contexts, page_tables, selected, sampling)
        self.steps.append(len(tokens))
        flat = pool.reshape(pool.shape[0], 2, -1)
        written = set()
        for row, (start, end) in enumerate(itertools.pairwise(starts)):
            for offset in range(end - start):
                page, slot = self._place(page_tables[row], contexts[row] + offset)
                assert (page, slot) not in written, "two tokens of one step share a place"
                written.add((page, slot))
                flat[page, 0, slot] = tokens[start + offset]
        if self.failures > 0:
            self.failures -= 1
            raise RuntimeError("the toy fails as asked")
        if sampling is None:
            return None
        drawn, best = [], []
        for index, place in enumerate(selected):
            row = int(np.searchsorted(starts, place, side="right")) - 1
            length = int(contexts[row] + place - starts[row] + 1)
            places = (self._place(page_tables[row], position) for position in range(length))
            seen = [int(flat[page, 0, slot]) for page, slot in places]
            assert sampling["position"][index] == length
            values = Sampling(temperature=float(sampling["temperature"][index]))
            mask_row = sampling["mask_rows"][index] if "mask_rows" in sampling else -1
            mask = sampling["masks"][mask_row] if mask_row >= 0 else None
            seed, choice = int(sampling["seed"][index]), int(sampling["choice"][index])
            token = self.next_token(seen, values, seed, choice, mask)
            best.append(self.next_token(seen, GREEDY, seed, choice))
            if "targets" in sampling and sampling["targets"][index] >= 0:
                token = int(sampling["targets"][index])
            drawn.append(-1 if seen[-1] == self.poison else token)
        width = int(sampling["num_top"].max(initial=0)) if "num_top" in sampling else 0
        top = np.full((len(drawn), width), -1, np.int32), np.full((len(drawn), width), np.nan, np.float32)
        if width:
            top[0][:, 0], top[1][:, 0] = best, 0.0
        places = zip(drawn, sampling["position"].tolist(), strict=True)
        logprobs = np.array([toy_logprob(token, position) for token, position in places], np.float32)
        return np.array(drawn, np.int32), logprobs, *top

    @staticmethod
    def next_token(
        seen: list[int], sampling: Sampling, seed: int, choice: int, mask: NDArray[np.uint32] | None = None
    ) -> int:
        """The token that follows those that were read back from the pages."""
        return toy_next(seen, sampling, seed, choice, mask)

    @staticmethod
    def _place(table: NDArray[np.int32], position: int) -> tuple[int, int]:
        return int(table[position // PAGE_TOKENS]), int(position % PAGE_TOKENS)

    @staticmethod
    def _check(
        pool: NDArray[np.uint16],
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        page_tables: NDArray[np.int32],
        selected: NDArray[np.int32],
        sampling: dict[str, NDArray[Any]] | None,
    ) -> None:
        for array in (tokens, starts, contexts, page_tables, selected):
            assert array.dtype == np.int32 and array.flags.c_contiguous
        assert len(starts) == len(contexts) + 1 == len(page_tables) + 1
        assert starts[0] == 0 and starts[-1] == len(tokens) and (np.diff(starts) > 0).all()
        assert (page_tables >= 0).all() and (page_tables < pool.shape[0]).all()
        assert ((contexts + np.diff(starts)) <= page_tables.shape[1] * PAGE_TOKENS).all()
        assert (selected >= 0).all() and (selected < len(tokens)).all() and (sampling is None) == (len(selected) == 0)
        if sampling is not None:
            assert set(_ROW_KEYS) - set(_OPTIONAL_KEYS) <= set(sampling) <= {*_ROW_KEYS, *_OTHER_KEYS}
            kinds = _ROW_KEYS | _OTHER_KEYS
            for name, array in sampling.items():
                assert array.dtype.str[1:] == kinds[name] and array.flags.c_contiguous, name
                assert name in _OTHER_KEYS or len(array) == len(selected), name


class EchoProgram(ToyProgram):
    """A toy that repeats itself, so that drafts hold: mostly, a token follows from the two before it.

    Every eleventh is drawn from all tokens before, and at a temperature every fifth is.
    """

    @staticmethod
    def next_token(
        seen: list[int], sampling: Sampling, seed: int, choice: int, mask: NDArray[np.uint32] | None = None
    ) -> int:
        drawn = toy_next(seen, sampling, seed, choice, mask)
        if mask is not None or len(seen) % 11 == 0 or (sampling.temperature > 0 and drawn % 5 == 0):
            return drawn
        return (sum(seen[-2:]) * 3 + 2) % 5


class VectorToy:
    """Stands for a program whose output is hidden states: a row tells which tokens it saw through the page table.

    With `is_whole` each token sees its whole sequence, and else what comes before it.
    """

    width = 4

    def __init__(self, *, is_whole: bool = False, poison: int | None = None) -> None:
        self.is_whole = is_whole
        self.poison = poison
        self.steps: list[list[int]] = []  # tokens of each sequence of each step

    def step(  # noqa: PLR0917 - the native signature
        self,
        threads: Any,
        pool: NDArray[np.uint16],
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        page_tables: NDArray[np.int32],
        selected: NDArray[np.int32],
        output: NDArray[np.float32] | None = None,
        sampling: dict[str, NDArray[Any]] | None = None,
        adapters: list[Any] | None = None,
        segments: NDArray[np.int32] | None = None,
    ) -> None:
        assert sampling is None and adapters is None and output is not None
        assert output.shape == (len(selected), self.width)
        self.steps.append(np.diff(starts).tolist())
        flat = pool.reshape(pool.shape[0], 2, -1)
        lengths = (contexts + np.diff(starts)).tolist()
        for row, (start, end) in enumerate(itertools.pairwise(starts.tolist())):
            for offset in range(end - start):
                position = int(contexts[row]) + offset
                flat[page_tables[row][position // PAGE_TOKENS], 0, position % PAGE_TOKENS] = tokens[start + offset]
        for index, place in enumerate(selected.tolist()):
            row = int(np.searchsorted(starts, place, side="right")) - 1
            position = int(contexts[row]) + place - int(starts[row])
            seen = [
                int(flat[page_tables[row][at // PAGE_TOKENS], 0, at % PAGE_TOKENS])
                for at in range(lengths[row] if self.is_whole else position + 1)
            ]
            output[index] = self.hidden(seen, position, 0 if segments is None else int(segments[place]))
            if seen[-1] == self.poison:
                output[index] = np.nan

    @staticmethod
    def hidden(seen: list[int], position: int, segment: int = 0) -> list[float]:
        """The state of the token at a position that sees these tokens."""
        return [sum((at + 1) * token for at, token in enumerate(seen)) % 1009, seen[position], position, segment]


class ManualClock:
    """Time that moves when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic_s(self) -> float:
        return self.now

    def unix_s(self) -> float:
        return self.now


class TickingClock(ManualClock):
    """Time that passes whenever somebody looks."""

    def monotonic_s(self) -> float:
        self.now += 0.001
        return self.now


class ToyTokenizer:
    """One token per character from space on; 95 and 96 are the two bytes of an e with an acute accent."""

    eos_ids = frozenset({94})
    special_tokens: ClassVar[dict[str, int]] = {"<end>": 94}
    strips_leading_space = False
    filling: tuple[int, ...] = ()
    filling_ends: frozenset[int] = frozenset()
    vocab_size = TOY_VOCAB
    byte_table: ClassVar[list[bytes]] = [*(bytes([32 + token]) for token in range(94)), b"", b"\xc3", b"\xa9"]

    def encode(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        return [94 if char == "\n" and special else max(0, ord(char) - 32) for char in text]

    def encode_input(
        self, text: str, pair: str | None = None, *, max_tokens: int | None = None
    ) -> tuple[list[int], list[int]]:
        first, second = self.encode(text), [] if pair is None else [94, *self.encode(pair)]
        return (first + second)[:max_tokens], ([0] * len(first) + [1] * len(second))[:max_tokens]

    def encode_inside(self, text: str) -> list[int]:
        return [self.byte_table.index(bytes([byte])) for byte in text.encode() if bytes([byte]) in self.byte_table]

    def split(self, text: str) -> list[str | int]:
        return [text] if text else []

    def token_text(self, token: int) -> str:
        return "<end>" if token == 94 else self.byte_table[token].decode("utf-8", "replace")


class ToyTemplate:
    """The texts of all messages, one after the other."""

    takes_later_instructions = True
    digest = "sha256:toy-template"
    tool_source = ""

    def encode_chat(
        self,
        tokenizer: ToyTokenizer,
        messages: Any,
        tools: Any = (),
        *,
        add_generation_prompt: bool = True,
        answer_start: str = "",
        variables: Any = None,
    ) -> list[int]:
        return tokenizer.encode("".join(message.text for message in messages) + answer_start)


@dataclass(frozen=True)
class ToyPlan:
    """As much of a plan as the engine looks at; two rows of the head have no token."""

    cache: CacheShape = TOY_CACHE
    vocab_size: int = TOY_VOCAB + 2
    is_whole: bool = False
    buffers: tuple[Buffer, ...] = ()
    vectors: tuple[Any, ...] = ()
    output: int = 0


@dataclass(frozen=True, kw_only=True)
class ToyModel:
    """What `models.load` gives, around the toy program."""

    name: str = "toy"
    digest: str = "sha256:toy"
    plan: ToyPlan = ToyPlan()
    program: ToyProgram
    tokenizer: ToyTokenizer = field(default_factory=ToyTokenizer)
    template: ToyTemplate | None = field(default_factory=ToyTemplate)
    context_length: int = 512
    created: int = 1
    weights_bytes: int = 1000
    tasks: frozenset[Task] = frozenset({Task.GENERATE, Task.SCORE, Task.COUNT})
    pooling: Any = None
    vectors: "VectorToy | None" = None
    labels: tuple[str, ...] = ("score",)
    activation: ScoreActivation = ScoreActivation.IDENTITY
    facts: dict[str, str] = field(default_factory=dict)

    def pooled(self) -> tuple[ToyPlan, "VectorToy"]:
        assert self.vectors is not None
        output = Buffer(0, "output", BufferKind.F32, VectorToy.width, Rows.SELECTED)
        return ToyPlan(is_whole=self.vectors.is_whole, buffers=(output,)), self.vectors


def toy_text(tokens: list[int]) -> str:
    """What tokens read as, all at once."""
    return b"".join(ToyTokenizer.byte_table[token] for token in tokens).decode("utf-8", "replace")
