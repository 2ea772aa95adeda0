"""That an entry is logged, in a text that is verified offline: C2SP tlog-proof. Written, read and verified.

Knows no files.
"""

from base64 import b64encode
from dataclasses import dataclass
from typing import Final

from headrace.trust.log.checkpoint import parse_hash, parse_size
from headrace.trust.log.fault import LogFault
from headrace.trust.log.keys import decode_base64
from headrace.trust.log.merkle import verify_inclusion
from headrace.trust.log.note import Note, parse_note
from headrace.trust.log.trust_file import Opened, TrustFile

FIRST_LINE: Final = "c2sp.org/tlog-proof@v1"
MAX_HASHES: Final = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class LogProof:
    """`hashes` lead from the entry of `index` to the root in `checkpoint`; `extra` is authenticated by nothing."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: Note
    extra: bytes = b""

    def encode(self) -> bytes:
        """tlog-proof, Format."""
        lines = [
            FIRST_LINE,
            *([f"extra {b64encode(self.extra).decode()}"] if self.extra else []),
            f"index {self.index}",
        ]
        lines += [b64encode(one).decode() for one in self.hashes]
        return "".join(f"{line}\n" for line in lines).encode() + b"\n" + self.checkpoint.encode()

    def verify(self, leaf: bytes, trust: TrustFile) -> Opened:
        """tlog-proof, Verifying a tlog proof: `leaf` is the hash of the entry (step 1). Raises LogFault."""
        # 2. Check that the origin is acceptable, and that the checkpoint is signed by a log public key configured for
        #    it. 3. Verify all cosignatures for witnesses known to the verifier.
        opened = trust.open_checkpoint(self.checkpoint)
        # 4. Check that the inclusion proof is valid, to bind the leaf hash to the root of the signed checkpoint.
        verify_inclusion(self.index, opened.checkpoint.size, leaf, self.hashes, opened.checkpoint.root)
        return opened


def parse_proof(data: bytes) -> LogProof:
    """A proof from its text, nothing of it verified. Raises LogFault."""
    head, blank, checkpoint = data.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise LogFault("the lines of a log proof are not ASCII.") from error
    if not blank or lines.pop(0) != FIRST_LINE:
        raise LogFault(f"a log proof begins with {FIRST_LINE!r} and has a blank line before its checkpoint.")
    extra = b""
    if lines and lines[0].startswith("extra "):
        extra = decode_base64(lines.pop(0).removeprefix("extra "), "the extra data")
        if not extra:
            raise LogFault("the extra line of a log proof is empty; without extra data there is none.")
    if not lines or not lines[0].startswith("index "):
        raise LogFault("a log proof has a line `index NUMBER` before its hashes.")
    index = parse_size(lines.pop(0).removeprefix("index "), "the index of a log proof")
    if len(lines) > MAX_HASHES:
        raise LogFault(f"a log proof has {len(lines)} hashes; no tree needs more than {MAX_HASHES}.")
    hashes = tuple(parse_hash(line, "a hash of a log proof") for line in lines)
    return LogProof(index=index, hashes=hashes, checkpoint=parse_note(checkpoint), extra=extra)
