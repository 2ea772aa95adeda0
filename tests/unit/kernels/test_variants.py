"""Which kernels run: every variant found here is a known one, HEADRACE_KERNELS forces one, and a wrong name is told."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from headrace.kernels import native

NEEDS = {
    "avx512": {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"},
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
