"""The table `[theft]` of a settings file: the monitor of theft. Reads values and refuses what is wrong by itself."""

from typing import Final

from headrace.cli.kinds import TEXT, integer, number, one_of, table
from headrace.core.request import MAX_CHOICES, MAX_TOP_LOGPROBS
from headrace.trust.monitors.theft.settings import ACTIONS, Mode, TheftSettings

THEFT: Final = table(
    TheftSettings,
    {
        "mode": one_of(tuple(mode.value for mode in Mode), Mode, "mode"),
        "revision": TEXT,
        "max_top_logprobs": integer(0, MAX_TOP_LOGPROBS),
        "logprob_decimals": integer(0, 15),
        "max_choices": integer(1, MAX_CHOICES),
        "bias_vectors": integer(1, 1000),
        "tenant_bias_vectors": integer(1, 10_000),
        "prompt_bias_vectors": integer(1, 1000),
        "sampling_vectors": integer(1, 10_000),
        "ramp_share": number(0, 1, is_low_in=False),
        "ramp_days": number(0, 365),
        "max_subjects": integer(100, 1_000_000),
        "window_size": integer(0, 10_000),
        "window_false_share": number(0.0001, 0.2),
        "window_action": one_of(ACTIONS),
        "link_likeness": number(0.3, 1),
        "link_action": one_of(ACTIONS),
    },
)
