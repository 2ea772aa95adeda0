"""What the log says of an administrator's action: that one began, and that it ended, as two salted commitments.

An envelope holds a digest and an id, nothing of who did what: the row in the state database says that, and the nonce in
it opens the commitment. Forgetting the row leaves entries that mean nothing. Values in, values out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from headrace.core.actions import AdminAction
from headrace.core.provenance import LogItem
from headrace.trust.records import canonical, dsse
from headrace.trust.records.canonical import NotCanonical
from headrace.trust.records.commitment import commit, derived_nonce, entry_of

KIND: Final = "action"
PREDICATE: Final = "urn:headrace:action:v1"
_END: Final = "_end"


def item_id(action_id: str, *, is_end: bool) -> str:
    """Under which the log has the beginning of an action, or its end."""
    return action_id + (_END if is_end else "")


def action_of(item: str) -> tuple[str, bool]:
    """The action of an item, and whether it is its end."""
    return item.removesuffix(_END), item.endswith(_END)


def item_of(action: AdminAction, asked: str, nonce: bytes, *, is_end: bool) -> LogItem:
    """An action's beginning or end as it is logged, before somebody signs it. `asked` is its text as it is kept."""
    said = {
        "id": action.id,
        "part": "ended" if is_end else "begun",
        "commitment": commitment_of(action, asked, nonce, is_end=is_end).hex(),
    }
    envelope = canonical.encode(said)
    at_s = (action.ended_s or 0.0) if is_end else action.begun_s
    return LogItem(
        id=item_id(action.id, is_end=is_end),
        kind=KIND,
        tenant="",
        entry=entry_of(KIND, envelope, at_s).encode(),
        envelope=envelope,
    )


def commitment_of(action: AdminAction, asked: str, nonce: bytes, *, is_end: bool) -> bytes:
    """What commits to all that is kept of a beginning, or of an end."""
    if is_end:
        said: dict[str, Any] = {
            "id": action.id,
            "outcome": action.outcome.value,
            "code": action.code,
            "ended": action.ended_s,
        }
        return commit(derived_nonce(nonce, "end"), canonical.encode(said))
    begun, actor = action.begun, action.begun.actor
    said = {
        "id": action.id,
        "begun": action.begun_s,
        "tenant": actor.tenant,
        "key": actor.key,
        "subject": actor.subject,
        "through": actor.through.value,
        "name": begun.name,
        "target": begun.target,
        "asked": asked,
        "request": begun.request_id,
    }
    return commit(nonce, canonical.encode(said))


@dataclass(frozen=True, slots=True)
class Said:
    """What a signed envelope says: of which action, which part, and the commitment."""

    action_id: str
    is_end: bool
    commitment: bytes


def read_envelope(envelope: bytes) -> Said:
    """What an envelope in the database says. Raises NotCanonical for what is none of an action."""
    try:
        statement: Mapping[str, Any] = msgspec.json.decode(dsse.read(envelope).payload)
        predicate = statement["predicate"]
        if statement["predicateType"] != PREDICATE:
            raise NotCanonical("it is none of an action.")
        return Said(predicate["id"], predicate["part"] == "ended", bytes.fromhex(predicate["commitment"]))
    except (msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise NotCanonical("it is none of an action.") from error
