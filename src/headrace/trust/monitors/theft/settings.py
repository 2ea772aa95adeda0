"""What an operator can say of the monitor of theft, with defaults that suit hidden sizes from some 400 on.

Thresholds stay here: no caller is ever told one. Knows no files.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ACTIONS: Final = ("note", "label", "throttle", "refuse")
"""What a verdict can ask for, mildest first."""


class Mode(StrEnum):
    """How much the monitor does."""

    OFF = "off"
    SHADOW = "shadow"  # it judges, counts and records what it would have done
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True, kw_only=True)
class TheftSettings:
    """Limits hold for callers without the scope `logprobs`; who has it is watched and never hindered.

    `revision` is what verdicts call these settings, which they do not tell. `max_top_logprobs` alternatives are told,
    with `logprob_decimals` digits after the point, for `max_choices` choices drawn. Distinct steering of probabilities
    is counted a UTC day: `bias_vectors` of a principal, `tenant_bias_vectors` of a tenant or of linked accounts,
    `prompt_bias_vectors` over one input whoever asks, and `sampling_vectors` combinations of cuts and penalties of a
    principal. A principal gets `ramp_share` of that when it is new, and all after `ramp_days`. `max_subjects` are
    remembered, of each kind.

    A window is the last `window_size` inputs of an account (0: no windows); `window_false_share` of benign windows are
    found unusual; `window_action` and `link_action` follow for an account whose windows keep being found so, and for
    accounts whose inputs share a template. `link_likeness` is the Jaccard similarity from which two templates are one.
    """

    mode: Mode = Mode.SHADOW
    revision: str = "1"
    max_top_logprobs: int = 5
    logprob_decimals: int = 2
    max_choices: int = 4
    bias_vectors: int = 32
    tenant_bias_vectors: int = 128
    prompt_bias_vectors: int = 16
    sampling_vectors: int = 128
    ramp_share: float = 0.5
    ramp_days: float = 7.0
    max_subjects: int = 10_000
    window_size: int = 200
    window_false_share: float = 0.01
    window_action: str = "label"
    link_likeness: float = 0.8
    link_action: str = "label"

    def __post_init__(self) -> None:
        """Raise ValueError for what is no setting."""
        for name in ("window_action", "link_action"):
            if getattr(self, name) not in ACTIONS:
                raise ValueError(f"{name}: {getattr(self, name)!r} is none of {', '.join(ACTIONS)}")
        if 0 < self.window_size < MIN_WINDOW:
            raise ValueError(f"window_size: {self.window_size} is below {MIN_WINDOW}; write more, or 0 for no windows")


MIN_WINDOW: Final = 20
"""Fewer inputs tell nothing of who wrote them."""
