"""The executor: equal to the reference, the same bits however the work is cut, and nothing malformed gets in."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.kernels import tiny_plan
from tests.unit.kernels.tiny_plan import VOCAB, Cache, Model, Sequence, sequences

from headrace.kernels import native
from headrace.kernels.plan import KvKind, OpKind
from headrace.kernels.reference import ReferenceProgram
from headrace.kernels.reference_pages import load_kv, new_pool

# Activations are quantised again and again, so that one code rounded the other way moves logits of size 1 this far, at
# most and on average. With 8-bit pages queries and probabilities are rounded too, which the reference does not do.
LOGIT_LIMITS = {KvKind.HALF: (0.05, 0.005), KvKind.INT8: (0.12, 0.015)}
STORED_LIMIT = 0.005


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_plan.build()


@pytest.fixture
def threads() -> Iterator[native.Threads]:
    pool = native.Threads(2)
    yield pool
    pool.close()


@pytest.fixture(params=KvKind, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> KvKind:
    """How keys and values are stored."""
    return KvKind(request.param)


def run(model: Model, threads: native.Threads, cache: Cache, work: list[tuple[Sequence, int]]) -> NDArray[np.float32]:
    logits = np.empty((len(work), VOCAB), dtype=np.float32)
    assert model.program.step(threads, **cache.arguments(work), output=logits) is None
    return logits


def test_a_ragged_batch_gives_the_logits_of_the_reference(model: Model, threads: native.Threads, kind: KvKind) -> None:
    reference = ReferenceProgram(model.plan, model.matrices, model.vectors)
    ours, theirs = Cache(tiny_plan.new_pool(kind)), Cache(tiny_plan.new_pool(kind))
    lengths = (70, 1, 33, 5)
    first, second = sequences(*lengths), sequences(*lengths)
    for counts in ((64, 1, 2, 4), (6, 0, 31, 1)):
        work = [(s, n) for s, n in zip(first, counts, strict=True) if n]
        logits = run(model, threads, ours, work)
        expected = reference.step(**theirs.arguments([(s, n) for s, n in zip(second, counts, strict=True) if n]))
        error = np.abs(logits - expected)
        most, average = LOGIT_LIMITS[kind]
        assert error.max() < most and error.mean() < average
        assert logits.std() > 0.2
    for layer in range(tiny_plan.LAYERS):
        for sequence in first:
            count = sequence.done
            stored, expected = (load_kv(cache.pool, layer, sequence.pages, count) for cache in (ours, theirs))
            assert all(np.abs(a - b).mean() < STORED_LIMIT for a, b in zip(stored, expected, strict=True))
            assert all(part.std() > 0.2 for part in stored)


def test_heads_that_no_vector_kernel_takes_run_all_the_same(threads: native.Threads) -> None:
    model = tiny_plan.build(head_dim=20)
    assert native.attention_variant(20) == "portable"
    assert native.attention_variant(32) == native.variant()
    ours, theirs = (Cache(new_pool(model.plan.cache, tiny_plan.NUM_PAGES)) for _ in range(2))
    (first,), (second,) = sequences(70), sequences(70)
    reference = ReferenceProgram(model.plan, model.matrices, model.vectors)
    for count in (64, 6):
        logits = run(model, threads, ours, [(first, count)])
        expected = reference.step(**theirs.arguments([(second, count)]))
        assert np.abs(logits - expected).max() < LOGIT_LIMITS[KvKind.HALF][0]
        assert logits.std() > 0.2


@pytest.mark.parametrize("piece", [1, 7, 32, 64, 600])
def test_a_prefill_in_pieces_gives_the_same_bits_as_in_one(
    model: Model, threads: native.Threads, kind: KvKind, piece: int
) -> None:
    (whole,), (cut,) = sequences(600), sequences(600)
    one, many = Cache(tiny_plan.new_pool(kind)), Cache(tiny_plan.new_pool(kind))
    expected = run(model, threads, one, [(whole, 600)])
    while cut.done < 600:
        logits = run(model, threads, many, [(cut, min(piece, 600 - cut.done))])
    assert np.array_equal(logits, expected)
    assert np.array_equal(one.pool, many.pool)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_any_number_of_threads_gives_the_same_bits(model: Model, kind: KvKind, count: int) -> None:
    results = []
    for number in (1, count):
        pool = native.Threads(number)
        cache = Cache(tiny_plan.new_pool(kind))
        batch = sequences(300, 40, 1, 129)
        steps = [run(model, pool, cache, [(s, len(s.tokens) // 2 + 1) for s in batch if len(s.tokens) > 1])]
        steps.append(run(model, pool, cache, [(s, len(s.tokens) - s.done) for s in batch]))
        pool.close()
        results.append((*steps, cache.pool))
    for alone, together in zip(*results, strict=True):
        assert np.array_equal(alone, together)


def test_a_sequence_gives_the_same_bits_alone_and_in_any_batch(
    model: Model, threads: native.Threads, kind: KvKind
) -> None:
    batch = sequences(90, 33, 70, 64, 17, 80, 5, 12, 49)
    lonely = sequences(90, 33, 70, 64, 17, 80, 5, 12, 49)[2]
    cache, alone = Cache(tiny_plan.new_pool(kind)), Cache(tiny_plan.new_pool(kind))
    expected = run(model, threads, alone, [(lonely, 60)])
    assert np.array_equal(run(model, threads, cache, [(s, min(60, len(s.tokens))) for s in batch])[2], expected[0])
    longer = [s for s in batch if s.done < len(s.tokens)]
    where = next(i for i, s in enumerate(longer) if s is batch[2])
    for _ in range(4):
        rows = run(model, threads, cache, [(s, 1) for s in longer])
        assert np.array_equal(rows[where], run(model, threads, alone, [(lonely, 1)])[0])


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_long_contexts_give_the_same_bits_on_any_number_of_threads(model: Model, kind: KvKind, count: int) -> None:
    """Several threads divide the spans of one sequence among them; one does not."""
    results = []
    for number in (1, count):
        pool = native.Threads(number)
        cache = Cache(tiny_plan.new_pool(kind))
        batch = sequences(1190, 700)
        run(model, pool, cache, [(batch[0], 1100), (batch[1], 600)])
        steps = [run(model, pool, cache, [(batch[0], 1)]) for _ in range(3)]
        steps += [run(model, pool, cache, [(batch[0], 3), (batch[1], 40)])]
        pool.close()
        results.append((*steps, cache.pool))
    for alone, together in zip(*results, strict=True):
        assert np.array_equal(alone, together)


def siblings(count: int, shared: int, total: int, *, private: bool) -> list[Sequence]:
    """Sequences whose first `shared` pages hold the same tokens: in the same pages, or each in its own."""
    rng = np.random.default_rng(5)
    pages = rng.permutation(tiny_plan.NUM_PAGES).astype(np.int32)
    start = rng.integers(0, VOCAB, shared * 32)
    own = total if private else total - shared
    result = []
    for index in range(count):
        mine = pages[shared + index * own : shared + (index + 1) * own]
        table = mine if private else np.concatenate([pages[:shared], mine])
        tokens = np.concatenate([start, rng.integers(0, VOCAB, (total - shared) * 32)])
        result.append(Sequence(tokens.astype(np.int32), table.astype(np.int32)))
    return result


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pages_shared_by_a_group_give_the_bits_of_private_copies(model: Model, kind: KvKind, count: int) -> None:
    answers = []
    for private in (True, False):
        pool = native.Threads(count)
        cache = Cache(tiny_plan.new_pool(kind))
        batch = siblings(7, 5, 8, private=private)
        lengths = [161, 165, 170, 190, 200, 222, 230]
        for sequence, length in zip(batch, lengths, strict=True):
            # A sharer finds the pages of the first one written.
            sequence.done = 0 if private or sequence is batch[0] else 160
            run(model, pool, cache, [(sequence, length - sequence.done)])
        steps = [run(model, pool, cache, [(sequence, 1) for sequence in batch]) for _ in range(3)]
        steps.append(run(model, pool, cache, [(sequence, 1 + i % 3) for i, sequence in enumerate(batch)]))
        pool.close()
        answers.append(np.concatenate(steps))
    assert np.array_equal(*answers)


def test_selected_rows_come_in_the_order_they_were_asked_for(model: Model, threads: native.Threads) -> None:
    (sequence,) = sequences(50)
    arguments = Cache().arguments([(sequence, 50)])
    every = np.empty((50, VOCAB), dtype=np.float32)
    model.program.step(threads, **arguments | {"selected": np.arange(50, dtype=np.int32)}, output=every)
    chosen = np.array([49, 3, 3, 20], dtype=np.int32)
    logits = np.empty((4, VOCAB), dtype=np.float32)
    model.program.step(threads, **arguments | {"selected": chosen}, output=logits)
    assert np.array_equal(logits, every[chosen])


def test_a_step_without_selected_rows_only_fills_the_cache(model: Model, threads: native.Threads) -> None:
    (sequence,), (same,) = sequences(40), sequences(40)
    silent, loud = Cache(), Cache()
    arguments = silent.arguments([(sequence, 40)])
    nothing = {"selected": np.array([], dtype=np.int32), "output": np.empty((0, VOCAB), dtype=np.float32)}
    model.program.step(threads, **arguments | nothing)
    run(model, threads, loud, [(same, 40)])
    assert silent.pool.any()
    assert np.array_equal(silent.pool, loud.pool)


def test_a_profile_covers_every_op_once_and_only_while_it_is_on(model: Model, threads: native.Threads) -> None:
    assert model.program.stage_times() == []
    model.program.profile(is_on=True)
    try:
        run(model, threads, Cache(), [(sequences(40)[0], 40)])
        times = model.program.stage_times()
    finally:
        model.program.profile(is_on=False)
    ends = [end for _, end, _ in times]
    assert [begin for begin, _, _ in times] == [0, *ends[:-1]] and ends[-1] == len(model.plan.ops)
    assert times[-1][:2] == (len(model.plan.ops), len(model.plan.ops)), "the sampler comes last and has no ops"
    assert all(seconds > 0 for _, _, seconds in times)
    assert model.program.stage_times() == []


def greedy(count: int) -> dict[str, NDArray[Any]]:
    return {
        "temperature": np.zeros(count, dtype=np.float32),
        "top_k": np.zeros(count, dtype=np.int32),
        "top_p": np.ones(count, dtype=np.float32),
        "min_p": np.zeros(count, dtype=np.float32),
        "seed": np.zeros(count, dtype=np.uint64),
        "choice": np.zeros(count, dtype=np.uint32),
        "position": np.zeros(count, dtype=np.uint32),
    }


def test_a_step_samples_from_the_logits_it_computed(model: Model, threads: native.Threads) -> None:
    batch = sequences(9, 20, 3)
    arguments = Cache().arguments([(s, len(s.tokens)) for s in batch])
    logits = np.empty((3, VOCAB), dtype=np.float32)
    sampled = model.program.step(threads, **arguments, output=logits, sampling=greedy(3))
    assert sampled is not None
    assert np.array_equal(sampled[0], logits.argmax(axis=1))
    noisy = greedy(3) | {"temperature": np.ones(3, dtype=np.float32), "seed": np.arange(3, dtype=np.uint64)}
    drawn = model.program.step(threads, **arguments, sampling=noisy)
    assert drawn is not None
    assert np.array_equal(drawn[0], native.sample(threads, logits, noisy)[0])


def test_a_token_may_be_selected_twice_and_out_of_order(model: Model, threads: native.Threads) -> None:
    arguments = Cache().arguments([(s, len(s.tokens)) for s in sequences(9, 20, 3)])
    once = np.arange(32, dtype=np.int32)
    logits = np.empty((32, VOCAB), dtype=np.float32)
    model.program.step(threads, **arguments | {"selected": once}, output=logits)
    rows = np.array([31, 4, 4, 30, 0, 4], dtype=np.int32)
    sampling = greedy(6) | {"targets": np.array([7, -1, 3, 100, -1, -1], np.int32)}
    tokens, logprobs, *_ = model.program.step(threads, **arguments | {"selected": rows}, sampling=sampling)  # type: ignore[misc]
    best = logits.argmax(axis=1)
    assert tokens.tolist() == [7, best[4], 3, 100, best[0], best[4]]
    for row, target in ((0, 7), (2, 3), (3, 100)):
        values = logits[rows[row]].astype(np.float64)
        assert abs(logprobs[row] - (values[target] - np.log(np.exp(values).sum()))) < 1e-5


BAD_STEPS: list[tuple[str, Any, str]] = [
    ("tokens", np.array([0, VOCAB], dtype=np.int32), r"tokens\[1\]: 101"),
    ("tokens", np.array([0, -1], dtype=np.int32), r"tokens\[1\]: -1"),
    ("tokens", np.array([0, 1], dtype=np.int64), "tokens: wrong element type"),
    ("tokens", np.array([0, 9, 1, 9], dtype=np.int32)[::2], "tokens: is not C-contiguous"),
    ("tokens", np.zeros((1, 2), dtype=np.int32), "tokens: has 2 dimensions"),
    ("tokens", np.array([], dtype=np.int32), "tokens: is empty"),
    ("starts", np.array([], dtype=np.int32), "starts: must have one entry more"),
    ("starts", np.array([0, 3], dtype=np.int32), r"starts\[1\]: 3"),
    ("starts", np.array([1, 2], dtype=np.int32), r"starts\[0\]: 1"),
    ("starts", np.array([0, -5], dtype=np.int32), r"starts\[1\]: -5"),
    ("starts", np.array([0, 1, 2], dtype=np.int32), "contexts: must have one entry per sequence, 2"),
    ("contexts", np.array([-1], dtype=np.int32), r"contexts\[0\]: -1"),
    ("contexts", np.array([tiny_plan.MAX_POSITIONS - 1], dtype=np.int32), r"contexts\[0\]: 1199 with 2 new tokens"),
    ("contexts", np.array([2**31 - 1], dtype=np.int32), r"contexts\[0\]: 2147483647"),
    ("page_tables", np.array([[tiny_plan.NUM_PAGES]], dtype=np.int32), r"page_tables\[0\]: 80"),
    ("page_tables", np.array([[-1]], dtype=np.int32), r"page_tables\[0\]: -1"),
    ("page_tables", np.zeros((1, 0), dtype=np.int32), "page_tables: row 0 has 0 pages"),
    ("page_tables", np.zeros((2, 1), dtype=np.int32), "page_tables: must have one row per sequence, 1"),
    ("selected", np.array([2], dtype=np.int32), r"selected\[0\]: 2"),
    ("selected", np.array([-1], dtype=np.int32), r"selected\[0\]: -1"),
    ("pool", np.zeros((4, 2, 2, 2, 64), dtype=np.uint16), "pool: must be"),
    ("pool", np.zeros((4, 2, 2, 2, 1024), dtype=np.float16), "pool: wrong element type"),
    ("pool", np.zeros((4, 2, 2, 2, 1024), dtype=np.uint8), "pool: has 5 dimensions, not 4"),
    ("pool", np.zeros((4, 2, 2, 2048), dtype=np.uint8), r"pool: must be \[pages, 2, 2, 2304\] in uint8"),
    ("pool", np.zeros((4, 2, 2, 2304), dtype=np.uint16), "pool: has 4 dimensions, not 5"),
    ("output", np.zeros((2, VOCAB), dtype=np.float32), r"output: must be \[1, 101\]"),
    ("output", np.zeros((1, VOCAB - 1), dtype=np.float32), r"output: must be \[1, 101\]"),
    ("sampling", {}, "sampling: temperature is missing"),
    ("sampling", greedy(1) | {"heat": np.zeros(1)}, "sampling: unknown key 'heat'"),
    ("sampling", greedy(2), "sampling: temperature: has 2 entries, not 1"),
    ("sampling", greedy(1) | {"top_k": np.zeros(1)}, "sampling: top_k: wrong element type"),
    ("sampling", greedy(1) | {"seed": [0]}, "sampling: seed is not an array"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_STEPS)
def test_a_malformed_argument_of_a_step_is_refused_by_name(
    model: Model, threads: native.Threads, name: str, value: Any, message: str
) -> None:
    (sequence,) = sequences(2)
    cache = Cache()
    arguments = cache.arguments([(sequence, 2)]) | {name: value}
    with pytest.raises(ValueError, match=message):
        model.program.step(threads, **arguments)
    assert not cache.pool.any(), "a refused step must not write"


def test_a_read_only_pool_is_refused(model: Model, threads: native.Threads) -> None:
    (sequence,) = sequences(2)
    cache = Cache()
    cache.pool.flags.writeable = False
    with pytest.raises(TypeError):
        model.program.step(threads, **cache.arguments([(sequence, 2)]))


def changed(model: Model, kind: OpKind, operand: int, value: int) -> list[tuple[int, list[int], list[float]]]:
    """The plan's ops, one integer operand of the last op of that kind replaced."""
    ops = tiny_plan.operands(model.plan)[1]
    index = max(i for i, op in enumerate(ops) if op[0] == kind)
    ops[index][1][operand] = value
    return ops


def bind(model: Model, **changes: Any) -> native.Program:
    plan = model.plan
    buffers, ops = tiny_plan.operands(plan)
    arguments: dict[str, Any] = {
        "buffers": buffers,
        "ops": ops,
        "matrices": tiny_plan.bind(model.matrices),
        "vectors": model.vectors,
        "cache": (plan.cache.num_layers, plan.cache.num_kv_heads, plan.cache.head_dim),
        "vocab_size": plan.vocab_size,
        "max_positions": plan.max_positions,
        "output": plan.output,
    }
    return native.Program(**arguments | changes)


BAD_OPERANDS: list[tuple[OpKind, int, int, str]] = [
    (OpKind.EMBED, 0, 99, "EMBED: matrix names matrix 99"),
    (OpKind.EMBED, 0, 2, "EMBED: matrix has fewer rows"),
    (OpKind.EMBED, 1, 1, "EMBED: out must be a F32 buffer"),
    (OpKind.EMBED, 1, -1, "EMBED: out names buffer -1"),
    (OpKind.RMS_NORM, 0, 77, "RMS_NORM: x names buffer 77"),
    (OpKind.RMS_NORM, 1, 0, "RMS_NORM: weight has"),
    (OpKind.RMS_NORM, 2, 1, "RMS_NORM: out has rows of another kind"),
    (OpKind.QUANTIZE, 1, 0, "QUANTIZE: out must be a Q8 buffer"),
    (OpKind.HEAD_NORM, 3, 9, "HEAD_NORM: offset with its heads"),
    (OpKind.HEAD_NORM, 4, 64, "HEAD_NORM: "),
    (OpKind.ROPE, 2, 200, "ROPE: offset with its heads"),
    (OpKind.ROPE, 5, 34, "ROPE: rotary_dim"),
    (OpKind.ROPE, 5, 15, "ROPE: rotary_dim"),
    (OpKind.ROPE, 6, 2, "ROPE: style"),
    (OpKind.ROPE, 1, 0, "ROPE: table has"),
    (OpKind.STORE_KV, 1, 2, "STORE_KV: layer 2"),
    (OpKind.STORE_KV, 2, 250, "STORE_KV: k_offset"),
    (OpKind.STORE_KV, 3, 250, "STORE_KV: v_offset"),
    (OpKind.LINEAR, 0, 0, "LINEAR: x must be a Q8 buffer"),
    (OpKind.LINEAR, 1, 1, "LINEAR: out is not as wide"),
    (OpKind.LINEAR, 2, 0, "LINEAR: bias has"),
    (OpKind.LINEAR, 3, 0, "LINEAR: out"),
    (OpKind.LINEAR, 4, 2, "LINEAR: accumulate"),
    (OpKind.GATED, 2, 1, "GATED: out must be another buffer"),
    (OpKind.GATED, 1, 0, "GATED: matrix must have its rows in pairs"),
    (OpKind.GATED, 3, 2, "GATED: activation"),
    (OpKind.ATTENTION, 2, 5, "ATTENTION: layer 5"),
    (OpKind.ATTENTION, 3, 224, "ATTENTION: q_offset"),
    (OpKind.ATTENTION, 4, 3, "ATTENTION: num_heads"),
    (OpKind.ATTENTION, 5, 3, "ATTENTION: mode"),
    (OpKind.ATTENTION, 6, 0, "ATTENTION: window"),
    (OpKind.ADD, 0, 2, "ADD: "),
    (OpKind.HADAMARD, 1, 200, "HADAMARD: offset with its heads"),
    (OpKind.HADAMARD, 3, 24, "HADAMARD: head_dim must be a power of two"),
    (OpKind.SELECT, 1, 0, "SELECT: out must have one row per selected"),
]


@pytest.mark.parametrize(("kind", "operand", "value", "message"), BAD_OPERANDS)
def test_an_op_that_does_not_fit_is_refused_by_index_kind_and_operand(
    model: Model, kind: OpKind, operand: int, value: int, message: str
) -> None:
    with pytest.raises(ValueError, match=rf"ops\[\d+\] {message}"):
        bind(model, ops=changed(model, kind, operand, value))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("output", 0, "output: buffer 0"),
        ("output", 50, "output: 50"),
        ("cache", (2, 2, 5000), "cache: head_dim"),
        ("cache", (0, 2, 32), "cache: num_layers"),
        ("vocab_size", 0, "vocab_size: 0"),
        ("vocab_size", 5000, "EMBED: matrix has fewer rows"),
        ("max_positions", 4, "ROPE: table has"),
        ("buffers", [(2, 32, 0)], r"buffers\[0\]: kind"),
        ("buffers", [(1, 33, 0)], r"buffers\[0\]: width"),
        ("ops", [(99, [], [])], r"ops\[0\]: kind 99"),
        ("ops", [(0, [0], [1.0])], r"ops\[0\]: EMBED takes 2 integers"),
        ("ops", [(0, [0, 0], [float("nan")])], r"ops\[0\]: scale is not a finite"),
        ("vectors", [np.zeros(3)], r"vectors\[0\]: must be float32"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_by_name(model: Model, name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bind(model, **{name: value})


@pytest.mark.parametrize(
    ("rows", "cols", "bits", "size", "message"),
    [(16, 32, 4, 319, "tiles"), (17, 32, 4, 320, "tiles"), (0, 32, 4, 320, "rows"), (16, 32, 5, 320, "bits")],
)
def test_a_matrix_whose_bytes_do_not_fit_its_shape_is_refused(
    rows: int, cols: int, bits: int, size: int, message: str
) -> None:
    assert native.Matrix(np.zeros(320, dtype=np.uint8), 16, 32, 4, has_minimum=True)
    with pytest.raises(ValueError, match=message):
        native.Matrix(np.zeros(size, dtype=np.uint8), rows, cols, bits, has_minimum=True)


def test_weights_live_as_long_as_the_program_that_reads_them(threads: native.Threads) -> None:
    model = tiny_plan.build(seed=3)
    logits = []
    for program in (bind(model), tiny_plan.build(seed=3).program):
        (sequence,) = sequences(20)
        rows = np.empty((1, VOCAB), dtype=np.float32)
        program.step(threads, **Cache().arguments([(sequence, 20)]), output=rows)
        logits.append(rows)
    assert np.array_equal(*logits)
