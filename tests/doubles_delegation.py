"""Root keys and tokens of tests."""

from collections.abc import Collection
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from headrace.core.request import Principal
from headrace.trust.delegation.desk import DelegationDesk, Rules
from headrace.trust.delegation.grant import Block, Bounds, Grant
from headrace.trust.delegation.token import RootKeys, Token, make_token, public_key_of, read_token

NOW_S = 1_800_000_000.0
HOUR_S = 3600.0


@cache
def pem(number: int = 1) -> bytes:
    """A root key, the same in every run."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public(number: int = 1) -> str:
    """Its public half."""
    return public_key_of(pem(number))


KEYS = RootKeys.of([public()])


def granted(number: int = 1, holder: str = "planner", facts: dict[str, str] | None = None, **bounds: Any) -> str:
    """A token of the key laptop's for a planner; without `expires_s` for an hour."""
    given = Bounds(**{"expires_s": NOW_S + HOUR_S} | bounds)
    grant = Grant(
        tenant="acme",
        subject="key:laptop",
        scopes=frozenset({"generate"}),
        facts=facts or {},
        blocks=(Block(revocation_id="", holder=holder, bounds=given),),
    )
    return make_token(pem(number), grant)


def read(text: str, revoked: Collection[str] = ()) -> Token:
    """A token that holds."""
    return read_token(text, KEYS, revoked)


LAPTOP = Principal(
    tenant="acme", key="laptop", subject="key:laptop", scopes=frozenset({"generate", "admin"}), tags=("team",)
)


def desk(
    *, revoked: Collection[str] = (), granter: Principal | None = LAPTOP, max_age_s: float = 86_400.0
) -> DelegationDesk:
    """One whose only granter is the key laptop."""
    rules = Rules(KEYS, max_age_s, frozenset(revoked))
    return DelegationDesk(rules, lambda subject: granter if subject == "key:laptop" else None)
