"""The table of a settings file that describes delegations. Reads values; opens nothing."""

from typing import Final

from headrace.cli.kinds import Kind, leaf, seconds, several, table
from headrace.cli.server_tables import PATH
from headrace.trust.delegation.settings import DelegationSettings


def _public_key(value: object) -> str:
    # Imported here because the library takes a moment.
    from headrace.trust.delegation.token import read_public_key

    if not isinstance(value, str):
        raise ValueError("is no public key; write ed25519/ and 64 hexadecimal digits")  # noqa: TRY004
    try:
        read_public_key(value)
    except ValueError as error:
        raise ValueError("is no public key; write ed25519/ and 64 hexadecimal digits") from error
    return value


_KEYS: Final[Kind] = several(leaf(_public_key, {"type": "string", "pattern": "^ed25519/[0-9a-f]{64}$"}))
DELEGATION: Final = table(
    DelegationSettings,
    {"key": PATH, "trusted": _KEYS, "third_parties": _KEYS, "max_age_s": seconds(1, 366 * 86_400.0)},
)
