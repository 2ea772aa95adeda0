"""What the log holds of a flag: a commitment to what was seen, and nothing of who was seen.

The envelope lies beside the log, for operators; erasing it leaves the commitment. Values only.
"""

from headrace.core.monitors import Flag
from headrace.core.provenance import LogItem
from headrace.trust.records import canonical
from headrace.trust.records.commitment import entry_of

TYPE = "https://headrace.dev/evidence/theft/v1"


def evidence_of(flag: Flag, item_id: str, nonce: bytes) -> LogItem:
    """A flag, as it is logged: `evidence`, under an id of its own. `nonce` keeps the commitment from being guessed."""
    envelope = canonical.encode(
        {
            "_type": TYPE,
            "id": item_id,
            "account": flag.account.encode("utf-8", "replace").decode(),  # half a character has no canonical form
            "monitor": flag.monitor,
            "score": flag.score,
            "action": flag.action,
            "reason": flag.reason,
            "time": int(flag.since_s),
            "nonce": nonce.hex(),
            "shadow": flag.is_shadow,
        }
    )
    entry = entry_of("evidence", envelope, flag.since_s).encode()
    return LogItem(id=item_id, kind="evidence", tenant=flag.tenant, entry=entry, envelope=envelope)
