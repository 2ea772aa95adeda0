"""What monitors have against accounts, as operators see it and take it back. Values and a protocol, no monitor."""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """Why an account is watched. `account` is its tenant and its subject; `score` in [0, 1] is the highest, `action`
    the latest verdict's: note, label, throttle or refuse, which a flag that `is_shadow` only would ask for. It was
    raised at `since_s` and again, the `count`th time, at `last_s`, Unix time. `evidence_id` is where the log commits to
    what was seen; empty where nothing is logged."""

    account: str
    tenant: str
    monitor: str
    score: float
    action: str
    since_s: float
    last_s: float
    count: int = 1
    reason: str = ""
    evidence_id: str = ""
    is_shadow: bool = False


class Monitors(Protocol):
    """What an operator sees of the monitors, and can do."""

    @property
    def mode(self) -> str:
        """Whether what they find has consequences: shadow or enforce."""
        ...

    @property
    def num_unwatched(self) -> int:
        """Requests whose inputs were not compared, because more came than could be."""
        ...

    def flags(self) -> tuple[Flag, ...]:
        """All that are raised, the latest last."""
        ...

    def clear(self, account: str, by: str) -> tuple[Flag, ...]:
        """Take an account's flags back and begin to count anew; those that there were. `by` is whose decision it was,
        which is recorded. Raises NotFound if there are none."""
        ...
