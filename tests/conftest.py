"""Fixtures that several test folders share: the real models, when they are there.

Fetches nothing: `make test` pulls first.
"""

import os
from pathlib import Path

import hypothesis
import pytest

from headrace.core.errors import ModelFileError, NotFound
from headrace.models.store import default_home, resolve

# No test has a bound on wall-clock time: a busy machine is no defect.
hypothesis.settings.register_profile("headrace", deadline=None)
hypothesis.settings.load_profile("headrace")

SMOLLM2 = "smollm2-135m-instruct"
GEMMA3 = "gemma3-270m"
MINILM = "all-minilm-l6-v2"


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct: $HEADRACE_TEST_MODEL, else the pulled one in the state directory."""
    named = os.environ.get("HEADRACE_TEST_MODEL")
    if named is not None:
        path = Path(named)
        if not path.is_file():
            pytest.fail(f"HEADRACE_TEST_MODEL={named} is not a file; point it at a GGUF file or unset it.")
        return path
    try:
        return resolve(SMOLLM2, default_home(os.environ))
    except (NotFound, ModelFileError) as error:
        pytest.skip(f"{error} Or run `make test`, which pulls it first.")


@pytest.fixture(scope="session")
def gemma3_path() -> Path:
    """The pulled GGUF file of Gemma 3 270M; 253 MB, so `make test` does not pull it by itself."""
    try:
        return resolve(GEMMA3, default_home(os.environ))
    except (NotFound, ModelFileError) as error:
        pytest.skip(f"{error} It is pulled on request only: `make pull MODEL={GEMMA3}`, then `make test`.")


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """The pulled folder of all-MiniLM-L6-v2."""
    try:
        return resolve(MINILM, default_home(os.environ))
    except (NotFound, ModelFileError) as error:
        pytest.skip(f"{error} Or run `make test`, which pulls it first.")
