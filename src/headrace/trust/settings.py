"""What an operator can say of trust, as one value: each part's own settings, and a table of the settings file each.

Read from a file by `cli`. Knows no files.
"""

from dataclasses import dataclass

from headrace.trust.monitors.theft.settings import TheftSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustSettings:
    """Each field has the name of its table."""

    theft: TheftSettings | None = None
