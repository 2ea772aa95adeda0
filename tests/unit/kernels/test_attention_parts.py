"""How attention is cut into parts: everything once, nothing too large, sharers together, nobody alone with the work."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from headrace.kernels import native
from headrace.kernels.plan import PAGE_TOKENS, AttentionMode

SPAN = 512
HEADS = (3, 3, 64)
MOST_TOKENS = native.attention_tokens_per_task(HEADS[1])

Part = tuple[int, int, int, list[tuple[int, int, int]]]


def parts_of(
    new: list[int],
    contexts: list[int],
    tables: NDArray[np.int32] | None = None,
    *,
    threads: int = 2,
    mode: AttentionMode = AttentionMode.CAUSAL,
    window: int = 0,
) -> list[Part]:
    """The parts of a batch; without tables nothing is shared."""
    if tables is None:
        width = max(-(-(c + n) // PAGE_TOKENS) for c, n in zip(contexts, new, strict=True))
        tables = np.arange(len(new) * width, dtype=np.int32).reshape(len(new), width)
    starts = np.cumsum([0, *new]).astype(np.int32)
    return native.attention_parts(starts, np.array(contexts, np.int32), tables, HEADS, mode, window, threads)


def shared_tables(count: int, num_shared: int, num_own: int) -> NDArray[np.int32]:
    own = 1000 + np.arange(count * num_own).reshape(count, num_own)
    return np.hstack([np.broadcast_to(np.arange(num_shared), (count, num_shared)), own]).astype(np.int32)


def groups(parts: list[Part]) -> list[list[int]]:
    """The sequences of each block."""
    return sorted([sequence for sequence, _, _ in part[3]] for part in parts if part[0] == 0 and part[1] == 0)


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 70), st.integers(0, 3000)), min_size=1, max_size=24),
    num_shared=st.integers(0, 12),
    threads=st.integers(1, 5),
    mode=st.sampled_from(list(AttentionMode)),
    window=st.integers(1, 1500),
)
def test_every_visible_key_of_every_token_is_covered_once(
    sizes: list[tuple[int, int]], num_shared: int, threads: int, mode: AttentionMode, window: int
) -> None:
    new, contexts = [n for n, _ in sizes], [c for _, c in sizes]
    tables = shared_tables(len(new), num_shared, 100)
    parts = parts_of(new, contexts, tables, threads=threads, mode=mode, window=window)
    covered: Counter[tuple[int, int, int, int]] = Counter()
    for head, begin, end, members in parts:
        assert begin < end
        assert sum(count for _, _, count in members) <= MOST_TOKENS
        for sequence, first, count in members:
            covered.update(
                (head, sequence, token, span) for token in range(first, first + count) for span in range(begin, end)
            )
    assert max(covered.values()) == 1
    for sequence, (count, context) in enumerate(sizes):
        for token in range(count):
            position = context + token
            last = context + count - 1 if mode is AttentionMode.BIDIRECTIONAL else position
            first = max(0, position + 1 - window) if mode is AttentionMode.WINDOW else 0
            for span in range(first // SPAN, last // SPAN + 1):
                assert all(covered[head, sequence, token, span] for head in range(HEADS[0]))


def test_sequences_that_share_pages_are_read_together() -> None:
    assert groups(parts_of([1] * 32, [1030] * 32, shared_tables(32, 32, 8), threads=1)) == [
        list(range(16)),
        list(range(16, 32)),
    ]


def test_strangers_stay_apart_and_sharers_meet_wherever_they_stand() -> None:
    tables = shared_tables(6, 2, 3)
    tables[[1, 4]] += 500
    assert groups(parts_of([1] * 6, [100] * 6, tables, threads=1)) == [[0, 2, 3, 5], [1, 4]]
    assert groups(parts_of([1] * 3, [100] * 3)) == [[0], [1], [2]]


def test_pages_that_a_window_has_left_behind_bring_nobody_together() -> None:
    tables = shared_tables(4, 2, 4)
    near = parts_of([1] * 4, [150] * 4, tables, threads=1, mode=AttentionMode.WINDOW, window=100)
    far = parts_of([1] * 4, [150] * 4, tables, threads=1, mode=AttentionMode.WINDOW, window=80)
    assert groups(near) == [[0, 1, 2, 3]]
    assert groups(far) == [[0], [1], [2], [3]]


@pytest.mark.parametrize("threads", [2, 3, 4, 8])
def test_one_long_sequence_keeps_all_threads_busy(threads: int) -> None:
    parts = parts_of([1], [8191], threads=threads)
    spans = [end - begin for _, begin, end, _ in parts]
    assert sum(spans) == 3 * 16
    assert spans == sorted(spans, reverse=True), "the largest come first"
    assert max(spans) <= -(-sum(spans) // (4 * threads)) + 1


def test_one_thread_leaves_no_partial_sums() -> None:
    assert [(begin, end) for _, begin, end, _ in parts_of([1], [8191], threads=1)] == [(0, 16)] * 3


def test_a_long_prompt_is_cut_into_blocks_that_fit() -> None:
    counts = sorted(count for head, _, _, members in parts_of([100], [0]) for _, _, count in members if head == 0)
    assert sum(counts) == 100
    assert max(counts) <= MOST_TOKENS
