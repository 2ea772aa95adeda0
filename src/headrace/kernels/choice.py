"""Which kernels serve: the name in HEADRACE_KERNELS, or the best variant that this CPU can run.

`reference` stands for NumPy (`numpy_program`), every other name for a variant of the compiled module, which reads the
variable itself. Knows no model.
"""

from headrace.core.errors import InvalidRequest
from headrace.kernels import native

REFERENCE = "reference"


def kernels_in_use() -> str:
    """The name of what serves. Raises InvalidRequest for a name that is unknown or cannot run on this CPU."""
    try:
        return native.variant()
    except ValueError as error:
        raise InvalidRequest(str(error), param="HEADRACE_KERNELS") from error


def possible_kernels() -> tuple[str, ...]:
    """Every name that HEADRACE_KERNELS may have here, the fastest first."""
    return (*native.variants(), REFERENCE)
