"""Fixtures that several test folders share: the real model, when it is there.

Fetches nothing: `make test` pulls first.
"""

import os
from pathlib import Path

import pytest

from headrace.core.errors import ModelFileError, NotFound
from headrace.models.store import default_home, resolve

SMOLLM2 = "smollm2-135m-instruct"


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
