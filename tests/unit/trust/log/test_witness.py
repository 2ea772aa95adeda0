"""A witness answers as C2SP tlog-witness says, and never cosigns two trees of which neither begins the other."""

from base64 import b64encode

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.doubles_log import ORIGIN, Log, log_keys, witness_keys

from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.fault import LogFault
from headrace.trust.log.keys import Algorithm, Signer
from headrace.trust.log.merkle import EMPTY_ROOT
from headrace.trust.log.note import Note, open_note, parse_note
from headrace.trust.log.reading import Reader
from headrace.trust.log.witness import Answer, Request, judge, parse_request, read_answer

WITNESS = witness_keys()
NOW_S = 1_700_000_000


class Asked:
    """A witness that trusts one log."""

    def __init__(self) -> None:
        self.logs = {ORIGIN: log_keys().keys}
        self.remembered: dict[str, Note] = {}

    def ask(self, body: bytes) -> Answer:
        answer = judge(body, self.logs, self.remembered, WITNESS.signers, NOW_S)
        if answer.state is not None:
            assert answer.status == 200
            self.remembered[answer.origin] = answer.state
        return answer


def request(log: Log, old: int, size: int | None = None) -> bytes:
    """As the log would ask, now or when it had `size` entries."""
    proof = tuple(Reader(log.files, log.tree.size).consistency(old)) if 0 < old < log.tree.size else ()
    return Request(old, proof, log.note()).encode()


@pytest.fixture
def log() -> Log:
    made = Log()
    made.grow(5)
    return made


def test_a_checkpoint_that_continues_what_was_cosigned_is_cosigned(log: Log) -> None:
    witness = Asked()
    answer = witness.ask(request(log, 0))
    assert answer.status == 200
    signed = open_note(parse_note(log.note().text + b"\n" + answer.body), WITNESS.keys)
    assert [one.key.algorithm for one in signed] == [0x04, 0x06] and {one.time_s for one in signed} == {NOW_S}
    log.grow(300)
    assert witness.ask(request(log, 5)).status == 200
    assert Checkpoint.decode(witness.remembered[ORIGIN].text).size == 305


def test_what_is_remembered_has_the_logs_signatures_and_the_cosignatures(log: Log) -> None:
    witness = Asked()
    other = Signer("somebody.example", Algorithm.ED25519, bytes(32))
    body = request(log, 0) + other.sign(log.note().text, NOW_S).encode()
    assert witness.ask(body).status == 200
    names = [(one.name, one.key_id) for one in witness.remembered[ORIGIN].signatures]
    assert names == [(one.name, one.id) for one in (*log.keys.keys, *WITNESS.keys)]


def test_the_same_checkpoint_again_is_cosigned_again(log: Log) -> None:
    witness = Asked()
    witness.ask(request(log, 0))
    assert witness.ask(Request(5, (), log.note()).encode()).status == 200


def test_another_old_size_is_a_conflict_with_the_size_that_was_cosigned(log: Log) -> None:
    witness = Asked()
    answer = witness.ask(request(log, 3))
    assert (answer.status, answer.body, answer.content_type) == (409, b"0\n", "text/x.tlog.size")
    witness.ask(request(log, 0))
    log.grow(5)
    for old in (0, 3, 10):
        answer = witness.ask(request(log, old))
        assert (answer.status, answer.body, answer.content_type) == (409, b"5\n", "text/x.tlog.size")


def test_an_old_size_larger_than_the_checkpoints_is_a_bad_request(log: Log) -> None:
    assert Asked().ask(Request(6, (), log.note()).encode()).status == 400


def test_a_log_that_is_not_known_is_not_found() -> None:
    other = Log(log_keys("example.com/other"))
    other.grow(3)
    assert Asked().ask(request(other, 0)).status == 404


def test_a_checkpoint_without_a_trusted_signature_is_forbidden(log: Log) -> None:
    witness = Asked()
    stranger = Log(log_keys(ORIGIN, seed="another"))
    stranger.grow(5)
    assert witness.ask(request(stranger, 0)).status == 403
    text = log.note().text
    broken = f"— {ORIGIN} {b64encode(log.keys.keys[0].id + bytes(64)).decode()}\n"
    good = log.keys.signers[0].sign(text, NOW_S)
    body = b"old 0\n\n" + text + b"\n" + (good + broken).encode()
    assert witness.ask(body).status == 403
    assert witness.remembered == {}


def test_a_fork_and_a_wrong_proof_are_unprocessable(log: Log) -> None:
    witness = Asked()
    witness.ask(request(log, 0))
    before = dict(witness.remembered)
    fork = Log()
    fork.add(b"another", *(b"entry %d" % at for at in range(1, 5)))
    assert witness.ask(Request(5, (), fork.note()).encode()).status == 422  # same size, another root
    fork.grow(5)
    assert witness.ask(request(fork, 5)).status == 422
    log.grow(5)
    proof = tuple(Reader(log.files, 10).consistency(5))
    for wrong in ((), proof[:-1], (*proof, proof[0]), (bytes(32), *proof[1:]), proof[::-1]):
        assert witness.ask(Request(5, wrong, log.note()).encode()).status == 422
    assert witness.remembered == before


def test_a_proof_from_nothing_must_be_empty(log: Log) -> None:
    assert Asked().ask(Request(0, (bytes(32),), log.note()).encode()).status == 422


def test_an_empty_tree_must_have_the_root_of_nothing() -> None:
    empty = Log()
    assert Asked().ask(request(empty, 0)).status == 200
    text = Checkpoint(ORIGIN, 0, bytes(32)).encode()
    assert bytes(32) != EMPTY_ROOT
    body = b"old 0\n\n" + empty.keys.sign(text, NOW_S)
    assert Asked().ask(body).status == 422


def test_an_empty_tree_may_grow() -> None:
    witness, log = Asked(), Log()
    witness.ask(request(log, 0))
    log.grow(4)
    assert witness.ask(request(log, 0)).status == 200


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"old 0\n", b""),
        (b"old 0\n", b"old 00\n"),
        (b"old 0\n", b"old -1\n"),
        (b"old 0\n", b"old  0\n"),
        (b"old 0\n", b"Old 0\n"),
        (b"old 0\n", b"old 0\r\n"),
        (b"old 0\n", b"old 0\nAAAA\n"),
        (b"old 0\n", b"old 0\n" + b64encode(bytes(31)) + b"\n"),
        (b"old 0\n", b"old 0\n" + (b64encode(bytes(32)) + b"\n") * 64),
        (b"old 0\n\n", b"old 0\n"),
        (b"old 0\n", b"\xff\n"),
        (b"\n5\n", b"\n05\n"),
    ],
)
def test_what_is_not_written_as_the_specification_says_is_a_bad_request(log: Log, old: bytes, new: bytes) -> None:
    body = request(log, 0)
    assert Asked().ask(body).status == 200 and old in body
    assert Asked().ask(body.replace(old, new, 1)).status == 400


def test_a_request_comes_back_from_its_text(log: Log) -> None:
    log.grow(3)
    asked = Request(5, tuple(Reader(log.files, 8).consistency(5)), log.note())
    assert parse_request(asked.encode()) == asked


def test_of_an_answer_only_the_lines_of_known_keys_are_taken(log: Log) -> None:
    note, stranger = log.note(), witness_keys("stranger.example")
    body = "".join(one.sign(note.text, NOW_S) for one in (*stranger.signers, *WITNESS.signers)).encode()
    taken = read_answer(note, body, WITNESS.keys)
    assert len(taken.signatures) == len(note.signatures) + 2
    open_note(taken, WITNESS.keys)
    assert read_answer(taken, body, WITNESS.keys) == taken
    for wrong in (b"", b"junk\n", "".join(one.sign(note.text, NOW_S) for one in stranger.signers).encode()):
        with pytest.raises(LogFault):
            read_answer(note, wrong, WITNESS.keys)
    other = "".join(one.sign(b"a\n1\n" + b64encode(bytes(32)) + b"\n", NOW_S) for one in WITNESS.signers).encode()
    with pytest.raises(LogFault):
        read_answer(note, other, WITNESS.keys)


class TwoLogs(RuleBasedStateMachine):
    """A log's operator with two histories of one log: whatever is shown to a witness, it cosigns one of them."""

    @initialize(shared=st.integers(0, 40))
    def begin(self, shared: int) -> None:
        self.witness, self.logs, self.cosigned = Asked(), (Log(), Log()), list[tuple[int, bytes]]()
        for log in self.logs:
            log.grow(shared)
        self.logs[0].add(b"to one")
        self.logs[1].add(b"to another")
        self.taken: set[int] = set()

    @rule(which=st.integers(0, 1), num=st.integers(1, 30))
    def grow(self, which: int, num: int) -> None:
        self.logs[which].grow(num)

    @rule(which=st.integers(0, 1), knows=st.booleans(), old=st.integers(0, 80), proves=st.integers(0, 1))
    def ask(self, which: int, knows: bool, old: int, proves: int) -> None:
        log, size = self.logs[which], 0
        if ORIGIN in self.witness.remembered:
            size = Checkpoint.decode(self.witness.remembered[ORIGIN].text).size
        old = size if knows else old
        prover = self.logs[proves]
        can = 0 < old < min(log.tree.size, prover.tree.size)
        proof = tuple(Reader(prover.files, prover.tree.size).consistency(old)) if can else ()
        answer = self.witness.ask(Request(old, proof, log.note()).encode())
        if answer.status == 200:
            self.taken.add(which)
            self.cosigned.append((log.tree.size, log.tree.root()))
        elif knows and self.taken == {which} and proves == which:
            raise AssertionError("an honest log was refused")

    @invariant()
    def one_history(self) -> None:
        if hasattr(self, "taken"):
            assert len(self.taken) <= 1
            sizes = [size for size, _ in self.cosigned]
            assert sizes == sorted(sizes)


TwoLogs.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=15)
test_a_witness_cosigns_one_history = TwoLogs.TestCase
