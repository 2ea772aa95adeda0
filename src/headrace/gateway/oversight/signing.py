"""A notary for what others have found: it signs what they hand in with the process's record key, and passes it on.

What a monitor saw becomes the predicate of an in-toto statement, so that whoever audits the log knows who said it.
"""

from dataclasses import replace
from hashlib import sha256
from typing import Final

import msgspec

from headrace.core.clock import Clock
from headrace.core.provenance import LogItem, Notary
from headrace.gateway.oversight.record_keys import RecordKeys
from headrace.trust.records import action
from headrace.trust.records.commitment import entry_of
from headrace.trust.records.statement import STATEMENT

PREDICATES: Final = {
    "evidence": "urn:headrace:evidence:v1",
    "endorsement": "urn:headrace:endorsement:v1",
    "action": action.PREDICATE,
}


class SigningNotary:
    """Implements `core.provenance.Notary` for items whose envelope is a JSON object that nobody signed."""

    def __init__(self, notary: Notary, keys: RecordKeys, clock: Clock) -> None:
        self._notary = notary
        self._keys = keys
        self._clock = clock

    def submit(self, item: LogItem) -> None:
        """Sign and hand in. Raises Unavailable and Overloaded."""
        now_s = self._clock.unix_s()
        statement = {
            "_type": STATEMENT,
            "subject": [{"name": item.id, "digest": {"sha256": sha256(item.envelope).hexdigest()}}],
            "predicateType": PREDICATES[item.kind],
            "predicate": msgspec.Raw(item.envelope),
        }
        envelope = self._keys.sign(msgspec.json.encode(statement), now_s)
        entry = entry_of(item.kind, envelope, now_s).encode()
        self._notary.submit(replace(item, envelope=envelope, entry=entry))

    def check(self) -> None:
        """As `Notary`."""
        self._keys.check(self._clock.unix_s())
        self._notary.check()
