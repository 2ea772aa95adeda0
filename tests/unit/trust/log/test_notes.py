"""Signed notes, keys, checkpoints and cosignatures: what is written as specified is read, and nothing else."""

import struct
from base64 import b64encode

import pytest
from tests.doubles_log import ORIGIN, Log, log_keys, seeded, witness_keys

from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.fault import LogFault
from headrace.trust.log.keys import Algorithm, Signer, VerifierKey, cosigned_message, cosigned_text, key_id, parse_vkey
from headrace.trust.log.log_keys import make_log_keys, parse_log_keys, parse_witness_keys
from headrace.trust.log.merkle import EMPTY_ROOT
from headrace.trust.log.note import MAX_SIGNATURES, find_signed, open_note, parse_note

KEYS = log_keys()
ED25519, ML_DSA = KEYS.signers
WITNESS = witness_keys()
TEXT = Checkpoint(ORIGIN, 7, bytes(range(32))).encode()
NOW_S = 1_700_000_000


def line(signer: Signer, text: bytes = TEXT, time_s: int = NOW_S) -> str:
    return signer.sign(text, time_s)


def note_of(*lines: str, text: bytes = TEXT) -> bytes:
    return text + b"\n" + "".join(lines).encode()


@pytest.mark.parametrize("signer", [*KEYS.signers, *WITNESS.signers], ids=lambda one: one.key.algorithm.name)
def test_what_a_key_signs_its_verifier_key_verifies_and_no_other_text(signer: Signer) -> None:
    key = parse_vkey(str(signer.key))
    assert key == signer.key
    (signed,) = open_note(parse_note(note_of(line(signer))), [key])
    assert signed.time_s == (NOW_S if key.is_cosigner else None)
    other = Checkpoint(ORIGIN, 8, bytes(range(32))).encode()
    with pytest.raises(LogFault):
        open_note(parse_note(note_of(line(signer), text=other)), [key])


def test_an_ed25519_cosignature_is_over_the_lines_that_the_specification_prints() -> None:
    """tlog-cosignature, Ed25519 signed message."""
    text = b"example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    assert cosigned_text(text, 1679315147) == b"cosignature/v1\ntime 1679315147\n" + text


def test_an_ml_dsa_cosignature_is_over_the_structure_that_the_specification_prints() -> None:
    """tlog-cosignature, ML-DSA-44 signed message: label, names with their lengths, start 0, end, hash."""
    message = cosigned_message("w/1", Checkpoint("log", 9, bytes(range(32))), 5)
    assert message == b"".join(
        (b"subtree/v1\n\0", b"\3w/1", struct.pack(">Q", 5), b"\3log", struct.pack(">QQ", 0, 9), bytes(range(32)))
    )


def test_the_ids_of_the_printed_examples_of_cosignatures_are_not_ours_and_are_ignored() -> None:
    """tlog-cosignature's own example, whose keys are not printed: unknown keys are ignored, and then nobody signed."""
    note = parse_note(
        "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
        "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE"
        "+xeMcTOAYQ8=\n"
        "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo"
        "0xUe+mbIUBkBIfZ+qnA==\n".encode()
    )
    assert Checkpoint.decode(note.text).size == 20852163
    assert struct.unpack(">Q", note.signatures[1].data[:8]) == (1679315147,)
    assert find_signed(note, KEYS.keys) == ()
    with pytest.raises(LogFault):
        open_note(note, KEYS.keys)


def test_signatures_of_unknown_keys_are_ignored_also_with_a_known_name_or_id() -> None:
    same_name = Signer(ED25519.key.name, Algorithm.ED25519, bytes(32))
    junk = b64encode(b"\1\2\3\4" + bytes(64)).decode()
    same_id = b64encode(ED25519.key.id + bytes(64)).decode()
    lines = (line(same_name), f"— {ORIGIN} {junk}\n", f"— other.example {same_id}\n", line(ED25519))
    assert [one.key for one in open_note(parse_note(note_of(*lines)), KEYS.keys)] == [ED25519.key]


def test_a_signature_under_a_known_name_and_id_that_fails_rejects_the_note() -> None:
    """A collision of both: "all they will get is a signature verification failure"."""
    forged = f"— {ORIGIN} {b64encode(ED25519.key.id + bytes(64)).decode()}\n"
    for lines in ((forged,), (line(ED25519), forged), (forged, line(ED25519)), (line(ML_DSA), forged)):
        with pytest.raises(LogFault):
            open_note(parse_note(note_of(*lines)), KEYS.keys)


def test_two_known_keys_with_one_name_and_id_are_refused() -> None:
    class Collided(VerifierKey):
        @property
        def id(self) -> bytes:  # type: ignore[override]
            return ED25519.key.id

    other = Collided(ORIGIN, Algorithm.ED25519, bytes(32))
    with pytest.raises(LogFault, match="rename"):
        open_note(parse_note(note_of(line(ED25519))), [ED25519.key, other])


def test_as_many_signatures_as_must_be_are_taken_and_too_many_refused() -> None:
    others = [line(Signer(f"w{number}.example", Algorithm.ED25519, bytes(32))) for number in range(MAX_SIGNATURES)]
    assert MAX_SIGNATURES >= 16
    for number in (15, MAX_SIGNATURES - 1):
        assert open_note(parse_note(note_of(*others[:number], line(ED25519))), KEYS.keys)
    with pytest.raises(LogFault, match="signatures"):
        parse_note(note_of(*others, line(ED25519)))


def test_one_signature_that_comes_twice_counts_once() -> None:
    assert len(open_note(parse_note(note_of(line(ED25519), line(ED25519))), KEYS.keys)) == 1


GOOD = note_of(line(ED25519))
_LINE = line(ED25519)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        TEXT,
        TEXT + b"\n",  # no signature line
        GOOD[:-1],  # no newline at the end
        GOOD + b"\n",  # a blank line behind
        GOOD.replace(b"\n", b"\r\n"),  # CRLF
        GOOD.replace(b"\n7\n", b"\n7\r\n"),
        GOOD.replace(b"\n\n", b"\n"),  # no blank line
        GOOD.replace(b"\n7\n", b"\n7\0\n"),
        GOOD.replace(b"\n7\n", b"\n7\t\n"),
        GOOD.replace("— ".encode(), b"- "),
        GOOD.replace("— ".encode(), "—".encode()),
        GOOD.replace("— ".encode(), "—  ".encode()),
        note_of(_LINE.rstrip("\n") + " \n"),
        note_of(f"— {ORIGIN}\n"),
        note_of(f"— {ORIGIN} \n"),
        note_of(f"— {ORIGIN} AAAA\n"),  # shorter than a key id
        note_of(f"— {ORIGIN} {b64encode(b'abcd').decode()}\n"),  # an id and nothing behind
        note_of(f"— a+b {_LINE.split(' ')[2]}"),
        note_of(f"— \u2003x {_LINE.split(' ')[2]}"),
        note_of(f"— {ORIGIN} {_LINE.split(' ')[2].strip().rstrip('=')}\n"),  # no padding
        note_of(_LINE.replace("/", "_").replace("+", "-"))
        if set("/+") & set(_LINE.split(" ")[2])
        else b"",  # base64url
        b"\xff" + GOOD,
        GOOD + b"text behind\n",
        b"x" * ((1 << 20) + 1),
    ],
)
def test_what_is_no_note_is_refused(data: bytes) -> None:
    assert open_note(parse_note(GOOD), KEYS.keys)
    with pytest.raises(LogFault):
        open_note(parse_note(data), KEYS.keys)


def test_base64_that_another_text_would_give_as_well_is_refused() -> None:
    encoded = _LINE.split(" ")[2].strip()
    assert encoded.endswith("=")
    place = encoded.index("=") - 1
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = letters[letters.index(encoded[place]) ^ 1]  # a bit that stands for nothing
    with pytest.raises(LogFault):
        parse_note(note_of(f"— {ORIGIN} {encoded[:place]}{other}{encoded[place + 1 :]}\n"))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n",
        b"log\n7\n",
        b"log\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",  # no newline at the end
        b"\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",  # no origin
        b"log\n07\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",  # a zero in front
        b"log\n00\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        b"log\n+7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        b"log\n-7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        b"log\n7.0\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        b"log\n 7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
        b"log\n9223372036854775808\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",  # 2^63
        "log\n٧\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n".encode(),
        b"log\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n",  # 31 bytes
        b"log\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",  # 33 bytes
        b"log\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n",  # spare bits
        b"log\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n",
        b"log\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\nmore\n",  # an empty line
        b"log\r\n7\r\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n",
        b"log\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nx\x07\n",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: bytes) -> None:
    Checkpoint.decode(b"log\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")
    with pytest.raises(LogFault):
        Checkpoint.decode(text)


def test_extension_lines_are_kept_and_part_of_what_ed25519_signs() -> None:
    text = b"log\n7\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\nextension one\nextension two\n"
    checkpoint = Checkpoint.decode(text)
    assert checkpoint.extensions == ("extension one", "extension two") and checkpoint.encode() == text
    signer = Signer("log", Algorithm.ED25519, bytes(32))
    data = note_of(signer.sign(text, NOW_S), text=text)
    assert open_note(parse_note(data), [signer.key])
    with pytest.raises(LogFault):
        open_note(parse_note(data.replace(b"extension two\n", b"extension 2\n")), [signer.key])


def test_an_empty_tree_has_the_root_of_nothing_or_is_refused() -> None:
    Checkpoint("log", 0, EMPTY_ROOT).check()
    with pytest.raises(LogFault):
        Checkpoint("log", 0, bytes(32)).check()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com/foo",
        "example.com/foo+530d903a",
        "example.com/foo+530d903a+",
        "example.com/foo+530d903b+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",  # another id
        "example.com/bar+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",  # another name
        "example.com/foo+530D903A+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "exa mple+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k",
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U",  # cut
        "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k ",
    ],
)
def test_what_is_no_verifier_key_is_refused(text: str) -> None:
    assert parse_vkey("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
    with pytest.raises(LogFault):
        parse_vkey(text)


def test_a_key_of_an_unknown_type_is_refused_by_its_type() -> None:
    public = b"\x02" + bytes(32)
    name_id = key_id("example.com/foo", 2, public[1:]).hex()
    with pytest.raises(LogFault, match="type 02"):
        parse_vkey(f"example.com/foo+{name_id}+{b64encode(public).decode()}")


def test_keys_come_back_from_their_file_and_a_damaged_one_is_refused() -> None:
    text = make_log_keys(ORIGIN, seeded("file"))
    keys = parse_log_keys(text)
    assert keys.name == ORIGIN and [one.algorithm for one in keys.keys] == [0x01, 0x06]
    assert parse_log_keys(text).keys == keys.keys
    for wrong in (b"", text[:-1], text + text, text.replace(b"PRIVATE", b"PUBLIC"), text.swapcase(), text[40:]):
        with pytest.raises(LogFault):
            parse_log_keys(wrong)
    with pytest.raises(LogFault):
        parse_witness_keys(text)


def test_a_log_signs_with_both_keys_and_either_verifies() -> None:
    log = Log()
    note = log.grow(3)
    assert [one.key.algorithm for one in open_note(note, log.keys.keys)] == [0x01, 0x06]
    for key in log.keys.keys:
        assert open_note(note, [key])[0].key == key


@pytest.mark.parametrize("time_s", [2**63, 2**64 - 1])
def test_a_time_after_the_last_is_refused(time_s: int) -> None:
    signer = WITNESS.signers[0]
    with pytest.raises(LogFault, match="time"):
        open_note(parse_note(note_of(line(signer, time_s=time_s))), [signer.key])
