"""The table `[hijack]` of a settings file: the monitor of hijacking. Refuses what is wrong by itself."""

from typing import Final

from headrace.cli.kinds import TRUTH, integer, number, one_of, table
from headrace.cli.server_tables import PATH
from headrace.trust.monitors.hijack.settings import HijackSettings, Mode

HIJACK: Final = table(
    HijackSettings,
    {
        "mode": one_of(Mode, Mode, "mode"),
        "threshold": number(0, 1, is_low_in=False),
        "surprise": number(0, 1, is_low_in=False),
        "denials": integer(1, 50),
        "canaries": PATH,
        "filters_secrets": TRUTH,
    },
)
