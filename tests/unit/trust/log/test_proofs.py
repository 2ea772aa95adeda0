"""Proofs and trust files: who has a file of trusted keys and a proof needs nothing else, and is deceived by nothing."""

from base64 import b64encode

import pytest
from tests.doubles_log import ORIGIN, Log, log_keys, trust_in, witness_keys

from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.fault import LogFault
from headrace.trust.log.log_keys import KeySet
from headrace.trust.log.merkle import EMPTY_ROOT, hash_leaf
from headrace.trust.log.note import parse_note
from headrace.trust.log.proof import LogProof, parse_proof
from headrace.trust.log.reading import Reader
from headrace.trust.log.trust_file import Group, Known, Node, TrustFile, parse_trust_file, shown

WITNESSES = {name: witness_keys(f"{name}.example") for name in ("X1", "X2", "X3", "Y1", "Y2", "Y3")}
NODE = "edge+0a1b2c3d+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k"


def vkey(keys: KeySet, number: int = 0) -> str:
    return str(keys.keys[number])


LOG = vkey(log_keys())
EXAMPLE = f"""
log {LOG}

# the example of the specification
witness X1 {vkey(WITNESSES["X1"])}
witness X2 {vkey(WITNESSES["X2"])}
witness\tX3  {vkey(WITNESSES["X3"])} https://x3.example/
group X-witnesses 2 X1 X2 X3

witness Y1 {vkey(WITNESSES["Y1"])}
witness Y2 {vkey(WITNESSES["Y2"])}
  witness Y3 {vkey(WITNESSES["Y3"])}
group Y-witnesses any Y1 Y2 Y3

group X-and-Y all X-witnesses Y-witnesses
quorum X-and-Y
"""


def cosigned(log: Log, *names: str) -> bytes:
    note = log.note()
    lines = [WITNESSES[name].signers[0].sign(note.text, 1_700_000_000 + at) for at, name in enumerate(names)]
    return note.encode() + "".join(lines).encode()


@pytest.mark.parametrize(
    ("names", "is_valid"),
    [
        ("", False),
        ("X1 X2", False),
        ("Y1 Y2 Y3", False),
        ("X1 Y1", False),
        ("X1 X3 Y2", True),
        ("X1 X2 X3 Y1 Y2 Y3", True),
        ("Y3 X2 X3", True),
    ],
)
def test_the_quorum_of_the_specifications_example_is_what_it_says(names: str, is_valid: bool) -> None:
    log = Log()
    log.grow(5)
    trust = parse_trust_file(EXAMPLE.encode())
    data = cosigned(log, *names.split())
    if is_valid:
        opened = trust.open_checkpoint(data)
        assert set(opened.witnesses) == set(names.split()) and opened.is_witnessed
        assert opened.witnesses[names.split(maxsplit=1)[0]] == 1_700_000_000
    else:
        with pytest.raises(LogFault, match="quorum"):
            trust.open_checkpoint(data)


def test_a_trust_file_comes_back_from_its_text() -> None:
    trust = TrustFile(
        logs=(Known(ORIGIN, log_keys().keys[0], "https://gw.example/log"), Known(ORIGIN, log_keys().keys[1])),
        witnesses=(Known("w1", WITNESSES["X1"].keys[0], "http://w1"), Known("w2", WITNESSES["X2"].keys[1])),
        groups=(Group("both", 2, ("w1", "w2")),),
        quorum="both",
        nodes=(Node("edge", NODE),),
    )
    assert parse_trust_file(trust.encode().encode()) == trust


W1, W2 = f"witness w1 {vkey(WITNESSES['X1'])}", f"witness w2 {vkey(WITNESSES['X2'])}"


@pytest.mark.parametrize(
    "lines",
    [
        [],  # no quorum
        ["quorum none", "quorum none"],
        ["quorum nobody"],
        ["quorum w1", W1],  # before it is defined
        ["quorum"],
        ["quorum none none"],
        ["log", "quorum none"],
        [f"log {LOG} url more", "quorum none"],
        [f"log {LOG}", f"log {LOG}", "quorum none"],  # duplicates
        [f"log {vkey(WITNESSES['X1'])}", "quorum none"],  # a witness's key
        [f"witness w1 {LOG}", "quorum none"],  # a log's key
        [W1, W1, "quorum none"],
        [W1, W1.replace("w1", "w9"), "quorum none"],  # one key twice
        [W1, W2.replace("w2", "w1"), "quorum none"],  # one name twice
        [W1.replace("w1", "none"), "quorum none"],
        [W1, "group g 2 w1", "quorum g"],
        [W1, "group g 0 w1", "quorum g"],
        [W1, "group g -1 w1", "quorum g"],
        [W1, "group g some w1", "quorum g"],
        [W1, "group g ١ w1", "quorum g"],
        [W1, "group g all", "quorum g"],
        [W1, "group g all w1 w2", W2, "quorum g"],
        [W1, "group g all g", "quorum g"],
        [W1, "group none all w1", "quorum none"],
        [W1, "group w1 all w1", "quorum w1"],
        [W1, "group g all w1 w1", "quorum g"],
        [W1, "group g all w1", "group h all w1", "quorum g"],  # a member twice
        [W1, "group g all none", "quorum g"],
        ["node edge", "quorum none"],
        ["node edge key", "quorum none"],
        [f"node edge {NODE}", f"node edge {NODE}", "quorum none"],
        ["policy x", "quorum none"],
        ["Quorum none"],
        ["quorum none\r"],
        ["quorum none\x7f"],
        ["quorum\x0bnone"],
    ],
)
def test_what_is_no_trust_file_is_refused(lines: list[str]) -> None:
    parse_trust_file(f"{W1}\n{W2}\ngroup g any w1 w2\nnode edge {NODE}\nlog {LOG}\nquorum g\n".encode())
    with pytest.raises(LogFault):
        parse_trust_file("".join(f"{line}\n" for line in lines).encode())


def test_a_mistake_is_told_with_its_line() -> None:
    with pytest.raises(LogFault, match=r"line 3: .*'quorom'"):
        parse_trust_file(f"# mine\nlog {LOG}\nquorom none\n".encode())


def test_names_are_octets_and_those_that_look_alike_are_others() -> None:
    kelvin = W1.replace("w1", "\u212a")
    trust = parse_trust_file(f"{kelvin}\n{W2.replace('w2', 'K')}\nquorum K\n".encode())
    assert [one.name for one in trust.witnesses] == ["\u212a", "K"] and trust.quorum == "K"
    assert parse_trust_file(b"# \xff\xfe\n" + W1.replace("w1", "w").encode() + b"\nquorum none\n").witnesses


def test_octets_that_are_no_utf_8_are_names_of_witnesses_and_never_of_keys() -> None:
    odd = W1.replace("w1", "w").encode().replace(b"witness w ", b"witness w\xff ")
    (witness,) = parse_trust_file(odd + b"\nquorum none\n").witnesses
    assert witness.name == "w\udcff" and shown(witness.name) == "w\\xff"
    for line in (LOG.encode().replace(b"example", b"ex\xffmple"), b"\xff" + LOG.encode()):
        with pytest.raises(LogFault) as caught:
            parse_trust_file(b"log " + line + b"\nquorum none\n")
        caught.value.message.encode()  # it can be printed


def test_a_proof_comes_back_from_its_text_and_verifies_offline() -> None:
    log = Log()
    log.grow(1000)
    for index in (0, 511, 999):
        hashes = tuple(Reader(log.files, 1000).inclusion(index))
        proof = LogProof(index=index, hashes=hashes, checkpoint=log.note(), extra=b"what it is of")
        assert parse_proof(proof.encode()) == proof
        opened = parse_proof(proof.encode()).verify(hash_leaf(b"entry %d" % index), trust_in(log.keys))
        assert opened.checkpoint.size == 1000 and not opened.is_witnessed and opened.log.name == ORIGIN
        with pytest.raises(LogFault):
            proof.verify(hash_leaf(b"another entry"), trust_in(log.keys))


def test_a_proof_reads_as_the_specification_prints_it() -> None:
    log = Log()
    log.grow(3)
    text = LogProof(index=1, hashes=(bytes(32), b"\1" * 32), checkpoint=log.note()).encode().decode()
    zeros, ones = b64encode(bytes(32)).decode(), b64encode(b"\1" * 32).decode()
    assert text.startswith(f"c2sp.org/tlog-proof@v1\nindex 1\n{zeros}\n{ones}\n\n{ORIGIN}\n3\n")


def test_an_empty_tree_with_another_root_is_refused_though_it_is_signed() -> None:
    keys = log_keys()
    assert trust_in(keys).open_checkpoint(keys.sign(Checkpoint(ORIGIN, 0, EMPTY_ROOT).encode(), 1))
    with pytest.raises(LogFault, match="empty tree"):
        trust_in(keys).open_checkpoint(keys.sign(Checkpoint(ORIGIN, 0, bytes(32)).encode(), 1))


def test_a_proof_of_one_log_is_none_of_another() -> None:
    """Two origins, one key: the checkpoint says whose it is."""
    log, other = Log(), Log(log_keys("example.com/other"))
    log.grow(5), other.grow(5)
    hashes = tuple(Reader(log.files, 5).inclusion(2))
    leaf = hash_leaf(b"entry 2")
    with pytest.raises(LogFault, match="not trusted"):
        LogProof(index=2, hashes=hashes, checkpoint=log.note()).verify(leaf, trust_in(other.keys))
    # A checkpoint that two logs signed is its own origin's alone.
    text = log.checkpoint.encode()
    forged = parse_note(text + b"\n" + "".join(one.sign(text, 1) for one in other.keys.signers).encode())
    with pytest.raises(LogFault):
        LogProof(index=2, hashes=hashes, checkpoint=forged).verify(leaf, trust_in(log.keys, other.keys))


def good() -> str:
    log = Log()
    log.grow(5)
    hashes = tuple(Reader(log.files, 5).inclusion(2))
    return LogProof(index=2, hashes=hashes, checkpoint=log.note()).encode().decode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("@v1", "@v2"),
        ("c2sp.org", " c2sp.org"),
        ("index 2\n", "index 02\n"),
        ("index 2\n", "index -2\n"),
        ("index 2\n", "index  2\n"),
        ("index 2\n", ""),
        ("index 2\n", "index 3\n"),
        ("index 2\n", "index 5\n"),  # index >= size
        ("index 2\n", "index 2\nindex 2\n"),
        ("index 2\n", "extra \nindex 2\n"),
        ("index 2\n", "extra ?\nindex 2\n"),
        ("index 2\n", "index 2\nextra QQ==\n"),
        ("index 2\n", f"index 2\n{b64encode(bytes(32)).decode()}\n"),  # a node more
        ("index 2\n", f"index 2\n{b64encode(bytes(31)).decode()}\n"),
        ("index 2\n", "index 2\n" + f"{b64encode(bytes(32)).decode()}\n" * 64),
        ("index 2\n", "index 2\r\n"),
        ("\n5\n", "\n05\n"),
        ("\n5\n", "\n6\n"),
        ("\n\n", "\n"),
    ],
)
def test_a_proof_that_is_written_otherwise_is_refused(old: str, new: str) -> None:
    text = good()
    leaf, trust = hash_leaf(b"entry 2"), trust_in(log_keys())
    parse_proof(text.encode()).verify(leaf, trust)
    assert old in text
    with pytest.raises(LogFault):
        parse_proof(text.replace(old, new, 1).encode()).verify(leaf, trust)


def test_a_proof_without_one_of_its_hashes_is_refused() -> None:
    lines = good().split("\n")
    with pytest.raises(LogFault):
        parse_proof("\n".join(lines[:2] + lines[3:]).encode()).verify(hash_leaf(b"entry 2"), trust_in(log_keys()))
