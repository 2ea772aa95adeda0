"""Whether a record holds, clause by clause, and how far that goes.

    signed     the node that a trust file names vouched for the key that signed the statement, and the statement is
               about this answer
    logged     the log has committed to statement and delegation, the delegation first
    witnessed  as many others as the trust file asks for have seen the log so: it shows everybody the same
    replayed   the same model has said the same again (`headrace replay`)

Each clause is one line of the report; the first that is not met ends the verification. A signature shows who said it,
not that the model computed it. Values in, values out; the network and the clock have no part in it.
"""

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.trust.records import dsse
from headrace.trust.records.bundle import Bundle, Exhibit
from headrace.trust.records.commitment import DIGEST_BYTES, commit, derived_nonce, entry_of, read_entry
from headrace.trust.records.keys import SKEW_S, DelegationGrant, read_grant, verifier
from headrace.trust.records.node_key import NodeKey
from headrace.trust.records.statement import ANSWER, BODY, REASONING, Statement, opening, read_statement


class Level(IntEnum):
    """How far a verification got."""

    NONE = 0
    SIGNED = 1
    LOGGED = 2
    WITNESSED = 3
    REPLAYED = 4


class NotVerified(InvalidRequest):
    """A clause is not met."""

    code = "not_verified"


@dataclass(frozen=True, slots=True)
class Clause:
    """One thing that was looked at. `is_met` None: it could not be, and `text` says why."""

    name: str
    is_met: bool | None
    text: str


@dataclass(slots=True)
class Report:
    """What was verified, in order."""

    clauses: list[Clause] = field(default_factory=list)
    level: Level = Level.NONE
    statement: Statement | None = None

    @property
    def is_refused(self) -> bool:
        """Whether something does not hold: then the level means nothing."""
        return any(one.is_met is False for one in self.clauses)

    def meet(self, name: str, text: str) -> None:
        """A clause is met."""
        self.clauses.append(Clause(name, True, text))

    def skip(self, name: str, text: str) -> None:
        """A clause could not be looked at."""
        self.clauses.append(Clause(name, None, text))


@dataclass(frozen=True, slots=True)
class Included:
    """What a proof of inclusion shows: where in which log. `is_witnessed`: by as many as the trust file asks for."""

    origin: str
    index: int
    is_witnessed: bool


Prove = Callable[[bytes, bytes], Included]
"""Verifies a tlog-proof (first) for an entry (second). Raises HeadraceError, saying what does not hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trusted:
    """What a trust file says. `prove` is None where it names no log. `revoked` are record keys, by their ids, that are
    not believed from a time on (Unix seconds); `wanted` is the level that the file makes possible."""

    nodes: tuple[NodeKey, ...]
    prove: Prove | None = None
    revoked: Mapping[str, int] = field(default_factory=dict)
    wanted: Level = Level.SIGNED


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """The answer that is to be verified: the bytes as they were received, without comments of a stream (None: only the
    meaning is known), and what they say in canonical form (None: it could not be read). `model` is what it says that
    the model is called, None if it says nothing. `requests` are the canonical forms that the request can have;
    `is_partial`: it goes on from what only the server has."""

    body_digest: bytes | None = None
    answer: bytes | None = None
    reasoning: bytes | None = None
    model: str | None = None
    is_rewritten: bool = False
    requests: Sequence[bytes] = ()
    is_partial: bool = False


def verify(bundle: Bundle, shown: Shown | None, trusted: Trusted) -> Report:
    """All of it; what is not met is the report's last clause."""
    report = Report()
    name = "form"
    try:
        statement, envelope = _read_record(bundle)
        report.statement = statement
        report.meet(name, f"record {statement.record_id}, a statement about an answer, strictly written")
        name = "delegation"
        grant = _verify_delegation(bundle, trusted)
        report.meet(name, f"node {grant.node} vouches for the key {grant.key_id[:16]}…")
        name = "signature"
        _verify_signature(envelope, grant)
        report.meet(name, "the statement is signed by that key and by nobody else")
        name = "time"
        report.meet(name, _verify_time(bundle, grant, trusted))
        name = "nonce"
        _verify_nonce(bundle, statement, report)
        name = "answer"
        if shown is not None:
            _verify_answer(bundle, statement, shown, report)
        name = "request"
        if shown is not None and shown.requests:
            _verify_request(bundle, statement, shown, report)
        report.level = Level.SIGNED
        name = "log"
        _verify_log(bundle, statement, grant, trusted, report)
        name = "revocation"
        _verify_dated(grant, trusted, report)
    except HeadraceError as error:
        report.clauses.append(Clause(name, False, error.message))
        report.level = Level.NONE
    return report


def _read_record(bundle: Bundle) -> tuple[Statement, dsse.Envelope]:
    if not bundle.record.envelope:
        raise NotVerified("the record was erased; what is left of it says nothing about an answer.")
    envelope = dsse.read(bundle.record.envelope)
    statement = read_statement(envelope.payload)
    if statement.record_id != bundle.record_id:
        raise NotVerified(f"the bundle is of {bundle.record_id}, the statement in it of {statement.record_id}.")
    return statement, envelope


def _verify_delegation(bundle: Bundle, trusted: Trusted) -> DelegationGrant:
    if not trusted.nodes:
        raise NotVerified('the trust file names no node; add its line "node NAME KEY".')
    if not bundle.delegation.envelope:
        raise NotVerified("the delegation of the key that signed is missing.")
    envelope = dsse.read(bundle.delegation.envelope)
    keys = {one.id: one for one in trusted.nodes}
    signers = envelope.signers({key: one.verify for key, one in keys.items()})
    if len(envelope.signatures) != 1 or not signers:
        names = ", ".join(one.name for one in trusted.nodes)
        raise NotVerified(
            f"the delegation is not signed by a node that the trust file names ({names}), or not by it alone."
        )
    grant = read_grant(envelope.payload)
    if grant.node != keys[signers[0]].name:
        raise NotVerified(f"the delegation speaks for node {grant.node!r}, and {keys[signers[0]].name!r} signed it.")
    return grant


def _verify_signature(envelope: dsse.Envelope, grant: DelegationGrant) -> None:
    # DSSE allows more signatures; ours have one, and what is not vouched for must not look as if it were.
    signers = envelope.signers({grant.key_id: verifier(grant.public)})
    if len(envelope.signatures) != 1 or signers != (grant.key_id,):
        raise NotVerified("the statement is not signed by the key that the node vouches for, or not by it alone.")


def _verify_time(bundle: Bundle, grant: DelegationGrant, trusted: Trusted) -> str:
    record, delegation = read_entry(bundle.record.entry), read_entry(bundle.delegation.entry)
    for what, entry, kind, exhibit in (
        ("record", record, "record", bundle.record),
        ("delegation", delegation, "delegation", bundle.delegation),
    ):
        if entry != entry_of(kind, exhibit.envelope, entry.time_s):
            raise NotVerified(f"the log's entry of the {what} commits to something else.")
    if not grant.not_before_s - SKEW_S <= record.time_s <= grant.not_after_s:
        raise NotVerified(
            f"the record's time, {record.time_s}, is outside of what the key was vouched for: "
            f"{grant.not_before_s} to {grant.not_after_s}."
        )
    revoked_s = trusted.revoked.get(grant.key_id)
    if revoked_s is not None and record.time_s >= revoked_s:
        raise NotVerified(f"the key that signed is revoked from {revoked_s} on, and the record is of {record.time_s}.")
    return "the record was made while the key was vouched for"


def _verify_nonce(bundle: Bundle, statement: Statement, report: Report) -> None:
    if not bundle.nonce:
        report.skip("nonce", "it was erased: commitments cannot be opened, and what they commit to is not shown")
        return
    if statement.internal.get("opening") != "sha256:" + opening(bundle.nonce).hex():
        raise NotVerified("the bundle's nonce is not the record's.")
    report.meet("nonce", "the nonce is the one that the record commits with")


def _verify_answer(bundle: Bundle, statement: Statement, shown: Shown, report: Report) -> None:
    body = statement.subjects.get(BODY)
    if body is not None and shown.body_digest is not None and not shown.is_rewritten:
        if not hmac.compare_digest(body, shown.body_digest):
            raise NotVerified(
                "the bytes are not those that were sent. If a program wrote them anew, --rewritten compares what they "
                "say instead."
            )
        report.meet("answer", "byte for byte what was sent")
        _note_meaning(bundle, statement, shown, report)
        return
    if ANSWER not in statement.subjects:
        raise NotVerified("the answer passed unread, so its record is about its bytes alone, and these are not known.")
    if shown.answer is None:
        raise NotVerified("what the answer says cannot be read from this file.")
    if not bundle.nonce:
        raise NotVerified("the nonce was erased, so what the answer says cannot be compared; its bytes could be.")
    if not _opens(bundle, statement, ANSWER, shown.answer):
        raise NotVerified("the answer is another than the one that the record commits to.")
    report.meet("meaning", "text, tool calls and endings are those that the record commits to")
    if shown.model is not None and shown.model not in statement.model_names:
        names = ", ".join(sorted(statement.model_names))
        raise NotVerified(f"the file says that {shown.model!r:.100} answered; the record says {names}.")
    if shown.reasoning is None or REASONING not in statement.subjects:
        return
    if not _opens(bundle, statement, REASONING, shown.reasoning):
        raise NotVerified("the reasoning is another than the one that the record commits to.")
    report.meet("reasoning", "the reasoning is the one that the record commits to")


def _note_meaning(bundle: Bundle, statement: Statement, shown: Shown, report: Report) -> None:
    """Of bytes that are the right ones also what they say, where that can be told: a protocol may tell more (an echo of
    the prompt) or less than the canonical form has."""
    for name, title, form in ((ANSWER, "meaning", shown.answer), (REASONING, "reasoning", shown.reasoning)):
        if form is None or not bundle.nonce or name not in statement.subjects:
            continue
        if _opens(bundle, statement, name, form):
            report.meet(title, f"the {name}'s canonical form is the one that the record commits to")
        else:
            report.skip(title, f"this protocol tells the {name} in another way than its canonical form")


def _opens(bundle: Bundle, statement: Statement, name: str, form: bytes) -> bool:
    return hmac.compare_digest(statement.subjects[name], commit(derived_nonce(bundle.nonce, name), form))


def _verify_request(bundle: Bundle, statement: Statement, shown: Shown, report: Report) -> None:
    told = statement.external.get("request")
    if not isinstance(told, dict) or not isinstance(told.get("commitment"), str):
        raise NotVerified("the record commits to no request.")
    if not bundle.nonce:
        raise NotVerified("the nonce was erased, so the request cannot be compared.")
    nonce = derived_nonce(bundle.nonce, "request")
    if told["commitment"] in {f"sha256:{commit(nonce, form).hex()}" for form in shown.requests}:
        report.meet("request", "the request is the one that the record commits to")
    elif shown.is_partial:
        report.skip("request", "it goes on from what the server has stored, which is not in this file")
    else:
        raise NotVerified("the request is another than the one that the record commits to.")


def _verify_log(bundle: Bundle, statement: Statement, grant: DelegationGrant, trusted: Trusted, report: Report) -> None:
    if trusted.prove is None:
        report.skip("log", "the trust file names no log")
        return
    if not bundle.record.proof or not bundle.delegation.proof:
        report.skip("log", "the bundle has no proof of inclusion; fetch it again after the log's merge delay")
        return
    record, delegation = _prove(trusted.prove, bundle.record), _prove(trusted.prove, bundle.delegation)
    told = statement.internal.get("log")
    promised = told.get("origin") if isinstance(told, dict) else None
    if not record.origin == delegation.origin == bundle.log_origin == promised:
        raise NotVerified(f"the proofs are of {record.origin} and {delegation.origin}, the record promises {promised}.")
    # Whoever has taken a key would choose the log whose operator helps.
    if grant.log_origin != record.origin:
        raise NotVerified(f"the node vouches for the key in {grant.log_origin or 'no log'}, not in {record.origin}.")
    # The order in the log stands for time: what a key signs before it is vouched for is worth nothing.
    if not delegation.index < record.index:
        raise NotVerified("the log has the record before the delegation of its key.")
    report.meet(
        "log", f"{record.origin} has the record at {record.index}, behind its key's delegation at {delegation.index}"
    )
    report.level = Level.LOGGED
    if record.is_witnessed and delegation.is_witnessed:
        report.meet("witnesses", "as many as the trust file asks for have seen the log so")
        report.level = Level.WITNESSED
    else:
        report.skip("witnesses", "not as many as a trust file would ask for have cosigned, or it asks for none")


def _verify_dated(grant: DelegationGrant, trusted: Trusted, report: Report) -> None:
    # Whoever has taken the key writes the time of an entry as it likes: only a log says that it was there.
    if grant.key_id in trusted.revoked and report.level < Level.LOGGED:
        raise NotVerified("the key that signed was revoked, and no log shows that the record is older than that.")


def _prove(prove: Prove, exhibit: Exhibit) -> Included:
    return prove(exhibit.proof, exhibit.entry)


assert DIGEST_BYTES == 32
