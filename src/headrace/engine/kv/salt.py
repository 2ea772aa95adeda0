"""What bounds sharing of keys and values: requests whose salts differ in any part never share a page, in no tier.

The parts have names so that a miss can be explained within one tenant. Knows neither pages nor files.
"""

from typing import NamedTuple

from headrace.core.events import MissReason


class Salt(NamedTuple):
    """Tenant, digests of model, adapter and template, and the caller's own salt; an empty text where there is none."""

    tenant: str = ""
    model: str = ""
    adapter: str = ""
    template: str = ""
    caller: str = ""

    def encode(self) -> bytes:
        """All parts as bytes, lengths in front, so that no two salts look alike."""
        encoded = [part.encode("utf-8", "surrogatepass") for part in self]
        return b"".join(len(part).to_bytes(4, "little") + part for part in encoded)

    def changes_from(self, other: "Salt") -> tuple[MissReason, ...]:
        """Which parts differ, the weightiest first; of one tenant only, between two there is nothing to compare."""
        assert self.tenant == other.tenant, "two tenants are never compared"
        pairs = zip(CHANGES, self[1:], other[1:], strict=True)
        return tuple(reason for reason, mine, theirs in pairs if mine != theirs)


NO_SALT = Salt()

CHANGES = (
    MissReason.MODEL_CHANGED,
    MissReason.ADAPTER_CHANGED,
    MissReason.TEMPLATE_CHANGED,
    MissReason.SALT_CHANGED,
)
