"""The table of a settings file that describes the transparency log. Reads values; opens nothing."""

from typing import Any, Final

from headrace.cli.gateway_tables import NAME, URL
from headrace.cli.kinds import TRUTH, integer, leaf, seconds, several, table
from headrace.cli.server_tables import PATH
from headrace.trust.log.fault import LogFault
from headrace.trust.log.keys import VerifierKey, parse_vkey
from headrace.trust.log.settings import LogSettings, WitnessSettings


def _vkey(value: Any) -> VerifierKey:
    if not isinstance(value, str):
        raise ValueError("is no verifier key; the witness's operator shows it")  # noqa: TRY004 - settings' errors are
    try:
        return parse_vkey(value)
    except LogFault as error:
        raise ValueError(f"is no verifier key that can be used: {error}") from error


_WITNESS: Final = table(
    WitnessSettings, {"name": NAME, "url": URL, "vkey": leaf(_vkey, {"type": "string"})}, needs=("name", "url", "vkey")
)
LOG: Final = table(
    LogSettings,
    {
        "origin": NAME,
        "folder": PATH,
        "batch_s": seconds(0.001, 10.0),
        "batch_items": integer(1, 8192),
        "queue_items": integer(1, 10**7),
        "is_public": TRUTH,
        "witnesses": several(_WITNESS),
        "quorum": integer(0, 14),
        "witness_every_s": seconds(0.01, 86_400.0),
        "witness_timeout_s": seconds(0.1, 600.0),
    },
)
