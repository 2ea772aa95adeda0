"""A vocabulary scanned in shards gives, bit for bit, what one scan of it gives."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.unit.kernels.random_sampling import Arrays, random_cuts, random_sampling, rows_of

from headrace.kernels import native

QUAD = 256  # tokens; shards begin at multiples of it


@pytest.fixture(scope="module")
def threads() -> Iterator[native.Threads]:
    pool = native.Threads(2)
    yield pool
    pool.close()


def scan(
    threads: native.Threads,
    logits: NDArray[np.float32],
    sampling: Arrays,
    cuts: list[int],
    *,
    keeps_all: bool = False,
    most_survivors: int = 0,
) -> list[bytes]:
    """The partial results of the shards that begin at `cuts`, given in quads."""
    vocab = logits.shape[1]
    bounds = [0, *(QUAD * cut for cut in cuts), vocab]
    return [
        native.scan_shard(
            threads, np.ascontiguousarray(logits[:, begin:end]), sampling, (begin, vocab), keeps_all, most_survivors
        )
        for begin, end in itertools.pairwise(bounds)
    ]


def join(parts: list[bytes], rng: np.random.Generator) -> bytes:
    """All of them, neighbours in any order."""
    parts = list(parts)
    while len(parts) > 1:
        at = int(rng.integers(len(parts) - 1))
        parts[at : at + 2] = [native.join_shards(parts[at], parts[at + 1])]
    return parts[0]


def equal(results: tuple[NDArray[np.generic], ...], others: tuple[NDArray[np.generic], ...]) -> bool:
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in zip(results, others, strict=True))


def sample_in_shards(
    threads: native.Threads,
    logits: NDArray[np.float32],
    sampling: Arrays,
    cuts: list[int],
    rng: np.random.Generator,
    most_survivors: int,
) -> tuple[tuple[NDArray[np.generic], ...], list[int]]:
    """What `native.sample` returns, and the rows that had to be scanned again."""
    parts = scan(threads, logits, sampling, cuts, most_survivors=most_survivors)
    results, again = native.decide_shards(join(parts, rng), sampling)
    if not again:
        return results, again
    assert (results[0][again] == -1).all()
    few = rows_of(sampling, again)
    parts = scan(threads, np.ascontiguousarray(logits[again]), few, cuts, keeps_all=True)
    late, still = native.decide_shards(join(parts, rng), few)
    assert still == []
    for whole, part in zip(results, late, strict=True):
        if whole.ndim == 1:
            whole[again] = part
        else:
            whole[again, : part.shape[1]] = part
    return results, again


@settings(deadline=None, max_examples=150)
@given(
    vocab=st.sampled_from([1025, 2048, 3000, 5003]),
    num_shards=st.sampled_from([1, 2, 4]),
    count=st.sampled_from([1, 3, 66]),
    spread=st.sampled_from([0.0, 0.3, 3.0, 40.0]),
    most_survivors=st.sampled_from([0, 1, 300]),
    seed=st.integers(0, 2**32),
)
def test_any_number_of_shards_gives_what_one_scan_gives(
    threads: native.Threads, vocab: int, num_shards: int, count: int, spread: float, most_survivors: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((count, vocab)) * spread).astype(np.float32)
    logits[rng.random(count) < 0.1] = rng.choice(np.array([np.nan, -np.inf], np.float32))
    sampling = random_sampling(rng, count, vocab)
    cuts = sorted(rng.choice(np.arange(1, -(-vocab // QUAD)), num_shards - 1, replace=False).tolist())
    results, _ = sample_in_shards(threads, logits, sampling, cuts, rng, most_survivors)
    assert equal(results, native.sample(threads, logits, sampling))


def test_a_row_of_which_too_little_was_kept_is_named_and_scanned_again(threads: native.Threads) -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((8, 4096)).astype(np.float32)
    sampling = random_sampling(rng, 8, 4096)
    sampling = {name: array for name, array in sampling.items() if not name.startswith(("adjust", "mask", "target"))}
    sampling |= {
        "temperature": np.full(8, 2.0, np.float32),
        "top_k": np.array([0] * 7 + [5], np.int32),
        "top_p": np.array([0.97] * 6 + [1.0] * 2, np.float32),
    }
    results, again = sample_in_shards(threads, logits, sampling, [4, 9], rng, most_survivors=20)
    assert set(range(6)) <= set(again) and 7 not in again
    assert equal(results, native.sample(threads, logits, sampling))


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two(threads: native.Threads) -> tuple[list[bytes], Arrays]:
    rng = np.random.default_rng(1)
    sampling = random_sampling(rng, 3, 1000) | {"logprobs": np.ones(3, bool)}
    return scan(threads, rng.standard_normal((3, 1000)).astype(np.float32), sampling, [2]), sampling


def test_only_neighbours_in_order_can_be_joined_and_only_all_of_them_decide(two: tuple[list[bytes], Arrays]) -> None:
    (left, right), sampling = two
    with pytest.raises(ValueError, match="are not neighbours"):
        native.join_shards(right, left)
    with pytest.raises(ValueError, match="not of the whole vocabulary"):
        native.decide_shards(left, sampling)


def test_another_sampling_than_that_of_the_scan_is_refused(two: tuple[list[bytes], Arrays]) -> None:
    (left, right), sampling = two
    whole = native.join_shards(left, right)
    with pytest.raises(ValueError, match="another sampling"):
        native.decide_shards(
            whole,
            {name: array for name, array in sampling.items() if name not in {"num_top", "targets"}}
            | {"logprobs": np.zeros(3, bool)},
        )
    with pytest.raises(ValueError, match="temperature: has 2 entries, not 3"):
        native.decide_shards(whole, rows_of(sampling, [0, 1]))


@pytest.mark.parametrize("place", [(100, 5000), (256, 1000), (-256, 5000), (4864, 5000), (0, 2**24 + 1)])
def test_a_shard_must_be_a_piece_of_the_vocabulary_at_multiples_of_256(
    threads: native.Threads, place: tuple[int, int]
) -> None:
    plain = random_cuts(np.random.default_rng(2), 1)
    with pytest.raises(ValueError, match=r"shard: |place: |logits: "):
        native.scan_shard(threads, np.zeros((1, 1000), np.float32), plain, place)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_broken_bytes_are_refused_or_decide_inside_the_vocabulary(
    two: tuple[list[bytes], Arrays], data: st.DataObject
) -> None:
    (left, right), sampling = two
    whole = bytearray(native.join_shards(left, right))
    if data.draw(st.booleans()):
        broken = bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    else:
        at = data.draw(st.one_of(st.integers(0, 400), st.integers(0, len(whole) - 4)))
        whole[at : at + 4] = data.draw(st.binary(min_size=4, max_size=4))
        broken = bytes(whole)
    try:
        (tokens, *_), _ = native.decide_shards(broken, sampling)
    except ValueError:
        return
    assert (tokens < 1000).all()
