"""Fuzz what is read of a transparency log: notes, checkpoints, proofs, trust files, bundles, keys, and what is posted
to a witness. What is taken must come back as it was written: one text for one value.
"""

from base64 import b64encode
from collections.abc import Callable

from fuzz.target import Check, Target, check_refusal

from headrace.core.errors import HeadraceError
from headrace.trust.log.checkpoint import Checkpoint
from headrace.trust.log.keys import Algorithm, Signer, parse_vkey
from headrace.trust.log.log_keys import make_log_keys, parse_log_keys
from headrace.trust.log.merkle import hash_leaf
from headrace.trust.log.note import parse_note
from headrace.trust.log.proof import LogProof, parse_proof
from headrace.trust.log.tiles import Tile, decode_bundle, encode_bundle, parse_path
from headrace.trust.log.trust_file import parse_trust_file
from headrace.trust.log.witness import Request, parse_request

_KEYS = parse_log_keys(make_log_keys("example.com/log", lambda number: bytes(range(number))))
_WITNESS = Signer("w.example/1", Algorithm.COSIGNATURE_ED25519, bytes(32))
_ENTRIES = [b"one", b"", b"three" * 20]
_HASHES = tuple(hash_leaf(one) for one in _ENTRIES)
_TEXT = Checkpoint("example.com/log", 3, bytes(range(32))).encode()
_NOTE = _TEXT + b"\n" + "".join(one.sign(_TEXT, 1_700_000_000) for one in (_KEYS.signers[0], _WITNESS)).encode()
_PROOF = LogProof(index=1, hashes=_HASHES[:2], checkpoint=parse_note(_NOTE), extra=b"extra").encode()
_TRUST = f"""log {_KEYS.keys[0]} https://example.com/log
witness w1 {_WITNESS.key}
group all-of-them all w1
node edge {_KEYS.keys[0]}
# said by hand
quorum all-of-them
"""


def _exact(decode: Callable[[bytes], bytes]) -> Check:
    """The check of a reader that gives back what its value is written as."""

    def check(data: bytes) -> bool:
        try:
            written = decode(data)
        except HeadraceError as error:
            check_refusal(error)
            return False
        assert written == data, written
        return True

    return check


def _trust_file(data: bytes) -> bool:
    try:
        read = parse_trust_file(data)
    except HeadraceError as error:
        check_refusal(error)
        return False
    assert parse_trust_file(read.encode().encode("utf-8", "surrogateescape")) == read
    return True


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _path(data: bytes) -> bool:
    tile = parse_path(_text(data))
    assert tile is None or (tile.path == _text(data) and ".." not in tile.path)
    return tile is not None


TARGETS = [
    Target("log note", [_NOTE], _exact(lambda data: parse_note(data).encode())),
    Target("log checkpoint", [_TEXT, _TEXT + b"more\n"], _exact(lambda data: Checkpoint.decode(data).encode())),
    Target("log proof", [_PROOF, _PROOF.replace(b"extra ZXh0cmE=\n", b"")], _exact(lambda d: parse_proof(d).encode())),
    Target("log key", [str(_WITNESS.key).encode()], _exact(lambda data: str(parse_vkey(_text(data))).encode())),
    Target("log trust file", [_TRUST.encode(), b"quorum none\n"], _trust_file),
    Target(
        "log bundle",
        [encode_bundle(_ENTRIES)],
        _exact(lambda data: encode_bundle(decode_bundle(data, Tile(None, 0, len(_ENTRIES))))),
    ),
    Target(
        "log path",
        [b"tile/0/x001/x234/067", b"tile/entries/000.p/255", b"tile/63/999", b64encode(bytes(8))],
        _path,
        num_refused=1,
    ),
    Target(
        "witness request",
        [Request(2, _HASHES, parse_note(_NOTE)).encode(), Request(0, (), parse_note(_NOTE)).encode()],
        _exact(lambda data: parse_request(data).encode()),
    ),
]
