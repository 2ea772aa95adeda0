"""BERT against transformers: the plan in exact arithmetic, and the native program as close as its reference.

States and labels deviate by about 1. Exact: float32 rounding moves them by a few 1e-6. Native: 8-bit weights and
activations cost these random models, which forgive less than trained ones, up to 0.032 root mean square.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.oracle import tiny_encoders
from tests.oracle.assembly import Assembled, assemble

from headrace.kernels import native
from headrace.kernels.grouped import rotate_groups
from headrace.kernels.plan import PAGE_TOKENS, KvKind
from headrace.kernels.reference import ReferenceProgram
from headrace.kernels.reference_pages import new_pool
from headrace.models.gguf import GgufFile
from headrace.models.load import bind
from headrace.models.packed import packed_matrix
from headrace.models.registry import architecture_for
from headrace.models.safetensors import SafetensorsFolder

EXACT_BOUND = 3e-5
ROOT_MEAN_SQUARE_BOUND = 0.045
VECTORS = Path(__file__).parent / "vectors" / "tiny_encoders.npz"


@dataclass
class Floats:
    """Weights that were never quantised, as `ReferenceProgram` takes matrices."""

    rows: int
    cols: int
    values: np.ndarray

    def dequantize(self):
        return self.values


def exact_model(checkpoint):
    """The plan over unquantised weights."""
    architecture = architecture_for(checkpoint)
    plan = architecture.record(architecture.read_config(checkpoint, None))
    matrices = []
    for spec in plan.matrices:
        values = np.concatenate([checkpoint.vector(part) for part in spec.parts])
        matrices.append(Floats(spec.rows, spec.cols, rotate_groups(values) if spec.rotates else values))
    vectors = [np.concatenate([checkpoint.vector(part).reshape(-1) for part in v.parts]) for v in plan.vectors]
    return Assembled(plan, matrices, [v.reshape(s.shape) for v, s in zip(vectors, plan.vectors, strict=True)])


def expected(name):
    """What was recorded of every sequence, and which rows that is."""
    rows = [tiny_encoders.POSITIONS, *(range(length) for length in tiny_encoders.LENGTHS[1:])]
    if tiny_encoders.num_labels(name):
        rows = [(0,)] * len(rows)
    with np.load(VECTORS) as vectors:
        return rows, np.concatenate([vectors[f"{name} {i}"].reshape(len(r), -1) for i, r in enumerate(rows)])


def arguments(name, which=(0, 1, 2), rows=None):
    """One step over whole sequences that selects these rows of each."""
    tokens, segments = tiny_encoders.inputs(name)
    starts = np.cumsum([0, *(len(tokens[i]) for i in which)]).astype(np.int32)
    pages = np.random.RandomState(5).permutation(3 * len(starts)).astype(np.int32)
    rows = expected(name)[0] if rows is None else rows
    selected = [start + row for start, i in zip(starts, which, strict=False) for row in rows[i]]
    return {
        "tokens": np.concatenate([tokens[i] for i in which]),
        "segments": np.concatenate([segments[i] for i in which]),
        "starts": starts,
        "contexts": np.zeros(len(which), np.int32),
        "page_tables": pages[: 3 * len(which)].reshape(len(which), 3),
        "selected": np.array(selected, np.int32),
    }


def native_rows(model, name, **named):
    matrices = [packed_matrix(spec.name, m) for spec, m in zip(model.plan.matrices, model.matrices, strict=True)]
    program, threads = bind(model.plan, matrices, model.vectors), native.Threads(2)
    step = arguments(name, **named)
    assert max(tiny_encoders.LENGTHS) <= 3 * PAGE_TOKENS
    pool = np.zeros(model.plan.cache.pool_shape(KvKind.HALF, 3 * len(step["starts"])), np.uint16)
    output = np.empty((len(step["selected"]), model.plan.buffers[model.plan.output].width), np.float32)
    program.step(threads, pool, **step, output=output)
    threads.close()
    return output


def opened(name, form, folder):
    if form == "gguf":
        return GgufFile(tiny_encoders.write_gguf(name, folder / "model.gguf"))
    return SafetensorsFolder(tiny_encoders.write_folder(name, folder))


FORMS = [(name, form) for name in tiny_encoders.CONFIGS for form in ("folder", "gguf")]
# GGUF names no activation: BERT's is the exact GELU. RoBERTa has no format of its own there.
IN_GGUF = [n for n, c in tiny_encoders.CONFIGS.items() if c["hidden_act"] == "gelu" and not tiny_encoders.is_roberta(n)]
FORMS = [(name, form) for name, form in FORMS if form == "folder" or name in IN_GGUF]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_either_format_gives_what_transformers_gives(name, form, tmp_path):
    model = exact_model(opened(name, form, tmp_path))
    step = arguments(name)
    pool = new_pool(model.plan.cache, 3 * len(step["starts"]), exact=True)
    output = ReferenceProgram(model.plan, model.matrices, model.vectors, exact=True).step(pool, **step)
    wanted = expected(name)[1]
    assert output.shape == wanted.shape
    assert np.abs(output - wanted).max() < EXACT_BOUND


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_the_native_program_is_as_close_as_its_reference(name, form, tmp_path):
    model = assemble(opened(name, form, tmp_path))
    step, wanted = arguments(name), expected(name)[1]
    pool = new_pool(model.plan.cache, 3 * len(step["starts"]))
    outputs = (native_rows(model, name), ReferenceProgram(model.plan, model.matrices, model.vectors).step(pool, **step))
    for output in outputs:
        assert np.sqrt(((output - wanted) ** 2).mean()) < ROOT_MEAN_SQUARE_BOUND


@pytest.mark.parametrize("name", tiny_encoders.CONFIGS)
def test_a_sequence_gives_the_same_bits_alone_and_in_any_batch(name, tmp_path):
    model = assemble(opened(name, "folder", tmp_path))
    rows = [range(length) for length in tiny_encoders.LENGTHS]
    together = native_rows(model, name, rows=rows)
    backwards = native_rows(model, name, rows=rows, which=(2, 1, 0))
    parts = np.split(together, np.cumsum(tiny_encoders.LENGTHS)[:-1])
    assert np.array_equal(backwards, np.concatenate(parts[::-1]))
    for i, part in enumerate(parts):
        assert np.array_equal(native_rows(model, name, rows=rows, which=(i,)), part)
        first = [(0,)] * len(rows)
        assert np.array_equal(native_rows(model, name, rows=first, which=(i,)), part[:1])
