"""Signed notes (C2SP signed-note): a text, a blank line, signature lines. Parsed strictly; opened with known keys.

What is in a text is not known here. It must be ignored unless `open_note` found a signature of a trusted key.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from headrace.trust.log.fault import LogFault
from headrace.trust.log.key_name import is_key_name
from headrace.trust.log.keys import ID_BYTES, VerifierKey, decode_base64

MAX_SIGNATURES: Final = 32
"""The specification wants at least 16 accepted; a log and its witnesses may have two lines each."""
MAX_NOTE_BYTES: Final = 1 << 20
_DASH: Final = "— "


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line. `key_id` are the four bytes before the signature itself; `line` is all of it, with its
    newline."""

    name: str
    key_id: bytes
    data: bytes
    line: str


@dataclass(frozen=True, slots=True)
class Note:
    """`text` ends with a newline, as it was signed."""

    text: bytes
    signatures: tuple[Signature, ...]

    def encode(self) -> bytes:
        """As it was parsed."""
        return self.text + b"\n" + "".join(one.line for one in self.signatures).encode()


@dataclass(frozen=True, slots=True)
class Signed:
    """A key whose signature fits. `time_s` is what a cosignature says, Unix seconds; None of a plain signature."""

    key: VerifierKey
    time_s: int | None


def parse_note(data: bytes) -> Note:
    """A note from its bytes, nothing of it verified. Raises LogFault."""
    if len(data) > MAX_NOTE_BYTES:
        raise LogFault(f"a note has {len(data)} bytes; at most {MAX_NOTE_BYTES} are read.")
    try:
        whole = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LogFault("a note is not UTF-8.") from error
    if any(one < " " and one != "\n" for one in whole):
        raise LogFault("a note has a control character, perhaps a carriage return; only newlines may be there.")
    # "the text is separated from the signatures by the last empty line in the note"
    text, blank, tail = whole.rpartition("\n\n")
    if not blank or not tail.endswith("\n"):
        raise LogFault("a note ends with a blank line and signature lines; this one does not.")
    lines = tail.split("\n")[:-1]
    if len(lines) > MAX_SIGNATURES:
        raise LogFault(f"a note has {len(lines)} signatures; at most {MAX_SIGNATURES} are read.")
    return Note(f"{text}\n".encode(), tuple(map(parse_signature, lines)))


def parse_signature(line: str) -> Signature:
    """A signature line without its newline. Raises LogFault."""
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not is_key_name(name):
        raise LogFault(f"{line[:60]!r} is no signature line; one reads — NAME BASE64.")
    data = decode_base64(encoded, f"the signature of {name}")
    if len(data) <= ID_BYTES:
        raise LogFault(f"the signature of {name} has {len(data)} bytes; the key's id alone has {ID_BYTES}.")
    return Signature(name, data[:ID_BYTES], data[ID_BYTES:], f"{line}\n")


def open_note(note: Note, keys: Iterable[VerifierKey]) -> tuple[Signed, ...]:
    """Who of the known keys signed, in the order of the lines; a key that comes twice counts once. Raises LogFault if
    the signature of a known key does not verify, or if none of them signed."""
    # "Verifiers MUST ignore signatures from unknown keys, even if they share a name or ID (but not both)". Two known
    # keys with both in common: at least one of them would not verify, so they are refused together.
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.id), key) != key:
            raise LogFault(f"two known keys are called {key.name} and have the id {key.id.hex()}; rename one.")
    signed: dict[tuple[str, bytes], Signed] = {}
    for signature in note.signatures:
        place = signature.name, signature.key_id
        if (found := known.get(place)) is not None:
            # "If the key name and ID match a known key, verifiers MUST verify the signature": each time it comes.
            time_s = found.verify(note.text, signature.data)
            signed.setdefault(place, Signed(found, time_s))
    if not signed:
        raise LogFault("no key that is known signed this note.")
    return tuple(signed.values())


def find_signed(note: Note, keys: Iterable[VerifierKey]) -> tuple[Signed, ...]:
    """As `open_note`, but none is an answer, too."""
    known = list(keys)
    places = {(one.name, one.key_id) for one in note.signatures}
    return open_note(note, known) if any((key.name, key.id) in places for key in known) else ()
