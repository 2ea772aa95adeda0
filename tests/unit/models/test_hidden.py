"""Plans without their heads: the last norm's output, exactly what the head would have been given."""

import numpy as np
import pytest
from tests.oracle import tiny_models
from tests.oracle.assembly import assemble
from tests.oracle.tiny_files import write_folder

from headrace.kernels import native
from headrace.kernels.plan import KvKind, OpKind
from headrace.kernels.reference import ReferenceProgram
from headrace.kernels.reference_pages import new_pool
from headrace.models.hidden import without_head
from headrace.models.load import bind
from headrace.models.packed import packed_matrix
from headrace.models.safetensors import SafetensorsFolder


@pytest.mark.parametrize("name", ["llama", "llama-tied-linear", "qwen3-wide-heads", "gemma3", "phi3"])
def test_the_head_times_the_hidden_states_gives_the_logits(name, tmp_path):
    model = assemble(SafetensorsFolder(write_folder(name, tmp_path)))
    hidden_plan = without_head(model.plan)
    head = model.matrices[model.plan.ops[-1].operands()["matrix"]].dequantize()
    tokens = tiny_models.tokens(tiny_models.CONFIGS[name])[:40]
    arrays = (
        tokens,
        np.array([0, 40], np.int32),
        np.zeros(1, np.int32),
        np.array([[1, 0]], np.int32),
        np.array([39, 0, 7], np.int32),
    )
    logits, hidden = (
        ReferenceProgram(plan, model.matrices, model.vectors, exact=True).step(
            new_pool(plan.cache, 2, exact=True), *arrays
        )
        for plan in (model.plan, hidden_plan)
    )
    assert hidden.shape == (3, tiny_models.CONFIGS[name]["hidden_size"])
    assert np.abs(hidden @ head.T - logits).max() < 1e-5

    matrices = [packed_matrix(spec.name, m) for spec, m in zip(hidden_plan.matrices, model.matrices, strict=True)]
    program, threads = bind(hidden_plan, matrices, model.vectors), native.Threads(2)
    output = np.empty_like(hidden)
    pool = np.zeros(hidden_plan.cache.pool_shape(KvKind.HALF, 2), np.uint16)
    program.step(threads, pool, *arrays, output=output)
    threads.close()
    similarity = (output * hidden).sum(axis=1) / (np.linalg.norm(output, axis=1) * np.linalg.norm(hidden, axis=1))
    assert similarity.min() > 0.999


def test_a_plan_without_a_head_is_refused(tmp_path):
    plan = assemble(SafetensorsFolder(write_folder("llama", tmp_path))).plan
    with pytest.raises(ValueError, match="does not end with a norm"):
        without_head(without_head(plan))
    assert all(op.kind is not OpKind.LINEAR or op.ints[3] != plan.output for op in without_head(plan).ops)
