"""Whether the list of what administrators did is what the transparency log committed to: every row against its entries,
and every entry against its row. Reads a state directory; changes nothing.

A row that was changed, added later or taken out is found, as long as the log itself holds, which `headrace log audit`
says.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

from headrace.core.actions import AdminAction
from headrace.core.errors import HeadraceError
from headrace.memory.actions import Kept
from headrace.memory.provenance import Kept as Logged
from headrace.trust.log.merkle import hash_leaf, verify_inclusion
from headrace.trust.log.reading import Reader
from headrace.trust.records.action import action_of, commitment_of, item_id, read_envelope
from headrace.trust.records.commitment import read_entry


@dataclass(slots=True)
class Audit:
    """What was found. `findings` are things that do not hold; `num_waiting` are actions whose entries are not in the
    log yet, which a running server hands in within seconds, and the next one to start if none runs."""

    num_actions: int = 0
    num_held: int = 0
    num_waiting: int = 0
    num_erased: int = 0
    findings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogState:
    """What the log has. `entries` are those of actions by their ids, of all that were there when there were `num_read`
    entries; `reader` has the tiles of a tree that is not smaller, and `root` is its checkpoint's."""

    entries: Mapping[str, Logged]
    num_read: int
    reader: Reader
    root: bytes


def audit_actions(rows: Sequence[Kept], log: LogState, expected_since_s: float) -> Audit:
    """Compare both; `rows` were read after `log.entries`. Entries since a time must have a row: those before it may
    have been let go of."""
    audit = Audit(num_actions=len(rows))
    for kept in rows:
        action = kept.action
        if action.is_erased:
            audit.num_erased += 1
            continue
        found = list(_check(kept, log))
        audit.findings += found
        is_waiting = _is_waiting(action, log.entries)
        audit.num_waiting += is_waiting
        audit.num_held += not found and not is_waiting
    known = {kept.action.id for kept in rows}
    for name, entry in log.entries.items():
        action_id, is_end = action_of(name)
        if action_id not in known and not is_end and entry.time_s >= expected_since_s:
            audit.findings.append(f"{action_id}: the log has it at {entry.index}, and it is not in the list.")
    return audit


def _is_waiting(action: AdminAction, entries: Mapping[str, Logged]) -> bool:
    is_begun = item_id(action.id, is_end=False) in entries
    return not is_begun or (action.ended_s is not None and item_id(action.id, is_end=True) not in entries)


def _check(kept: Kept, log: LogState) -> Iterator[str]:
    action = kept.action
    for is_end, index in ((False, action.begun_index), (True, action.ended_index)):
        part = "end" if is_end else "beginning"
        entry = log.entries.get(item_id(action.id, is_end=is_end))
        if entry is None:
            if index is not None and index < log.num_read:
                yield f"{action.id}: the log has nothing of its {part}, and the list says it has."
            continue
        if is_end and action.ended_s is None:
            yield f"{action.id}: the log has its end, and the list has none."
            continue
        try:
            wrong = _wrong(kept, entry, log, is_end=is_end)
        except HeadraceError as error:
            wrong = str(error)
        if wrong is not None:
            yield f"{action.id}: its {part} is not the one that was logged: {wrong}"


def _wrong(kept: Kept, entry: Logged, log: LogState, *, is_end: bool) -> str | None:
    reader = log.reader
    if not entry.item.envelope:
        return "what the log commits to was erased."
    said = read_envelope(entry.item.envelope)
    if (said.action_id, said.is_end) != action_of(entry.item.id):
        return "the envelope is of another."
    if read_entry(entry.item.entry).digest != sha256(entry.item.envelope).digest():
        return "the envelope is not the one that was logged."
    if said.commitment != commitment_of(kept.action, kept.asked, kept.nonce, is_end=is_end):
        return "what the list says of it was changed."
    if entry.index >= reader.size:
        return "no checkpoint covers it."
    leaf = hash_leaf(reader.entry(entry.index))
    if leaf != hash_leaf(entry.item.entry):
        return f"the log's entry {entry.index} is another."
    verify_inclusion(entry.index, reader.size, leaf, reader.inclusion(entry.index), log.root)
    return None
