"""A compiled grammar, and the state of one answer that keeps to it.

A matcher says which tokens may come next, takes the one that came, and knows which must follow without being asked for
(forced tokens: what the grammar leaves no choice about, tokenised as the model's tokenizer would). Ending tokens are
allowed exactly where the grammar may end. Matchers of one grammar share what its lexer has learnt, under a lock. Knows
no scheduler, no text and no request; a matcher is used by one thread at a time.
"""

from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import EngineFault

if TYPE_CHECKING:
    import llguidance


class AnyMatcher(Protocol):
    """One answer so far, and what may come next: see `Matcher`, whose methods these are."""

    @property
    def num_words(self) -> int: ...  # noqa: D102
    @property
    def is_finished(self) -> bool: ...  # noqa: D102
    @property
    def is_accepting(self) -> bool: ...  # noqa: D102
    @property
    def successor(self) -> "AnyMatcher | None": ...  # noqa: D102
    def mask_at(self, address: int) -> None: ...  # noqa: D102
    def accept(self, token: int) -> None: ...  # noqa: D102
    def forced(self) -> list[int]: ...  # noqa: D102
    def allowed_prefix(self, tokens: list[int]) -> int: ...  # noqa: D102
    def masks(self, draft: list[int], out: NDArray[np.uint32]) -> int: ...  # noqa: D102


class AnyGrammar(Protocol):
    """What answers keep to."""

    def start(self) -> AnyMatcher:
        """The state at the beginning of an answer."""
        ...


class Grammar:
    """What `GrammarCompiler.compile` returns; may be shared by any number of requests and threads."""

    def __init__(self, prototype: "llguidance.LLMatcher", num_tokens: int, eos_ids: frozenset[int]) -> None:
        self._prototype = prototype
        self.eos_ids = eos_ids
        self.num_words = -(-num_tokens // 32)  # of a mask: uint32, bit t % 32 of word t // 32 is token t
        self.is_spent = False  # a matcher failed: what they share may be full or broken

    def start(self) -> "Matcher":
        """The state at the beginning of an answer."""
        return Matcher(self, self._prototype.deep_copy())


class Matcher:
    """One answer so far. Methods raise EngineFault where llguidance gives up, which ends this answer and no other."""

    __slots__ = ("_grammar", "_state")

    def __init__(self, grammar: Grammar, state: "llguidance.LLMatcher") -> None:
        self._grammar = grammar
        self._state = state

    @property
    def num_words(self) -> int:
        """The width of a mask."""
        return self._grammar.num_words

    @property
    def is_finished(self) -> bool:
        """Whether nothing may follow but the end."""
        return bool(self._state.is_stopped())

    @property
    def is_accepting(self) -> bool:
        """Whether the answer is complete as it stands."""
        return bool(self._state.is_accepting())

    @property
    def successor(self) -> AnyMatcher | None:
        """What takes its place after a token: itself, to the end."""
        return self

    def mask(self, out: NDArray[np.uint32]) -> None:
        """Write which tokens may come next into a row of `num_words` words. After the end only ending tokens may."""
        assert out.dtype == np.uint32 and out.flags.c_contiguous and out.shape == (self._grammar.num_words,)
        self.mask_at(out.ctypes.data)

    def mask_at(self, address: int) -> None:
        """The same at an address: the caller answers for the memory there, and looks it up once for many rows."""
        self._state.unsafe_compute_mask_ptr(address, self._grammar.num_words * 4)
        if self._state.is_error():
            self._check()

    def accept(self, token: int) -> None:
        """Take the token that came; one that was not allowed is a fault."""
        if not self._state.consume_token(token):
            self._check()

    def forced(self) -> list[int]:
        """Tokens that must follow and need not be drawn, for `accept` one by one; empty where there is a choice.

        Where nothing but the end may follow, a token that ends the answer.
        """
        if self._state.is_stopped():
            self._check()
            return [min(self._grammar.eos_ids)]
        return list(self._state.compute_ff_tokens())

    def allowed_prefix(self, tokens: list[int]) -> int:
        """How many of the next `tokens`, from the first, the grammar would accept before its end; changes nothing."""
        end = next((place for place, token in enumerate(tokens) if token in self._grammar.eos_ids), len(tokens))
        return int(self._state.validate_tokens(tokens[:end])) if end and not self._state.is_stopped() else 0

    def masks(self, draft: list[int], out: NDArray[np.uint32]) -> int:
        """The mask before each token of a draft and after the last one that is allowed; changes nothing.

        `out` [len(draft) + 1, num_words]. Returns the number of rows written: one more than draft tokens allowed.
        """
        taken = 0
        try:
            self.mask(out[0])
            for token in draft:
                row = out[taken]
                if not row[token >> 5] >> np.uint32(token & 31) & np.uint32(1) or self.is_finished:
                    break
                self.accept(token)
                taken += 1
                self.mask(out[taken])
        finally:
            if taken and not self._state.rollback(taken):
                self._check()
        return taken + 1

    def fork(self) -> "Matcher":
        """Another answer that begins like this one."""
        return Matcher(self._grammar, self._state.deep_copy())

    def _check(self) -> None:
        if self._state.is_error():
            self._grammar.is_spent = True
            reason = self._state.get_error().split("\n", 1)[0][:300]
            raise EngineFault(f"The answer's grammar cannot be followed any further: {reason}. Simplify it.")
