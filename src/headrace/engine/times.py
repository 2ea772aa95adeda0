"""How the engine's thread spends its time: a value for benchmarks and tests. Knows no engine."""

from typing import NamedTuple


class Times(NamedTuple):
    """How the engine's thread spent its time since it started, resting excluded.

    `busy_s` counts from the end of a native call, or from the arrival of work, to the end of the next one; `native_s`
    of it was inside the calls. One minus their ratio is the share of a step outside the kernels.
    """

    num_steps: int
    native_s: float
    busy_s: float
