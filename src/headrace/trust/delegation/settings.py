"""What an operator can say of delegations. Read from a file by `cli`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationSettings:
    """`key` is the private root key (PEM; None: `delegation.pem` in the state directory); `trusted` are public keys
    (`ed25519/HEX`) whose tokens count beside; `third_parties` may sign blocks in between. A token without an end, or
    with one further away than `max_age_s`, is void."""

    key: Path | None = None
    trusted: tuple[str, ...] = ()
    third_parties: tuple[str, ...] = ()
    max_age_s: float = 30 * 86_400.0
