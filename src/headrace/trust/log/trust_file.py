"""Whom a verifier trusts: C2SP tlog-policy, a text of lines `log`, `witness`, `group` and `quorum`.

Two kinds of lines are ours, which `trust/records` reads: `node NAME VKEY`, a key whose statements certify the keys of
records, and `revoked KEYID UNIX_S`, one of these that is not believed from a time on. A file that others' programs
shall read has neither. A checkpoint is valid if one of the logs signed it, and the quorum of witnesses cosigned it.
Knows no files.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from headrace.trust.log.checkpoint import Checkpoint, parse_size
from headrace.trust.log.fault import LogFault
from headrace.trust.log.keys import Algorithm, VerifierKey, parse_vkey
from headrace.trust.log.note import Note, find_signed, open_note, parse_note
from headrace.trust.log.settings import LogSettings

NONE: Final = "none"
MAX_FILE_BYTES: Final = 1 << 20
_COSIGNERS: Final = (Algorithm.COSIGNATURE_ED25519, Algorithm.COSIGNATURE_ML_DSA_44)
_KEY_ID: Final = re.compile(r"[0-9a-f]{64}")
_VKEY: Final = re.compile(r"[^+\s]+\+[0-9a-f]{8}\+[A-Za-z0-9+/]+=*")
_LOGS: Final = (Algorithm.ED25519, Algorithm.COSIGNATURE_ML_DSA_44)


@dataclass(frozen=True, slots=True)
class Known:
    """A log or a witness. `name` is what the file calls it; of a log its origin."""

    name: str
    key: VerifierKey
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """A node that certifies keys of records. `vkey` is its key as it is written, of whatever kind."""

    name: str
    vkey: str


@dataclass(frozen=True, slots=True)
class Group:
    """Witnesses or groups of which `needed` must have cosigned."""

    name: str
    needed: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A checkpoint that a policy holds valid. `witnesses` are those that cosigned, by their names in the file, with
    their times in Unix seconds; `is_witnessed`: there is a quorum, and it is reached."""

    checkpoint: Checkpoint
    log: Known
    witnesses: Mapping[str, int]
    is_witnessed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustFile:
    """See above. `quorum` is a witness, a group, or none; `revoked` are record keys by their ids, with the time from
    which they are not believed."""

    logs: tuple[Known, ...] = ()
    witnesses: tuple[Known, ...] = ()
    groups: tuple[Group, ...] = ()
    quorum: str = NONE
    nodes: tuple[Node, ...] = ()
    revoked: Mapping[str, int] = field(default_factory=dict)

    def open_checkpoint(self, note: Note | bytes) -> Opened:
        """A checkpoint that is valid by this policy. Raises LogFault, with what it lacks."""
        note = parse_note(note) if isinstance(note, bytes) else note
        checkpoint = Checkpoint.decode(note.text)
        checkpoint.check()
        logs = [one for one in self.logs if one.key.name == checkpoint.origin]
        if not logs:
            known = ", ".join(sorted({one.key.name for one in self.logs})) or "none"
            raise LogFault(f"the log {checkpoint.origin!r} is not trusted; trusted: {known}.", param="log")
        signed = open_note(note, [one.key for one in logs])
        cosigned = find_signed(note, [one.key for one in self.witnesses])
        names = {one.key: one.name for one in self.witnesses}
        times = {names[one.key]: one.time_s or 0 for one in cosigned}
        if not self._is_reached(times):
            raise LogFault(
                f"the checkpoint of size {checkpoint.size} is cosigned by "
                f"{shown(', '.join(sorted(times))) or 'nobody'}, and the quorum {shown(self.quorum)} wants more.",
                param="quorum",
            )
        log = next(one for one in logs if one.key == signed[0].key)
        return Opened(checkpoint=checkpoint, log=log, witnesses=times, is_witnessed=self.quorum != NONE)

    def _is_reached(self, cosigned: Mapping[str, int]) -> bool:
        if self.quorum == NONE:
            return True
        reached = set(cosigned)
        for group in self.groups:  # a member stands before its group
            if sum(one in reached for one in group.members) >= group.needed:
                reached.add(group.name)
        return self.quorum in reached

    def encode(self) -> str:
        """The file's text."""
        lines = [f"log {one.key}{_url(one)}" for one in self.logs]
        lines += [f"node {one.name} {one.vkey}" for one in self.nodes]
        lines += [f"revoked {key_id} {from_s}" for key_id, from_s in self.revoked.items()]
        lines += [f"witness {one.name} {one.key}{_url(one)}" for one in self.witnesses]
        lines += [f"group {one.name} {one.needed} {' '.join(one.members)}" for one in self.groups]
        return "".join(f"{line}\n" for line in (*lines, f"quorum {self.quorum}"))


@dataclass(slots=True)
class _Parser:
    """What was read so far. Each `_read` takes the words of a line behind the first."""

    logs: list[Known] = field(default_factory=list)
    witnesses: list[Known] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    revoked: dict[str, int] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    quorum: str | None = None
    named: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)

    def log(self, vkey: str, url: str | None = None) -> None:
        """log <vkey> [<url>]"""
        key = parse_vkey(vkey)
        self._add(self.logs, Known(key.name, key, url), _LOGS)

    def witness(self, name: str, vkey: str, url: str | None = None) -> None:
        """witness <name> <vkey> [<url>]"""
        self._name(name)
        self._add(self.witnesses, Known(name, parse_vkey(vkey), url), _COSIGNERS)

    def node(self, name: str, vkey: str) -> None:
        """node <name> <vkey>, ours"""
        if Node(name, vkey) in self.nodes:
            raise LogFault(f"the node {name} is there twice with one key.")
        if not _VKEY.fullmatch(vkey):
            raise LogFault(f"{vkey[:100]!r} is no verifier key; one reads NAME+8 hex digits+base64.")
        self.nodes.append(Node(name, vkey))

    def revoke(self, key_id: str, from_s: str) -> None:
        """revoked <key id> <Unix seconds>, ours"""
        if not _KEY_ID.fullmatch(key_id):
            raise LogFault(f"{key_id[:100]!r} is no id of a record key; it has 64 lower-case hexadecimal digits.")
        if key_id in self.revoked:
            raise LogFault(f"the key {key_id} is revoked twice.")
        self.revoked[key_id] = parse_size(from_s, "the time of a revocation")

    def group(self, name: str, needed: str, *members: str) -> None:
        """group <name> all|any|<k> <name>..."""
        if not members:
            raise LogFault(f"the group {name} has no members.")
        for member in members:
            if member not in self.named:
                raise LogFault(f"the member {member} of {name} is not defined on a line before.")
            if member in self.members:
                raise LogFault(f"{member} is a member twice; each name may be one once.")
            self.members.add(member)
        count = {"any": 1, "all": len(members)}.get(needed)
        if count is None:
            count = int(needed) if needed.isascii() and needed.isdecimal() and len(needed) < 9 else 0
        if not 1 <= count <= len(members):
            raise LogFault(f"the group {name} needs {needed!r}; write all, any, or a number from 1 to {len(members)}.")
        self._name(name)
        self.groups.append(Group(name, count, members))

    def set_quorum(self, name: str) -> None:
        """quorum <name>"""
        if self.quorum is not None:
            raise LogFault("there are two quorum lines; there must be one.")
        if name != NONE and name not in self.named:
            raise LogFault(f"the quorum {name} is not defined on a line before.")
        self.quorum = name

    def _name(self, name: str) -> None:
        if name == NONE or name in self.named:
            raise LogFault(f"{name} is defined already.")
        self.named.add(name)

    def _add(self, known: list[Known], one: Known, algorithms: Iterable[Algorithm]) -> None:
        if one.key.algorithm not in algorithms:
            raise LogFault(f"the key of {one.name} is of type {one.key.algorithm:#04x}, which does not serve here.")
        if any(other.key.material == one.key.material for other in known):
            raise LogFault(f"the key of {one.name} is there twice.")
        known.append(one)


def parse_trust_file(data: bytes) -> TrustFile:
    """A trust file from its bytes. Raises LogFault with the line."""
    if len(data) > MAX_FILE_BYTES:
        raise LogFault(f"a trust file has {len(data)} bytes; at most {MAX_FILE_BYTES} are read.")
    # "names must be handled as opaque octet strings": octets that are no UTF-8 come through as they are.
    text = data.decode("utf-8", "surrogateescape")
    parser = _Parser()
    readers: Mapping[str, tuple[Callable[..., None], int, int | None]] = {
        "log": (parser.log, 1, 2),
        "witness": (parser.witness, 2, 3),
        "node": (parser.node, 2, 2),
        "revoked": (parser.revoke, 2, 2),
        "group": (parser.group, 3, None),
        "quorum": (parser.set_quorum, 1, 1),
    }
    for number, line in enumerate(text.split("\n"), 1):
        if any((one < " " and one != "\t") or one == "\x7f" for one in line):
            raise LogFault(f"line {number}: a control character, perhaps a carriage return; write plain lines.")
        words = [word for word in line.replace("\t", " ").split(" ") if word]
        if not words or words[0].startswith("#"):
            continue
        reader = readers.get(words[0])
        if reader is None:
            known = ", ".join(readers)
            raise LogFault(f"line {number}: {words[0][:100]!a} is no word of a trust file; known are {known}.")
        read, least, most = reader
        if len(words) - 1 < least or (most is not None and len(words) - 1 > most):
            raise LogFault(f"line {number}: {words[0]} has {len(words) - 1} words behind it: {read.__doc__}.")
        try:
            read(*words[1:])
        except LogFault as error:
            raise LogFault(f"line {number}: {shown(str(error))}", param=words[0]) from error
    if parser.quorum is None:
        raise LogFault("there is no quorum line; write `quorum none` if no witness is needed.", param="quorum")
    return TrustFile(
        logs=tuple(parser.logs),
        witnesses=tuple(parser.witnesses),
        groups=tuple(parser.groups),
        quorum=parser.quorum,
        nodes=tuple(parser.nodes),
        revoked=parser.revoked,
    )


def shown(name: str) -> str:
    """A name, or a text with one, to be printed: octets that are no UTF-8 as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def witness_policy(settings: LogSettings) -> tuple[tuple[Known, ...], tuple[Group, ...], str]:
    """The witnesses, groups and quorum that a trust file says for a log with these settings. Raises LogFault."""
    known = tuple(Known(one.name, parse_vkey(one.vkey), one.url) for one in settings.witnesses)
    if settings.quorum == 0:
        return known, (), NONE
    name = "quorum"
    while any(one.name == name for one in known):
        name += "-of-witnesses"
    return known, (Group(name, settings.quorum, tuple(one.name for one in known)),), name


def _url(one: Known) -> str:
    return "" if one.url is None else f" {one.url}"
