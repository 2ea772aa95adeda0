"""Which kernels run: every variant found here is a known one, HEADRACE_KERNELS forces one, and a wrong name is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.unit.kernels.test_program import LOGIT_LIMITS

from headrace.kernels import native
from headrace.kernels.plan import KvKind

AVX512 = {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"}
NEEDS = {
    "amx": AVX512 | {"amx_tile", "amx_int8"},
    "avx512": AVX512,
    "avx2": {"avx2", "fma", "f16c"},
    "neon": {"neon_dotprod"},
    "portable": set[str](),
}
ASK = """
import json
from headrace.core.errors import InvalidRequest
from headrace.kernels.choice import kernels_in_use
try:
    print(json.dumps({"name": kernels_in_use()}))
except InvalidRequest as error:
    print(json.dumps({"param": error.param, "message": error.message}))
"""
# A prompt, chunks and single tokens in one batch, then their continuation; the distance to the reference.
RUN = """
import json
import numpy as np
from tests.unit.kernels import tiny_plan
from headrace.kernels import native
from headrace.kernels.plan import KvKind
from headrace.kernels.reference import ReferenceProgram

model = tiny_plan.build()
reference = ReferenceProgram(model.plan, model.matrices, model.vectors)
threads = native.Threads(2)
answer = {"name": native.variant()}
for kind in KvKind:
    ours, theirs = (tiny_plan.Cache(tiny_plan.new_pool(kind)) for _ in range(2))
    pairs = list(zip(tiny_plan.sequences(70, 4, 33, 5), tiny_plan.sequences(70, 4, 33, 5)))
    distances = []
    for counts in ((64, 3, 2, 4), (6, 1, 31, 1)):
        logits = np.empty((4, tiny_plan.VOCAB), dtype=np.float32)
        model.program.step(threads, **ours.arguments([(a, n) for (a, _), n in zip(pairs, counts)]), output=logits)
        expected = reference.step(**theirs.arguments([(b, n) for (_, b), n in zip(pairs, counts)]))
        distances.append(np.abs(logits - expected))
    answer[kind.name] = float(np.max(distances)), float(np.mean(distances))
print(json.dumps(answer))
"""


def ask(forced: str) -> dict[str, str]:
    environ = os.environ | {"HEADRACE_KERNELS": forced}
    done = subprocess.run([sys.executable, "-c", ASK], env=environ, capture_output=True, text=True, check=True)
    answer: dict[str, str] = json.loads(done.stdout)
    return answer


def test_exactly_the_variants_that_the_cpu_has_the_instructions_for_can_run() -> None:
    there = {name for name, is_there in native.cpu_features().items() if is_there}
    assert native.variants() == [name for name, needed in NEEDS.items() if needed <= there]


@pytest.mark.parametrize("name", [*native.variants(), "reference"])
def test_the_environment_forces_a_variant(name: str) -> None:
    assert ask(name) == {"name": name}


def test_nothing_in_the_environment_takes_the_best() -> None:
    assert ask("") == {"name": native.variants()[0]}


@pytest.mark.parametrize("name", ["avx1024", "AVX2", min(NEEDS.keys() - set(native.variants()))])
def test_a_name_that_cannot_run_is_refused_with_those_that_can(name: str) -> None:
    possible = ", ".join([*native.variants(), "reference"])
    assert ask(name) == {
        "param": "HEADRACE_KERNELS",
        "message": f"HEADRACE_KERNELS: '{name}' cannot run here; possible are {possible}; unset it to take the best",
    }


def test_a_kernel_of_a_variant_that_cannot_run_is_refused() -> None:
    missing = min(NEEDS.keys() - set(native.variants()))
    with pytest.raises(ValueError, match=f"variant: '{missing}'"):
        native.quantize(np.zeros((1, 32), np.float32), missing)


@pytest.mark.parametrize("name", native.variants())
def test_a_program_gives_the_logits_of_the_reference_in_every_variant(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        env=os.environ | {"HEADRACE_KERNELS": name},
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
        check=True,
    )
    answer = json.loads(done.stdout)
    assert answer["name"] == name
    for kind in KvKind:
        largest, mean = answer[kind.name]
        most, average = LOGIT_LIMITS[kind]
        assert largest < most and mean < average, kind
