"""The adapted plan, natively: equal to the reference, plain rows untouched, the same bits in any batch."""

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.adapters import adapted_model
from tests.unit.adapters.adapted_model import AdaptedModel, bind, random_factors
from tests.unit.kernels.tiny_plan import VOCAB, Cache, Sequence, sequences

from headrace.kernels import native
from headrace.kernels.reference import ReferenceProgram

# As for the plain plan (`test_program.py`): one code rounded the other way moves logits of size 1 this far.
LARGEST, AVERAGE = 0.08, 0.008


@pytest.fixture(scope="module")
def adapted() -> AdaptedModel:
    return adapted_model.build()


@pytest.fixture
def threads() -> Iterator[native.Threads]:
    pool = native.Threads(2)
    yield pool
    pool.close()


def run(
    program: native.Program,
    threads: native.Threads,
    cache: Cache,
    work: list[tuple[Sequence, int]],
    adapters: list[native.Adapter | None] | None = None,
) -> NDArray[np.float32]:
    logits = np.empty((len(work), VOCAB), dtype=np.float32)
    program.step(threads, **cache.arguments(work), output=logits, adapters=adapters)
    return logits


def test_a_ragged_batch_of_several_adapters_gives_the_logits_of_the_reference(
    adapted: AdaptedModel, threads: native.Threads
) -> None:
    factors = [
        random_factors(adapted.plan, 1, 16),
        None,
        random_factors(adapted.plan, 2, 3, every=2),
        random_factors(adapted.plan, 3, 40),
    ]
    handles = [None if each is None else bind(adapted.program, each) for each in factors]
    reference = ReferenceProgram(adapted.plan, adapted.model.matrices, adapted.model.vectors)
    ours, theirs, plain = Cache(), Cache(), Cache()
    lengths = (70, 33, 35, 5)
    first, second, third = sequences(*lengths), sequences(*lengths), sequences(*lengths)
    for counts in ((64, 1, 33, 4), (6, 32, 2, 1)):
        logits = run(adapted.program, threads, ours, list(zip(first, counts, strict=True)), handles)
        expected = reference.step(**theirs.arguments(list(zip(second, counts, strict=True))), adapters=factors)
        without = run(adapted.program, threads, plain, list(zip(third, counts, strict=True)))
        error = np.abs(logits - expected)
        assert error.max() < LARGEST
        assert error.mean() < AVERAGE
        # What the adapters do is far more than the limits, and nothing to the row without one.
        difference = np.abs(logits - without).mean(axis=1)
        assert difference[[0, 2, 3]].min() > 10 * AVERAGE
        assert difference[1] == 0


def test_rows_without_an_adapter_have_the_bits_of_the_plain_plan(
    adapted: AdaptedModel, threads: native.Threads
) -> None:
    handle = bind(adapted.program, random_factors(adapted.plan, 4, 16))
    caches = Cache(), Cache(), Cache()
    batches = [sequences(70, 33, 20) for _ in caches]
    for counts in ((64, 20, 7), (6, 13, 13)):
        plain, none, mixed = (
            run(program, threads, cache, list(zip(batch, counts, strict=True)), adapters)
            for program, adapters, cache, batch in zip(
                (adapted.model.program, adapted.program, adapted.program),
                (None, [None] * 3, [None, handle, None]),
                caches,
                batches,
                strict=True,
            )
        )
        assert np.array_equal(none, plain)
        assert np.array_equal(mixed[[0, 2]], plain[[0, 2]])
        assert not np.array_equal(mixed[1], plain[1])


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_sequence_gives_the_same_bits_alone_and_in_any_batch_cut_in_any_way(
    adapted: AdaptedModel, count: int
) -> None:
    threads = native.Threads(count)
    handles = [bind(adapted.program, random_factors(adapted.plan, seed, 16 - seed)) for seed in range(3)]
    alone, together = Cache(), Cache()
    (lonely, *_), batch = sequences(130, 40, 66, 20, 20), sequences(130, 40, 66, 20, 20)
    expected = run(adapted.program, threads, alone, [(lonely, 130)], [handles[0]])
    mixed = [handles[0], handles[1], None, handles[0], handles[2]]
    run(adapted.program, threads, together, list(zip(batch, (40, 1, 66, 20, 20), strict=True)), mixed)
    for piece in (1, 65):
        run(adapted.program, threads, together, [(batch[1], 1), (batch[0], piece)], [handles[1], handles[0]])
    logits = run(adapted.program, threads, together, [(batch[0], 24)], [handles[0]])
    threads.close()
    assert np.array_equal(logits, expected)


def test_adapters_that_do_not_fit_are_refused_by_name(adapted: AdaptedModel, threads: native.Threads) -> None:
    factors = random_factors(adapted.plan, 5, 8)
    handle = bind(adapted.program, factors)
    other = adapted_model.build().program
    (sequence,) = sequences(3)
    cases = [
        ([handle], other, "made for another program"),
        ([handle, None], adapted.program, "one entry per sequence, 1"),
        ([3], adapted.program, "neither an Adapter nor None"),
    ]
    for adapters, program, message in cases:
        sequence.done = 0
        with pytest.raises(ValueError, match=message):
            run(program, threads, Cache(), [(sequence, 3)], adapters)
    index, low_rank = next(iter(factors.items()))
    with pytest.raises(ValueError, match="the plan adapts no such matrix"):
        bind(adapted.program, {adapted.plan.ops[0].ints[0]: low_rank})
    with pytest.raises(ValueError, match="the plan adapts no such matrix"):
        bind(adapted.model.program, {index: low_rank})
    narrow = next(i for i, each in factors.items() if each.a.cols != low_rank.a.cols)
    with pytest.raises(ValueError, match="A is not as wide"):
        bind(adapted.program, {narrow: low_rank})


def test_parts_that_pass_the_matrix_end_are_refused(adapted: AdaptedModel) -> None:
    index, low_rank = next(iter(random_factors(adapted.plan, 6, 8).items()))
    (a,) = adapted_model.tiny_plan.bind([low_rank.a])
    part = low_rank.parts[0]
    rows, blocks = len(part.codes), adapted_model.pack(part)
    spec = adapted.plan.matrices[index]
    for place, message in [
        ((1, 8, rows, part.offset, 32), "A has too few rows"),
        ((0, 8, rows, spec.rows - rows + 1, 32), "pass the matrix' end"),
        ((0, 8, rows, part.offset, 31), "out of range"),
        ((0, 9, rows, part.offset, 32), "blocks"),
        ((0, 257, rows, part.offset, 32), "rank 257"),
    ]:
        with pytest.raises(ValueError, match=message):
            native.Adapter(adapted.program, [(index, a, [(*place, 1.0, blocks)])])
