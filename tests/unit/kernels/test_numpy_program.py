"""The reference behind the native program's signature: the same sampler semantics, and an engine that runs on it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.gguf_files import write_tiny_llama
from tests.unit.kernels import tiny_plan
from tests.unit.kernels.tiny_plan import VOCAB, Cache, Model, sequences

from headrace.kernels import native
from headrace.kernels.numpy_program import NumpyProgram


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_plan.build()


def sampling(rows: int, **changes: Any) -> dict[str, NDArray[Any]]:
    values = {
        "temperature": np.zeros(rows, np.float32),
        "top_k": np.zeros(rows, np.int32),
        "top_p": np.ones(rows, np.float32),
        "min_p": np.zeros(rows, np.float32),
        "seed": np.arange(rows, dtype=np.uint64),
        "choice": np.zeros(rows, np.uint32),
        "position": np.full(rows, 7, np.uint32),
    }
    return values | changes


def test_a_step_draws_what_the_native_sampler_draws_from_its_logits(model: Model) -> None:
    program = NumpyProgram(model.plan, model.matrices, model.vectors)
    arguments = Cache().arguments([(s, 20) for s in sequences(20, 20, 20, 20)])
    logits = np.empty((4, VOCAB), np.float32)
    asked = np.array([True, False, True, False])
    parameters = sampling(4, temperature=np.array([0, 0, 1, 0.7], np.float32), logprobs=asked)
    tokens, logprobs, *_ = program.step(None, **arguments, output=logits, sampling=parameters)
    threads = native.Threads(1)
    expected, expected_logprobs, *_ = native.sample(threads, logits, parameters)
    threads.close()
    assert tokens.tolist() == expected.tolist()
    assert np.allclose(logprobs[asked], expected_logprobs[asked], atol=1e-4)
    assert np.isnan(logprobs[~asked]).all() and tokens.dtype == np.int32 and logprobs.dtype == np.float32


def test_a_step_that_asks_for_nothing_returns_nothing_and_fills_the_cache(model: Model) -> None:
    program = NumpyProgram(model.plan, model.matrices, model.vectors)
    cache = Cache()
    assert program.step(None, **cache.arguments([(s, 3) for s in sequences(3)])) is None
    assert cache.pool.any()


def test_a_row_without_a_number_gives_no_token_and_the_others_theirs(model: Model) -> None:
    vectors = list(model.vectors)
    program = NumpyProgram(model.plan, model.matrices, vectors)
    arguments = Cache().arguments([(s, 4) for s in sequences(4, 4)])
    drawn = program.step(None, **arguments, sampling=sampling(2))
    broken = [np.full_like(vector, np.nan) for vector in vectors]
    tokens, logprobs, *_ = NumpyProgram(model.plan, model.matrices, broken).step(
        None, **arguments, sampling=sampling(2, logprobs=np.ones(2, np.bool_))
    )
    assert drawn[0].min() >= 0
    assert tokens.tolist() == [-1, -1] and np.isnan(logprobs).all()


def generate(path: Path, kernels: str) -> subprocess.CompletedProcess[str]:
    environ = os.environ | {"HEADRACE_KERNELS": kernels, "HEADRACE_HOME": str(path.parent / "home")}
    command = [sys.executable, "-m", "headrace", "generate", "abc", "--model", str(path), "--raw", "--max-tokens", "8"]
    return subprocess.run(command, env=environ, cwd=path.parent, capture_output=True, text=True, check=False)


def test_a_whole_model_answers_in_numpy_as_it_does_compiled(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path)
    compiled, slow = generate(path, ""), generate(path, "reference")
    assert compiled.returncode == 0, compiled.stderr
    assert slow.returncode == 0, slow.stderr
    assert slow.stdout == compiled.stdout != ""


def test_a_model_is_not_loaded_for_kernels_that_cannot_run(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path)
    refused = generate(path, "avx1024")
    assert refused.returncode != 0
    assert "HEADRACE_KERNELS: 'avx1024' cannot run here" in refused.stderr
    assert "Traceback" not in refused.stderr
