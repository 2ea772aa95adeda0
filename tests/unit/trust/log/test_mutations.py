"""Any one byte of a tile, a bundle, a checkpoint or a proof changed: somebody who verifies notices. 8,000 changes."""

import random
from collections.abc import Callable

import pytest
from tests.doubles_log import Files, Log, trust_in, witness_keys

from headrace.trust.log.audit import audit
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.fault import LogFault
from headrace.trust.log.merkle import hash_leaf, hash_perfect
from headrace.trust.log.note import parse_note
from headrace.trust.log.proof import LogProof, parse_proof
from headrace.trust.log.reading import Reader
from headrace.trust.log.tiles import Tile, decode_bundle, decode_hashes
from headrace.trust.log.trust_file import Known, TrustFile

SIZE = 600
NUM_CHANGES = 2000


def changed(data: bytes, chance: random.Random) -> bytes:
    """One byte of it is another."""
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ chance.randrange(1, 256)]) + data[at + 1 :]


def refused(verify: Callable[[bytes], object], data: bytes, seed: int) -> int:
    """How many of the changes are."""
    chance, count = random.Random(seed), 0
    for _ in range(NUM_CHANGES):
        try:
            verify(changed(data, chance))
        except LogFault:
            count += 1
    return count


@pytest.fixture(scope="module")
def log() -> Log:
    """A log of 600 entries, cosigned by a witness."""
    made = Log()
    made.grow(SIZE)
    return made


@pytest.fixture(scope="module")
def trust(log: Log) -> TrustFile:
    keys = witness_keys().keys
    witnesses = tuple(Known(f"w{at}", key) for at, key in enumerate(keys))
    return TrustFile(logs=trust_in(log.keys).logs, witnesses=witnesses, quorum="w0")


def cosigned(log: Log) -> bytes:
    note = log.note()
    lines = "".join(one.sign(note.text, 1_700_000_000) for one in witness_keys().signers)
    return note.encode() + lines.encode()


def test_every_change_of_a_checkpoint_is_noticed(log: Log, trust: TrustFile) -> None:
    data = cosigned(log)
    trust.open_checkpoint(data)

    def verify(changed_data: bytes) -> None:
        # A change in the name or id of a line makes it an unknown key's, which verifiers must ignore: then what is
        # left must be less than what was there.
        opened = trust.open_checkpoint(changed_data)
        note = parse_note(changed_data)
        assert opened.checkpoint == log.checkpoint and note.text == parse_note(data).text
        known = {(one.key.name, one.key.id) for one in (*trust.logs, *trust.witnesses)}
        if not {(one.name, one.key_id) for one in note.signatures} >= known:
            raise LogFault("a line is not there any more")

    assert refused(verify, data, 1) == NUM_CHANGES


def test_every_change_of_a_proof_is_noticed(log: Log, trust: TrustFile) -> None:
    index = 321
    hashes = tuple(Reader(log.files, SIZE).inclusion(index))
    data = LogProof(index=index, hashes=hashes, checkpoint=parse_note(cosigned(log))).encode()
    leaf = hash_leaf(b"entry 321")
    parse_proof(data).verify(leaf, trust)

    def verify(changed_data: bytes) -> None:
        proof = parse_proof(changed_data)
        proof.verify(leaf, trust)
        known = {(one.key.name, one.key.id) for one in (*trust.logs, *trust.witnesses)}
        if not {(one.name, one.key_id) for one in proof.checkpoint.signatures} >= known:
            raise LogFault("a line is not there any more")

    assert refused(verify, data, 2) == NUM_CHANGES


@pytest.mark.parametrize(
    "path", ["tile/0/000", "tile/0/002.p/88", "tile/1/000.p/2", "tile/entries/001", "tile/entries/002.p/88"]
)
def test_every_change_of_a_tile_or_a_bundle_is_noticed_and_placed(log: Log, path: str) -> None:
    data, chance = log.files[path], random.Random(path)
    assert audit(log.files, log.checkpoint).is_clean
    for _ in range(60):
        files = Files(log.files)
        files[path] = changed(data, chance)
        report = audit(files, log.checkpoint)
        assert not report.is_clean
        # A bundle's entries that still can be read are found in the tile above them, at their index.
        level_0 = path.replace("entries", "0")
        assert any(path in str(one) or level_0 in str(one) for one in report.findings)


def test_every_change_of_a_tile_is_noticed_by_who_knows_the_hash_above_it(log: Log) -> None:
    above = Reader(log.files, SIZE).hashes(Tile(1, 0, 2))[0]

    def verify(data: bytes) -> None:
        if hash_perfect(decode_hashes(data, Tile(0, 0))) != above:
            raise LogFault("the tile does not hash to the one above")

    verify(log.files["tile/0/000"])
    assert refused(verify, log.files["tile/0/000"], 3) == NUM_CHANGES


def test_every_change_of_a_bundle_is_noticed_by_who_has_the_tile_of_its_leaves(log: Log) -> None:
    leaves = Reader(log.files, SIZE).hashes(Tile(0, 1))

    def verify(data: bytes) -> None:
        if [hash_leaf(one) for one in decode_bundle(data, Tile(None, 1))] != leaves:
            raise LogFault("an entry is not the one of its leaf")

    verify(log.files["tile/entries/001"])
    assert refused(verify, log.files["tile/entries/001"], 4) == NUM_CHANGES


def test_a_checkpoint_that_verifies_is_the_one_that_was_signed(log: Log, trust: TrustFile) -> None:
    assert trust.open_checkpoint(cosigned(log)).checkpoint == Checkpoint(log.keys.name, SIZE, log.tree.root())
