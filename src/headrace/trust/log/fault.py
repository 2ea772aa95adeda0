"""The one error of this folder. Knows nothing else."""

from headrace.core.errors import InvalidRequest


class LogFault(InvalidRequest):
    """What was shown does not prove what it should, or is not written as its specification says. The message says
    what, and which value."""

    code = "log_fault"
