"""What a step is said to read and compute, against sums made by hand from the model's shape."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.gguf_files import TinyLlama, write_tiny_llama

from headrace.core.clock import SystemClock
from headrace.engine.kv.gate import decide_unmeasured
from headrace.engine.roofline import Ceilings, Rig, StepProfile, StepShape, standing
from headrace.kernels import native
from headrace.kernels.plan import KvKind
from headrace.models.load import load_model

SHAPE = TinyLlama()
HEAD_DIM = SHAPE.hidden // SHAPE.heads


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    threads = native.Threads(2)
    yield Rig(load_model(write_tiny_llama(tmp_path / "tiny.gguf")), threads, KvKind.HALF, SystemClock())
    threads.close()


def stage(profile: StepProfile, kind: str) -> tuple[float, float]:
    found = {s.kind: s for s in profile.stages}[kind]
    return found.bytes, found.operations


def test_operations_are_two_for_each_weight_and_token(rig: Rig) -> None:
    profile = rig.profile(StepShape("x", 3, 5, 10), 0.0)
    assert stage(profile, "query, key, value")[1] == 2 * 15 * SHAPE.layers * SHAPE.hidden * 2 * SHAPE.hidden
    # After the last attention only the last token of every sequence goes on.
    rows = 15 * (SHAPE.layers - 1) + 3
    assert stage(profile, "gate and up")[1] == 2 * rows * SHAPE.hidden * 2 * SHAPE.feed_forward
    assert stage(profile, "down")[1] == 2 * rows * SHAPE.hidden * SHAPE.feed_forward
    assert stage(profile, "head")[1] == 2 * 3 * SHAPE.hidden * SHAPE.vocab


def test_attention_reads_the_context_and_counts_the_keys_that_every_token_sees(rig: Rig) -> None:
    profile = rig.profile(StepShape("x", 3, 5, 10), 0.0)
    num_bytes, operations = stage(profile, "attention")
    assert num_bytes == 3 * 15 * SHAPE.layers * SHAPE.kv_heads * HEAD_DIM * 2 * 2  # keys and values of two bytes
    assert operations == 3 * SHAPE.layers * SHAPE.heads * HEAD_DIM * 4 * (11 + 12 + 13 + 14 + 15)


def test_weights_are_read_once_a_step_however_many_tokens_there_are(rig: Rig) -> None:
    products = rig.model.weights_bytes
    assert sum(rig.model.matrix_bytes) == products
    for shape in (StepShape("one", 1, 1, 0), StepShape("many", 4, 16, 32)):
        profile = rig.profile(shape, 0.0)
        assert profile.bytes - stage(profile, "attention")[0] == products


def test_the_parts_of_a_step_are_no_longer_than_the_step(rig: Rig) -> None:
    profile = rig.profile(StepShape("x", 2, 1, 64), 0.0)
    assert 0 < sum(s.seconds for s in profile.stages) <= profile.seconds
    assert profile.tokens_per_second == 2 / profile.seconds
    assert rig.model.program.stage_times() == []  # timing is off again


def test_a_step_beyond_the_context_is_refused_and_timing_is_off_afterwards(rig: Rig) -> None:
    with pytest.raises(ValueError, match="contexts"):
        rig.profile(StepShape("x", 1, 2, SHAPE.context), 0.0)
    assert rig.model.program.stage_times() == []


def test_shares_are_fractions_of_the_ceilings(rig: Rig) -> None:
    profile = rig.profile(StepShape("x", 1, 1, 7), 0.0)
    shown = standing(profile, Ceilings(2 * profile.bytes / profile.seconds, 4 * profile.operations / profile.seconds))
    assert shown["share_of_read_bandwidth"] == pytest.approx(0.5)
    assert shown["share_of_multiply_rate"] == pytest.approx(0.25)
    assert sum(part["bytes"] for part in shown["stages"]) == profile.bytes


def test_a_model_is_profiled_within_its_context(rig: Rig) -> None:
    names = [profile.shape.name for profile in rig.profile_model(0.0)]
    assert names == [f"prefill-{SHAPE.context}"]  # a decode behind 128 tokens does not fit


def test_experts_are_read_as_far_as_rows_are_expected_to_choose_them(tmp_path: Path) -> None:
    threads = native.Threads(2)
    path = write_tiny_llama(tmp_path / "experts.gguf", replace(SHAPE, experts=6))
    rig = Rig(load_model(path), threads, KvKind.HALF, SystemClock())
    pairs = zip(rig.model.plan.matrices, rig.model.matrix_bytes, strict=True)
    of_experts = sum(size for spec, size in pairs if spec.num_experts)
    for sequences, share in ((1, 2 / 6), (3, 1 - (4 / 6) ** 3)):
        num_bytes, operations = stage(rig.profile(StepShape("x", sequences, 1, 10), 0.0), "experts")
        assert num_bytes == pytest.approx(share * of_experts)
        # Two experts of three products each for every row.
        assert operations == 2 * SHAPE.layers * sequences * 2 * 3 * SHAPE.feed_forward * SHAPE.hidden
    threads.close()


def test_an_encoder_is_profiled_by_whole_texts(minilm_path: Path) -> None:
    model, threads = load_model(minilm_path), native.Threads(2)
    (profile,) = Rig(model, threads, KvKind.HALF, SystemClock()).profile_model(0.0)
    threads.close()
    num_tokens = profile.shape.new_tokens
    assert {part.kind for part in profile.stages} >= {
        "query, key, value",
        "attention",
        "attention output",
        "up",
        "down",
    }
    # Of the last layer only one row goes on behind attention.
    assert stage(profile, "up")[1] == 2 * 384 * 1536 * (5 * num_tokens + 1)
    assert stage(profile, "attention")[1] == 6 * 12 * 32 * 4 * num_tokens**2


def test_an_encoder_stores_keys_and_values_in_one_way(minilm_path: Path) -> None:
    plan = load_model(minilm_path).plan
    for asked in (None, *KvKind):
        decision = decide_unmeasured(plan, asked)
        assert decision is not None and decision.kind is KvKind.HALF
