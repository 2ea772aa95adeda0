"""What the log holds of a flag: a commitment to what was seen, and nothing of who was seen.

The envelope lies beside the log, for operators; erasing it leaves the commitment. Values only.
"""

import json
from hashlib import sha256

from headrace.core.monitors import Flag
from headrace.core.provenance import LogItem

TYPE = "https://headrace.dev/evidence/theft/v1"


def evidence_of(flag: Flag, item_id: str, nonce: bytes) -> LogItem:
    """A flag, as it is logged: `evidence`, under an id of its own. `nonce` keeps the commitment from being guessed."""
    envelope = _json(
        {
            "_type": TYPE,
            "id": item_id,
            "account": flag.account,
            "monitor": flag.monitor,
            "score": flag.score,
            "action": flag.action,
            "reason": flag.reason,
            "time": int(flag.since_s),
            "nonce": nonce.hex(),
            "shadow": flag.is_shadow,
        }
    )
    entry = _json({"digest": f"sha256:{sha256(envelope).hexdigest()}", "kind": "evidence", "time": int(flag.since_s)})
    return LogItem(id=item_id, kind="evidence", tenant=flag.tenant, entry=entry, envelope=envelope)


def _json(value: dict[str, object]) -> bytes:
    """RFC 8785, as far as strings, integers and one digit after the point go."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
