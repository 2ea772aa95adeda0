"""Ends a thought after so many tokens, and lets an answer be free, or keep to its grammar, before and after that.

A matcher like any other, around the one of the answer's grammar, if there is one. It follows the text for the marks of
thoughts; once the budget is spent, the tokens of the second mark must follow, like anything that a grammar dictates.
While a thought may still go on, nothing is drafted. Knows no scheduler.
"""

import ctypes
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from headrace.engine.grammar.matcher import AnyGrammar, AnyMatcher
from headrace.engine.thinking import Marks, ThoughtSplitter


class Budget:
    """How many tokens a thought may have, and the tokens that end it.

    `inner`: the grammar of the answer, which knows of thoughts too. `byte_table` says what each token adds to a text in
    which the marks are seen; `num_words` is the width of a mask.
    """

    def __init__(
        self,
        limit: int,
        marks: Marks,
        ending: Sequence[int],
        byte_table: Sequence[bytes],
        num_words: int,
        *,
        is_open: bool,
        inner: AnyGrammar | None = None,
    ) -> None:
        self.limit = limit
        self.marks = marks
        self.ending = tuple(ending)
        self.byte_table = byte_table
        self.is_open = is_open
        self.inner = inner
        self.num_words = num_words
        bits = np.zeros(num_words * 32, np.uint8)
        bits[: len(byte_table)] = 1
        self.everything = np.packbits(bits, bitorder="little").view(np.uint32)

    def start(self) -> "BudgetMatcher":
        """The state at the beginning of an answer."""
        return BudgetMatcher(self, None if self.inner is None else self.inner.start())


class BudgetMatcher:
    """See the file's head."""

    __slots__ = ("_budget", "_inner", "_left", "_pending", "_thoughts")

    def __init__(self, budget: Budget, inner: AnyMatcher | None) -> None:
        self._budget = budget
        self._inner = inner
        self._thoughts: ThoughtSplitter | None = ThoughtSplitter(budget.marks, is_open=budget.is_open)
        self._left = budget.limit
        self._pending: list[int] = []  # tokens that must follow
        if budget.is_open and not self._left:
            self._pending = [*budget.ending]

    @property
    def num_words(self) -> int:
        """The width of a mask."""
        return self._budget.num_words

    @property
    def successor(self) -> "AnyMatcher | None":
        """What goes on in its place, once no thought can come any more; itself until then."""
        return self if self._thoughts is not None or self._pending else self._inner

    @property
    def is_finished(self) -> bool:
        """Whether nothing may follow but the end."""
        return self._inner is not None and self._inner.is_finished

    @property
    def is_accepting(self) -> bool:
        """Whether the answer is complete as it stands."""
        return not self._pending and (self._inner is None or self._inner.is_accepting)

    def mask_at(self, address: int) -> None:
        """Write which tokens may come next to a row of `num_words` words."""
        if self._pending:
            token = self._pending[0]
            row = np.zeros(self._budget.num_words, np.uint32)
            row[token >> 5] = np.uint32(1 << (token & 31))
            ctypes.memmove(address, row.ctypes.data, row.nbytes)
        elif self._inner is not None:
            self._inner.mask_at(address)
        else:
            everything = self._budget.everything
            ctypes.memmove(address, everything.ctypes.data, everything.nbytes)

    def accept(self, token: int) -> None:
        """Take the token that came."""
        if self._inner is not None:
            self._inner.accept(token)
        if self._pending:
            del self._pending[0]
        if self._thoughts is None:
            return
        was_thinking = self._thoughts.is_thinking
        # Bytes outside the marks are of no interest, however they would be read.
        self._thoughts.push(self._budget.byte_table[token].decode("latin-1"))
        if not self._thoughts.is_thinking:
            if was_thinking or self._thoughts.is_over:
                self._thoughts = None
            return
        self._left -= was_thinking
        if self._left <= 0 and not self._pending:
            self._pending = [*self._budget.ending]

    def forced(self) -> list[int]:
        """Tokens that must follow and need not be drawn."""
        if self._pending:
            return [*self._pending]
        return [] if self._inner is None else self._inner.forced()

    def allowed_prefix(self, tokens: list[int]) -> int:
        """How many of the next `tokens` are allowed."""
        return 0

    def masks(self, draft: list[int], out: NDArray[np.uint32]) -> int:
        """See `Matcher.masks`; there is never a draft."""
        assert not draft
        self.mask_at(out.ctypes.data)
        return 1
