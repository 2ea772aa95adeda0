"""The vectors of others, every case: Merkle proofs, Tessera's test log, Wycheproof's signatures, the printed note."""

import json
from base64 import b64decode
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
from tests.vectors import vectors

from headrace.trust.log.audit import audit
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.fault import LogFault
from headrace.trust.log.keys import parse_vkey
from headrace.trust.log.merkle import verify_consistency, verify_inclusion
from headrace.trust.log.note import open_note, parse_note
from headrace.trust.log.tree import Tree

TESSERA_VKEY = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"
# Cases whose answer is not ours, and why.
EXCEPTIONS = {
    "sizes-are-equal-one-and-proof-is-empty.json": "two equal roots of 12 bytes: we take no hash that is not SHA-256's",
}


def cases(folder: str) -> list[Path]:
    return sorted((vectors("merkle") / folder).rglob("*.json"))


def hashes(value: list[str] | None) -> list[bytes]:
    return [b64decode(one) for one in value or []]


def is_taken(case: dict[str, object]) -> bool:
    proof = hashes(case["proof"])  # type: ignore[arg-type]
    try:
        if "leafIdx" in case:
            leaf, root = b64decode(str(case["leafHash"] or "")), b64decode(str(case["root"] or ""))
            verify_inclusion(int(str(case["leafIdx"])), int(str(case["treeSize"])), leaf, proof, root)
        else:
            first, second = b64decode(str(case["root1"] or "")), b64decode(str(case["root2"] or ""))
            verify_consistency(int(str(case["size1"])), int(str(case["size2"])), proof, first, second)
    except LogFault:
        return False
    return True


@pytest.mark.parametrize("folder", ["inclusion", "consistency"])
def test_every_merkle_case_is_judged_as_its_authors_say(folder: str) -> None:
    wrong = []
    for path in cases(folder):
        case = json.loads(path.read_text("utf-8"))
        if is_taken(case) is case["wantErr"] and path.name not in EXCEPTIONS:
            wrong.append(path.name)
    assert wrong == []


def test_there_are_196_merkle_cases_and_the_exceptions_are_some_of_them() -> None:
    paths = cases("inclusion") + cases("consistency")
    assert len(paths) == 196
    for name in EXCEPTIONS:
        (path,) = (path for path in paths if path.name == name)
        assert not is_taken(json.loads(path.read_text("utf-8")))


class Folder:
    """A log's files on disk."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str) -> bytes | None:
        found = self._folder / path
        return found.read_bytes() if found.is_file() else None


def test_tesseras_log_has_the_root_of_each_of_its_16_checkpoints() -> None:
    folder = vectors("tessera")
    names = ["checkpoint", *(f"checkpoint.{size}" for size in range(16) if size != 15), "checkpoint.15"]
    assert len(names) == 17  # the one without a number is a copy of the last
    key = parse_vkey(TESSERA_VKEY)
    last: Checkpoint | None = None
    for name in names[1:]:
        note = parse_note((folder / name).read_bytes())
        assert [one.key for one in open_note(note, [key])] == [key]
        checkpoint = Checkpoint.decode(note.text)
        report = audit(Folder(folder), checkpoint)
        assert report.is_clean, report.findings
        assert last is None or checkpoint.size == last.size + 1
        last = checkpoint
    assert last is not None and last.size == 15


def test_our_writer_makes_the_files_of_tesseras_log_from_its_entries() -> None:
    folder = vectors("tessera")
    tree, entries = Tree(), []
    for size in range(1, 16):
        bundle = (folder / f"tile/entries/000.p/{size}").read_bytes()
        entries.append(bundle[sum(2 + len(one) for one in entries) + 2 :])
        for tile, data in tree.append([entries[-1]]):
            assert (folder / tile.path).read_bytes() == data
    assert entries[0] == b"one"


def test_the_printed_example_of_a_signed_note_verifies() -> None:
    """C2SP signed-note, Verifier keys, Example."""
    key = parse_vkey("example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k")
    line = (
        "— example.com/foo Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM="
    )
    note = parse_note(f"This is an example message.\n\n{line}\n".encode())
    assert open_note(note, [key])[0].key == key
    with pytest.raises(LogFault):
        open_note(parse_note(f"This is an example message!\n\n{line}\n".encode()), [key])


def test_every_ed25519_case_of_wycheproof_is_judged_as_its_authors_say() -> None:
    document = json.loads((vectors("wycheproof") / "ed25519_test.json").read_text("utf-8"))
    seen, wrong = 0, []
    for group in document["testGroups"]:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(group["publicKey"]["pk"]))
        for case in group["tests"]:
            seen += 1
            try:
                key.verify(bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]))
                taken = True
            except InvalidSignature:
                taken = False
            if taken is not (case["result"] == "valid"):
                wrong.append(case["tcId"])
    assert (seen, wrong) == (document["numberOfTests"], [])


def test_every_ml_dsa_44_case_of_wycheproof_is_judged_as_its_authors_say() -> None:
    document = json.loads((vectors("wycheproof") / "mldsa_44_verify_test.json").read_text("utf-8"))
    seen, wrong = 0, []
    for group in document["testGroups"]:
        for case in group["tests"]:
            seen += 1
            if takes_ml_dsa(group["publicKey"], case) is not (case["result"] == "valid"):
                wrong.append(case["tcId"])
    assert (seen, wrong) == (document["numberOfTests"], [])


def takes_ml_dsa(public: str, case: dict[str, str]) -> bool:
    try:
        key = MLDSA44PublicKey.from_public_bytes(bytes.fromhex(public))
        context = bytes.fromhex(case["ctx"]) if "ctx" in case else None
        key.verify(bytes.fromhex(case["sig"]), bytes.fromhex(case["msg"]), context)
    except (InvalidSignature, ValueError):
        return False
    return True
