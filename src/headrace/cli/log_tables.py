"""The table of a settings file that describes the transparency log. Reads values; opens nothing."""

from typing import Final

from headrace.cli.gateway_tables import NAME, URL
from headrace.cli.kinds import SIZE, TRUTH, integer, seconds, several, table, word
from headrace.cli.server_tables import PATH
from headrace.trust.log.fault import LogFault
from headrace.trust.log.settings import LogSettings, WitnessSettings


def _vkey(text: str) -> str:
    from headrace.trust.log.keys import parse_vkey

    try:
        key = parse_vkey(text)
    except LogFault as error:
        raise ValueError(f"is no verifier key that can be used: {error}") from error
    if not key.is_cosigner:
        raise ValueError(f"is the key of a log, and not of a cosigner (type 0x04 or 0x06), as {key.name} must be")
    return text


_WITNESS: Final = table(
    WitnessSettings,
    {"name": NAME, "url": URL, "vkey": word(r"\S+", _vkey, "is no verifier key; the witness's operator shows it")},
    needs=("name", "url", "vkey"),
)
LOG: Final = table(
    LogSettings,
    {
        "origin": NAME,
        "folder": PATH,
        "batch_s": seconds(0.001, 10.0),
        "batch_items": integer(1, 8192),
        "queue_items": integer(1, 10**7),
        "queue_bytes": SIZE,
        "is_public": TRUTH,
        "witnesses": several(_WITNESS),
        "quorum": integer(0, 14),
        "witness_every_s": seconds(0.01, 86_400.0),
        "witness_timeout_s": seconds(0.1, 600.0),
    },
)
