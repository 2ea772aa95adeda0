"""The reference kernels against formulas written another way, and the interpreter against a hand-made forward pass."""

import numpy as np
import pytest

from headrace.kernels import reference, reference_pages
from headrace.kernels.grouped import GroupedMatrix, interleave
from headrace.kernels.plan import Activation, AttentionMode, BufferKind, CacheShape, Recorder, RopeStyle, Rows
from headrace.kernels.reference import ReferenceProgram, Sight

CACHE = CacheShape(num_layers=1, num_kv_heads=2, head_dim=16)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def grouped(rows, cols, seed=0):
    random = np.random.default_rng(seed)
    groups = -(-cols // 32)
    codes = random.integers(-127, 128, size=(rows, groups * 32), dtype=np.int8)
    scale = random.uniform(0.001, 0.01, size=(rows, groups)).astype(np.float16)
    return GroupedMatrix(rows, cols, 8, codes, scale, None)


@pytest.mark.parametrize("width", [1, 31, 32, 33, 100])
def test_quantising_is_off_by_at_most_half_a_step(width):
    x = normal(3, width)
    codes, scales, sums = reference.quantize(x)
    back = reference.dequantize(codes, scales)[:, :width]
    steps = np.repeat(scales, 32, axis=1)[:, :width]
    assert (np.abs(back - x) <= steps * 0.5001).all()
    assert (codes[:, width:] == 0).all()
    assert np.abs(codes.reshape(3, -1, 32)).max(axis=2).min() == 127
    np.testing.assert_allclose(sums, reference.dequantize(codes, scales).reshape(3, -1, 32).sum(axis=2), atol=1e-5)


def test_groups_too_small_for_a_scale_become_zero():
    x = np.full((1, 64), 1e-38, dtype=np.float32)
    x[0, 40] = 1.0
    codes, scales, sums = reference.quantize(x)
    assert not codes[0, :32].any()
    assert scales[0, 0] == 0 == sums[0, 0]
    assert codes[0, 40] == 127


def test_codes_round_half_to_even():
    x = np.zeros((1, 32), dtype=np.float32)
    x[0, :4] = 127, 0.5, 1.5, -2.5
    assert reference.quantize(x)[0][0, :4].tolist() == [127, 0, 2, -2]


@pytest.mark.parametrize("style", RopeStyle)
def test_rotation_is_a_complex_product_and_leaves_the_rest_alone(style):
    heads, angles = normal(5, 2, 16), normal(5, 4, seed=1)
    table = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    out = reference.rotate(heads, table, style)
    pairs = [(2 * i, 2 * i + 1) if style is RopeStyle.ADJACENT else (i, 4 + i) for i in range(4)]
    for i, (a, b) in enumerate(pairs):
        expected = (heads[:, :, a] + 1j * heads[:, :, b]) * np.exp(1j * angles[:, i])[:, None]
        np.testing.assert_allclose(out[:, :, a] + 1j * out[:, :, b], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(out[:, :, 8:], heads[:, :, 8:])


@pytest.mark.parametrize(
    ("sight", "first_seen", "past_seen"),
    [
        (Sight(1.0), 0, 4),
        (Sight(1.0, AttentionMode.WINDOW, window=2), 2, 4),
        (Sight(1.0, AttentionMode.BIDIRECTIONAL), 0, 6),
    ],
)
def test_a_query_sees_the_keys_of_its_mode(sight, first_seen, past_seen):
    seen = sight.mask(np.array([3]), 6)[0]
    assert np.flatnonzero(seen).tolist() == list(range(first_seen, past_seen))


@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_attention_is_the_softmax_weighted_mean_of_values(softcap):
    q, keys, values = normal(3, 4, 16), normal(8, 2, 16, seed=1), normal(8, 2, 16, seed=2)
    out = reference.attention(q, keys, values, 5, Sight(0.25, softcap=softcap))
    for token in range(3):
        for head in range(4):
            past = 5 + token + 1
            scores = 0.25 * keys[:past, head // 2].astype(np.float64) @ q[token, head]
            scores = softcap * np.tanh(scores / softcap) if softcap else scores
            weights = np.exp(scores) / np.exp(scores).sum()
            np.testing.assert_allclose(out[token, head], weights @ values[:past, head // 2], rtol=1e-4, atol=1e-6)


def test_keys_and_values_come_back_from_their_pages_as_fp16():
    pool = reference_pages.new_pool(CACHE, 4)
    table = np.array([2, 0, 3], dtype=np.int32)
    keys, values = normal(70, 2, 16), normal(70, 2, 16, seed=1)
    keys[3, 0, 0] = 1e6
    reference_pages.store_kv(pool, 0, table, 0, (keys[:40], values[:40]))
    reference_pages.store_kv(pool, 0, table, 40, (keys[40:], values[40:]))
    stored_keys, stored_values = reference_pages.load_kv(pool, 0, table, 70)
    np.testing.assert_array_equal(stored_keys, keys.clip(-65504, 65504).astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(stored_values, values.astype(np.float16).astype(np.float32))
    assert not pool[1].any()


def test_keys_lie_feature_major_and_values_token_major():
    pool = reference_pages.new_pool(CACHE, 1)
    keys, values = normal(2, 2, 16), normal(2, 2, 16, seed=1)
    reference_pages.store_kv(pool, 0, np.array([0], dtype=np.int32), 0, (keys, values))
    halves = pool.view(np.float16)
    assert halves[0, 0, 1, 0].reshape(16, 32)[5, 1] == np.float16(keys[1, 1, 5])
    assert halves[0, 0, 1, 1].reshape(32, 16)[1, 5] == np.float16(values[1, 1, 5])


def test_a_gated_layer_pairs_each_gate_with_its_own_up_row():
    gate, up = grouped(40, 32), grouped(40, 32, seed=1)
    x = normal(2, 32)
    out = reference.gated(x @ interleave(gate, up).dequantize().T, Activation.SILU)
    a = x.astype(np.float64) @ gate.dequantize().T
    expected = a / (1 + np.exp(-a)) * (x @ up.dequantize().T)
    np.testing.assert_allclose(out[:, :40], expected, rtol=1e-4, atol=1e-5)
    assert not out[:, 40:].any()


def test_gelu_is_the_tanh_form():
    values = reference.activate(Activation.GELU_TANH, np.array([-1.0, 0.0, 2.0], dtype=np.float32))
    np.testing.assert_allclose(values, [-0.15880801, 0.0, 1.95459769], rtol=1e-5)


def small_plan():
    plan = Recorder(CACHE, vocab_size=40, max_positions=64)
    table = plan.matrix("table", 40, 32)
    hidden = plan.embed(table, plan.buffer("hidden", 32), scale=2.0)
    normed = plan.rms_norm(hidden, plan.vector("norm", 32), plan.buffer("normed", 32, BufferKind.Q8), 1e-5)
    qkv = plan.linear(normed, plan.matrix("qkv", 128, 32), plan.buffer("qkv", 128), plan.vector("bias", 128))
    plan.head_norm(qkv, plan.vector("head_norm", 16), 64, 2, 1e-5)
    plan.rope(qkv, plan.vector("rope", 64, 8, parts=()), 0, 6, 8, RopeStyle.HALVES)
    plan.store_kv(qkv, 0, 64, 96)
    mixed = plan.attention(qkv, plan.buffer("mixed", 64), 0, 4, 0.25)
    out = plan.linear(plan.quantize(mixed, plan.buffer("mixed8", 64, BufferKind.Q8)), plan.matrix("o", 32, 64), hidden)
    last = plan.select(plan.add(hidden, out), plan.buffer("last", 32, rows=Rows.SELECTED))
    quantized = plan.quantize(last, plan.buffer("last8", 32, BufferKind.Q8, Rows.SELECTED))
    return plan.finish(plan.linear(quantized, table, plan.buffer("logits", 40, rows=Rows.SELECTED)))


def small_program(*, exact):
    angles = normal(64, 4, seed=9)
    rope = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    vectors = [normal(32, seed=1), normal(128, seed=2), normal(16, seed=3), rope]
    matrices = [grouped(40, 32, seed=4), grouped(128, 32, seed=5), grouped(32, 64, seed=6)]
    return ReferenceProgram(small_plan(), matrices, vectors, exact=exact), matrices, vectors


def run(program, pool, batch, tables, selected):
    """`batch`: (context, tokens) per sequence."""
    tokens = np.concatenate([np.array(ids, dtype=np.int32) for _, ids in batch])
    starts = np.cumsum([0, *(len(ids) for _, ids in batch)]).astype(np.int32)
    contexts = np.array([context for context, _ in batch], dtype=np.int32)
    return program.step(
        pool, tokens, starts, contexts, np.array(tables, dtype=np.int32), np.array(selected, dtype=np.int32)
    )


def test_the_interpreter_computes_every_op_of_a_plan():
    program, (table, qkv_matrix, o_matrix), (norm, bias, head_norm, rope) = small_program(exact=True)
    ids = [3, 39, 7]
    logits = run(program, reference_pages.new_pool(CACHE, 1, exact=True), [(0, ids)], [[0]], [2, 0])

    hidden = 2.0 * table.dequantize()[ids].astype(np.float64)
    normed = hidden / np.sqrt((hidden**2).mean(axis=1, keepdims=True) + 1e-5) * norm
    heads = (normed @ qkv_matrix.dequantize().T + bias).reshape(3, 8, 16)
    keys = heads[:, 4:6]
    keys = keys / np.sqrt((keys**2).mean(axis=2, keepdims=True) + 1e-5) * head_norm
    turned = np.concatenate([heads[:, :4], keys], axis=1)
    cos, sin = rope[:3, None, :4], rope[:3, None, 4:]
    a, b = turned[:, :, :4], turned[:, :, 4:8]
    turned = np.concatenate([a * cos - b * sin, b * cos + a * sin, turned[:, :, 8:]], axis=2)
    mixed = np.zeros((3, 4, 16))
    for token in range(3):
        for head in range(4):
            weights = np.exp(0.25 * turned[: token + 1, 4 + head // 2] @ turned[token, head])
            mixed[token, head] = weights / weights.sum() @ heads[: token + 1, 6 + head // 2]
    hidden = 2 * (mixed.reshape(3, 64) @ o_matrix.dequantize().T)
    np.testing.assert_allclose(logits, (hidden @ table.dequantize().T)[[2, 0]], rtol=1e-4, atol=1e-5)


# BLAS may order sums by the batch's shape: with quantised activations a code may then flip, which is one step in 127.
@pytest.mark.parametrize(("exact", "bound"), [(True, 1e-4), (False, 0.1)])
def test_sequences_of_a_batch_do_not_touch_each_other(exact, bound):
    program, _, _ = small_program(exact=exact)
    first, second = [1, 2, 3, 4, 5], [9, 8, 7]
    pool = reference_pages.new_pool(CACHE, 4, exact=exact)
    run(program, pool, [(0, first[:2])], [[2]], [])
    together = run(program, pool, [(2, first[2:]), (0, second)], [[2], [1]], [2, 5])
    fresh = reference_pages.new_pool(CACHE, 1, exact=exact)
    alone = [run(program, fresh, [(0, ids)], [[0]], [len(ids) - 1])[0] for ids in (first, second)]
    np.testing.assert_allclose(together, alone, rtol=0, atol=bound)


def test_quantised_activations_stay_close_to_exact_ones():
    results = []
    for exact in (True, False):
        program, _, _ = small_program(exact=exact)
        pool = reference_pages.new_pool(CACHE, 1, exact=exact)
        results.append(run(program, pool, [(0, [3, 39, 7])], [[0]], [0, 1, 2]))
    difference = np.abs(results[0] - results[1]).max()
    assert 0 < difference < 0.03 * np.abs(results[0]).max()


def test_weights_of_another_shape_are_refused_by_name():
    _, matrices, vectors = small_program(exact=True)
    with pytest.raises(ValueError, match="'qkv' is 32 x 64, not 128 x 32"):
        ReferenceProgram(small_plan(), [matrices[0], matrices[2], matrices[1]], vectors)
    with pytest.raises(ValueError, match="'norm' has shape"):
        ReferenceProgram(small_plan(), matrices, [vectors[1], vectors[0], *vectors[2:]])


@pytest.mark.parametrize("size", [1, 2, 32, 256])
def test_the_rotation_of_heads_keeps_the_products_of_queries_and_keys(size: int) -> None:
    matrix = reference.hadamard(size)
    rng = np.random.default_rng(size)
    q, k = rng.standard_normal((2, 8, size)).astype(np.float32)
    assert np.allclose(np.abs(matrix), size**-0.5)
    assert np.allclose((q @ matrix) @ (k @ matrix).T, q @ k.T, atol=1e-4)
