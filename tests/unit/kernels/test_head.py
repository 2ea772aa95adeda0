"""The last product and the sampler in one pass: the tokens of the logits that the same step would have written."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.unit.kernels import tiny_plan
from tests.unit.kernels.random_sampling import Arrays, random_cuts, random_sampling

from headrace.kernels import native, reference_sampling
from headrace.kernels.grouped import GroupedMatrix
from headrace.kernels.plan import BufferKind, CacheShape, Recorder, Rows

WIDTH = 64


@pytest.fixture(scope="module", params=[1, 2, 4], ids="{} threads".format)
def threads(request: pytest.FixtureRequest) -> Iterator[native.Threads]:
    pool = native.Threads(request.param)
    yield pool
    pool.close()


@dataclass(frozen=True, slots=True)
class Model:
    """An embedding, straight into the head."""

    program: native.Program
    vocab: int

    def step(
        self, threads: native.Threads, tokens: NDArray[np.int32], sampling: Arrays | None, *, wants_logits: bool
    ) -> tuple[reference_sampling.Sampled | None, NDArray[np.float32]]:
        """Tokens and log-probabilities after each of `tokens`, and the logits if they are wanted."""
        count = len(tokens)
        logits = np.full((count, self.vocab), 7.0, dtype=np.float32) if wants_logits else None
        sampled = self.program.step(
            threads,
            pool=np.zeros((-(-count // 32), 1, 1, 2, 8 * 32), dtype=np.uint16),
            tokens=tokens,
            starts=np.array([0, count], dtype=np.int32),
            contexts=np.zeros(1, dtype=np.int32),
            page_tables=np.arange(-(-count // 32), dtype=np.int32)[None],
            selected=np.arange(count, dtype=np.int32),
            output=logits,
            sampling=sampling,
        )
        return sampled, np.empty((0, 0), np.float32) if logits is None else logits


def build(
    vocab: int, *, peaks: float, has_bias: bool = True, ends_with_the_product: bool = True, cap: float = 0.0
) -> Model:
    """A model of this vocabulary; its bias lifts some tokens by about `peaks`, and a cap may take that back."""
    rng = np.random.default_rng(vocab)
    recorder = Recorder(CacheShape(1, 1, 8), vocab, 512)
    x = recorder.buffer("x", WIDTH)
    chosen = recorder.buffer("chosen", WIDTH, rows=Rows.SELECTED)
    codes = recorder.buffer("codes", WIDTH, BufferKind.Q8, Rows.SELECTED)
    logits = recorder.buffer("logits", vocab, rows=Rows.SELECTED)
    recorder.embed(recorder.matrix("embedding", vocab, WIDTH), x, 1.0)
    recorder.select(x, chosen)
    recorder.quantize(chosen, codes)
    recorder.linear(codes, recorder.matrix("head", vocab, WIDTH), logits, recorder.vector("bias", vocab))
    if not ends_with_the_product:
        recorder.add(logits, logits)
    if cap:
        recorder.softcap(logits, cap)
    plan = recorder.finish(logits)
    bias = np.where(rng.random(vocab) < 0.02, rng.exponential(peaks, vocab), 0.0).astype(np.float32) * has_bias
    matrices: list[GroupedMatrix] = [tiny_plan.random_matrix(rng, vocab, WIDTH, bits) for bits in (8, 8)]
    buffers, ops = tiny_plan.operands(plan)
    program = native.Program(
        buffers, ops, tiny_plan.bind(matrices), [bias], (1, 1, 8), vocab, plan.max_positions, plan.output
    )
    return Model(program, vocab)


MODELS = {(vocab, cap): build(vocab, peaks=6.0, cap=cap) for vocab in (3, 64, 255, 1000, 5003) for cap in (0.0, 4.0)}


@settings(deadline=None, max_examples=40)
@given(
    kind=st.sampled_from(sorted(MODELS)),
    count=st.sampled_from([1, 2, 5, 31, 32, 33, 70]),
    most_survivors=st.sampled_from([0, 0, 1, 300]),
    seed=st.integers(0, 2**32),
)
def test_tokens_are_those_of_the_logits_that_a_step_would_have_written(
    threads: native.Threads, kind: tuple[int, float], count: int, most_survivors: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    model, (vocab, cap) = MODELS[kind], kind
    tokens = rng.integers(0, vocab, count).astype(np.int32)
    sampling = random_sampling(rng, count, vocab)
    model.program.limit_survivors(most_survivors)
    (fused, _), (plain, logits) = (model.step(threads, tokens, sampling, wants_logits=w) for w in (False, True))
    assert fused is not None and plain is not None
    assert not cap or np.abs(logits).max() <= cap
    alone = native.sample(threads, logits, sampling)
    for other in (plain, alone):
        for part, whole in zip(fused, other, strict=True):
            assert np.array_equal(part, whole, equal_nan=True)
    expected = reference_sampling.sample(logits, sampling)
    assert fused[0].tolist() == expected[0].tolist()
    assert fused[2].tolist() == expected[2].tolist()
    asked = sampling["logprobs"] | (sampling.get("num_top", 0) > 0) | (sampling.get("targets", -1) >= 0)
    assert np.isnan(fused[1][~asked]).all()
    np.testing.assert_allclose(fused[1][asked], expected[1][asked], atol=1e-4)
    np.testing.assert_allclose(fused[3], expected[3], atol=1e-4)


def test_a_row_that_kept_too_little_is_scanned_again_and_draws_the_same(threads: native.Threads) -> None:
    model = build(4000, peaks=0.0)
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, 4000, 20).astype(np.int32)
    sampling = random_cuts(rng, 20) | {
        "temperature": np.full(20, 3.0, np.float32),
        "top_k": np.zeros(20, np.int32),
        "top_p": np.full(20, 0.97, np.float32),
    }
    usual, _ = model.step(threads, tokens, sampling, wants_logits=False)
    assert model.program.num_second_scans == 0
    model.program.limit_survivors(100)
    limited, _ = model.step(threads, tokens, sampling, wants_logits=False)
    assert model.program.num_second_scans == 20
    assert usual is not None and limited is not None
    assert np.array_equal(usual[0], limited[0])
    assert np.array_equal(usual[1], limited[1], equal_nan=True)


def test_a_head_without_bias_and_rows_of_nothing_but_equals(threads: native.Threads) -> None:
    rng = np.random.default_rng(2)
    for has_bias in (False, True):
        model = build(777, peaks=3.0, has_bias=has_bias)
        sampling = random_cuts(rng, 9)
        tokens = np.arange(9, dtype=np.int32)
        fused, _ = model.step(threads, tokens, sampling, wants_logits=False)
        plain, logits = model.step(threads, tokens, sampling, wants_logits=True)
        assert fused is not None and plain is not None
        assert np.array_equal(fused[0], plain[0])
        assert np.array_equal(plain[0], native.sample(threads, logits, sampling)[0])
    equals = np.zeros((9, 100_000), dtype=np.float32)
    assert native.sample(threads, equals, sampling)[0].tolist() == (
        reference_sampling.sample(equals, sampling)[0].tolist()
    )


def test_a_plan_that_ends_otherwise_samples_the_logits_it_ends_with(threads: native.Threads) -> None:
    model, half = (build(300, peaks=2.0, ends_with_the_product=ends) for ends in (False, True))
    rng = np.random.default_rng(3)
    tokens, sampling = np.arange(12, dtype=np.int32), random_cuts(rng, 12)
    sampled, _ = model.step(threads, tokens, sampling, wants_logits=False)
    _, logits = half.step(threads, tokens, None, wants_logits=True)
    assert sampled is not None
    assert np.array_equal(sampled[0], native.sample(threads, 2 * logits, sampling)[0])
    _, doubled = model.step(threads, tokens, None, wants_logits=True)
    assert np.array_equal(doubled, 2 * logits)


def test_a_cap_is_part_of_the_head_and_of_the_logits_alike(threads: native.Threads) -> None:
    capped, plain = build(300, peaks=5.0, cap=3.0), build(300, peaks=5.0)
    tokens = np.arange(12, dtype=np.int32)
    _, logits = plain.step(threads, tokens, None, wants_logits=True)
    _, written = capped.step(threads, tokens, None, wants_logits=True)
    assert np.array_equal(written, native.softcap(logits, 3.0))


def test_a_plan_whose_cap_follows_something_else_is_not_fused(threads: native.Threads) -> None:
    model = build(300, peaks=2.0, ends_with_the_product=False, cap=3.0)
    rng = np.random.default_rng(6)
    tokens, sampling = np.arange(12, dtype=np.int32), random_cuts(rng, 12)
    sampled, logits = model.step(threads, tokens, sampling, wants_logits=True)
    fused, _ = model.step(threads, tokens, sampling, wants_logits=False)
    assert sampled is not None and fused is not None
    assert np.array_equal(sampled[0], fused[0])
    assert np.array_equal(sampled[0], native.sample(threads, logits, sampling)[0])


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the system does not tell")
@pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="a sanitizer's own memory is resident too")
@pytest.mark.parametrize("cap", [0.0, 4.0])
def test_no_row_of_logits_is_kept_unless_somebody_asks(threads: native.Threads, cap: float) -> None:
    vocab, rows = 100_000, 128
    model = build(vocab, peaks=8.0, cap=cap)
    rng = np.random.default_rng(4)
    sampling = random_cuts(rng, rows) | {"logprobs": np.zeros(rows, bool), "top_p": np.ones(rows, np.float32)}
    tokens = rng.integers(0, vocab, rows).astype(np.int32)
    before = resident_bytes()
    model.step(threads, tokens, sampling, wants_logits=False)
    assert resident_bytes() - before < rows * vocab * 4 / 4
