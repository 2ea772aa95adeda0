"""A witness as a state machine: what it says to a checkpoint, and what it must remember before it says so.

C2SP tlog-witness, add-checkpoint, clause by clause. Whoever holds it persists `Answer.state` before the answer leaves,
and lets one request at a time through. Knows no files, no sockets and no clock.
"""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from headrace.trust.log.checkpoint import Checkpoint, parse_hash, parse_size
from headrace.trust.log.fault import LogFault
from headrace.trust.log.keys import Signer, VerifierKey
from headrace.trust.log.merkle import EMPTY_ROOT, verify_consistency
from headrace.trust.log.note import Note, find_signed, open_note, parse_note

MAX_PROOF_LINES: Final = 63
SIZE_TYPE: Final = "text/x.tlog.size"
TEXT_TYPE: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Request:
    """The body of add-checkpoint."""

    old_size: int
    proof: tuple[bytes, ...]
    note: Note

    def encode(self) -> bytes:
        """As it is posted."""
        lines = (f"old {self.old_size}", *(b64encode(one).decode() for one in self.proof))
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.note.encode()


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said. `state`, unless None, is the note to remember for the log instead of what was remembered: the
    checkpoint with the log's signatures and the cosignatures."""

    status: int
    body: bytes
    content_type: str = TEXT_TYPE
    origin: str = ""
    state: Note | None = None


def parse_request(body: bytes) -> Request:
    """The body of add-checkpoint. Raises LogFault if it is not written as the specification says."""
    head, blank, note = body.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise LogFault("the lines before the checkpoint are not ASCII.") from error
    if not blank or not lines[0].startswith("old "):
        raise LogFault("the body begins with `old SIZE` and has an empty line before the checkpoint.")
    old_size = parse_size(lines[0].removeprefix("old "), "the old size")
    # "The client MUST NOT send more than 63 consistency proof lines."
    if len(lines) - 1 > MAX_PROOF_LINES:
        raise LogFault(f"there are {len(lines) - 1} lines of proof; at most {MAX_PROOF_LINES} may come.")
    return Request(old_size, tuple(parse_hash(line, "a line of the proof") for line in lines[1:]), parse_note(note))


def judge(
    body: bytes,
    logs: Mapping[str, Sequence[VerifierKey]],
    remembered: Mapping[str, Note],
    signers: Sequence[Signer],
    time_s: int,
) -> Answer:
    """What a witness answers to add-checkpoint. `logs` are the keys that are trusted for each origin, `remembered` the
    latest note cosigned for each."""
    try:
        request = parse_request(body)
        checkpoint = Checkpoint.decode(request.note.text)
    except LogFault as error:
        return _refuse(400, error)
    # "If the checkpoint origin is unknown, the witness MUST respond with a 404."
    keys = logs.get(checkpoint.origin)
    if keys is None:
        return _refuse(404, f"the log {checkpoint.origin} is not known here.")
    # "403 if either no signature from a trusted key for the origin is present, or a signature line's key name and ID
    # match a trusted key but the signature itself fails to verify."
    try:
        signed = open_note(request.note, keys)
    except LogFault as error:
        return _refuse(403, error)
    # "The old size MUST be equal to or lower than the checkpoint size. Otherwise 400."
    if request.old_size > checkpoint.size:
        return _refuse(400, f"the old size {request.old_size} is larger than the checkpoint's, {checkpoint.size}.")
    # "The witness MUST check that the old size matches the size of the latest checkpoint it cosigned for the origin
    # (or zero). If it doesn't match: 409, the tree size of the latest cosigned checkpoint, text/x.tlog.size."
    latest = Checkpoint(checkpoint.origin, 0, EMPTY_ROOT)
    if (note := remembered.get(checkpoint.origin)) is not None:
        latest = Checkpoint.decode(note.text)
    if request.old_size != latest.size:
        return Answer(409, f"{latest.size}\n".encode(), SIZE_TYPE)
    try:
        _check_growth(latest, checkpoint, request.proof)
    except LogFault as error:
        return _refuse(422, error)
    # "the witness MUST update its record of the latest cosigned checkpoint and respond with a 200: one or more note
    # signature lines, cosignatures from the witness key(s). The timestamp MUST NOT be zero."
    assert time_s > 0
    lines = "".join(one.sign(request.note.text, time_s) for one in signers).encode()
    trusted = {(one.key.name, one.key.id) for one in signed}
    own = "".join(one.line for one in request.note.signatures if (one.name, one.key_id) in trusted).encode()
    state = parse_note(request.note.text + b"\n" + own + lines)
    return Answer(200, lines, origin=checkpoint.origin, state=state)


def _check_growth(latest: Checkpoint, checkpoint: Checkpoint, proof: Sequence[bytes]) -> None:
    """The 422s."""
    # "A checkpoint of size zero MUST have the root hash of the empty tree."
    checkpoint.check()
    if latest.size == 0:
        # "If the old size is zero, the consistency proof MUST be empty."
        if proof:
            raise LogFault("the old size is zero, and there are lines of proof; none is needed.")
        return
    # "If the old size matches the checkpoint size, the witness MUST check that the root hashes are also identical."
    verify_consistency(latest.size, checkpoint.size, proof, latest.root, checkpoint.root)


def read_answer(note: Note, body: bytes, keys: Sequence[VerifierKey]) -> Note:
    """A checkpoint with the cosignatures of a witness's answer that are by known keys, behind its own. Raises LogFault
    if there are none, or one does not verify."""
    answered = parse_note(note.text + b"\n" + body)
    signed = find_signed(answered, keys)
    if not signed:
        raise LogFault("the witness's answer has no cosignature of its key.")
    places = {(one.key.name, one.key.id) for one in signed}
    have = {(one.name, one.key_id) for one in note.signatures}
    new: dict[tuple[str, bytes], str] = {}
    for one in answered.signatures:
        if (one.name, one.key_id) in places - have:
            new.setdefault((one.name, one.key_id), one.line)
    return parse_note(note.encode() + "".join(new.values()).encode())


def _refuse(status: int, why: object) -> Answer:
    return Answer(status, f"{why}\n".encode())
