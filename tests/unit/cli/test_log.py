"""`headrace log` and `headrace witness`: what is shown, proved, mirrored and found to be wrong, as a user types it."""

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from headrace.cli.config import compose
from headrace.cli.log import make_writer, read_log_keys
from headrace.cli.main import app
from headrace.core.errors import InvalidRequest, Unavailable
from headrace.core.provenance import LogItem
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.memory.key_files import read_or_make
from headrace.models.store import Layout
from headrace.trust.log.log_keys import parse_witness_keys
from headrace.trust.log.merkle import hash_leaf
from headrace.trust.log.proof import parse_proof
from headrace.trust.log.settings import LogSettings
from headrace.trust.log.trust_file import parse_trust_file
from headrace.trust.records.commitment import entry_of
from headrace.trust.records.keys import SPKI_ED25519, DelegationGrant, RecordKey, sign_by_node
from headrace.trust.records.node_key import NodeKey

NOW_S = 1_700_000_000


class Node:
    """A node's key, as `trust/records/keys.py` wants it."""

    def __init__(self) -> None:
        self.key = RecordKey(b"node" * 8)

    @property
    def spki(self) -> bytes:
        return SPKI_ED25519 + self.key.public

    def sign(self, message: bytes) -> bytes:
        return self.key._private.sign(message)


NODE, SIGNER = Node(), RecordKey(b"proc" * 8)
GRANT = DelegationGrant(
    node="edge", instance="ins_1", public=SIGNER.public, not_before_s=NOW_S, not_after_s=NOW_S + 3600
)


def record(number: int) -> LogItem:
    envelope = SIGNER.sign(b'{"number":%d}' % number)
    return logged(f"rec_{number}", "record", envelope)


def logged(item_id: str, kind: str, envelope: bytes) -> LogItem:
    entry = entry_of(kind, envelope, NOW_S).encode()
    return LogItem(id=item_id, kind=kind, tenant="acme", entry=entry, envelope=envelope, secrets=b"nonce")


def grow(home: Path, start: int, stop: int) -> None:
    """A log of a delegation and of records."""
    layout, settings = Layout(home), LogSettings(origin="example.com/answers")
    home.mkdir(exist_ok=True)
    writer = make_writer(settings, layout, read_log_keys(settings, layout))
    writer.open()
    if start == 0:
        writer.take([logged("del_1", "delegation", sign_by_node(NODE, GRANT.encode()))])
    writer.take([record(number) for number in range(start, stop)])
    writer.publish()
    writer.close()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    home = tmp_path / "home"
    grow(home, 0, 700)
    return home


def say(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def done(*words: str) -> str:
    result = say(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def trust_file(home: Path, tmp_path: Path) -> Path:
    path = tmp_path / "trust"
    node = NodeKey("edge", NODE.spki).encode()
    path.write_text(done("log", "trust-file", "--home", str(home)) + f"node edge {node}\n")
    return path


def test_the_newest_checkpoint_is_shown_and_verified_if_a_trust_file_is_given(home: Path, tmp_path: Path) -> None:
    shown = done("log", "show", "--home", str(home))
    assert "example.com/answers" in shown and "701" in shown and "Nothing of this was verified" in shown
    trust = trust_file(home, tmp_path)
    assert "The signatures hold" in done("log", "show", "--home", str(home), "--trust", str(trust))
    told = json.loads(done("log", "show", str(home / "log"), "--trust", str(trust), "--json"))
    assert told["size"] == 701 and told["is_trusted"] and len(told["signatures"]) == 2


def test_a_checkpoint_that_the_trust_file_does_not_name_is_refused(home: Path, tmp_path: Path) -> None:
    trust = tmp_path / "other"
    trust.write_text("log example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k\nquorum none\n")
    result = say("log", "show", "--home", str(home), "--trust", str(trust))
    assert result.exit_code == 1 and "not trusted" in result.output


def test_the_trust_file_says_what_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys = done("witness", "key", str(tmp_path / "w"), "--name", "w.example/1").split()
    (tmp_path / "headrace.toml").write_text(
        f'home = "{tmp_path / "home"}"\n[log]\norigin = "example.com/mine"\nquorum = 1\n'
        f'[[log.witnesses]]\nname = "w1"\nurl = "http://127.0.0.1:8009"\nvkey = "{keys[0]}"\n'
    )
    trust = parse_trust_file(done("log", "trust-file").encode())
    assert [one.name for one in trust.logs] == ["example.com/mine"] * 2
    assert (trust.quorum, trust.groups[0].needed, trust.witnesses[0].url) == ("quorum", 1, "http://127.0.0.1:8009")


def test_a_proof_of_an_id_and_of_an_index_verify_offline(home: Path, tmp_path: Path) -> None:
    trust = parse_trust_file(trust_file(home, tmp_path).read_bytes())
    for words in (("rec_41", "--home", str(home)), ("42", str(home / "log"))):
        proof = parse_proof(done("log", "prove", *words).encode())
        assert proof.index == 42
        assert proof.verify(hash_leaf(record(41).entry), trust).checkpoint.size == 701
    for words in (("rec_9999", "--home", str(home)), ("701", str(home / "log")), ("rec_1", str(home / "log"))):
        assert say("log", "prove", *words).exit_code == 1


def test_an_audit_of_a_whole_log_passes_with_every_signature(home: Path, tmp_path: Path) -> None:
    trust = str(trust_file(home, tmp_path))
    told = json.loads(done("log", "audit", "--home", str(home), "--trust", trust, "--all-signatures", "--json"))
    assert told["is_clean"] and told["size"] == 701 and told["num_signatures"] == 701 and told["is_trusted"]
    told = json.loads(done("log", "audit", "--home", str(home), "--json"))
    assert told["is_clean"] and told["num_signatures"] < 100
    assert "701 entries" in done("log", "audit", str(home / "log"))


def change(home: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(home / "provenance.db") as connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


OTHER = RecordKey(b"evil" * 8)
FORGED = OTHER.sign(b'{"number":7}')


@pytest.mark.parametrize(
    ("statement", "values", "said"),
    [
        ("UPDATE entries SET entry = CAST('x' AS BLOB) WHERE leaf = 300", (), "entry 300: the database has another"),
        ("DELETE FROM entries WHERE leaf = 300", (), "entry 300: the database does not have it"),
        ("UPDATE kept SET envelope = ? WHERE leaf = 300", (FORGED,), "rec_299 is not the one that was logged"),
    ],
)
def test_an_audit_finds_what_is_not_what_was_logged(
    home: Path, statement: str, values: tuple[object, ...], said: str
) -> None:
    change(home, statement, *values)
    result = say("log", "audit", "--home", str(home))
    assert result.exit_code == 1 and said in result.output


def test_an_audit_finds_a_record_whose_key_nobody_vouched_for(home: Path, tmp_path: Path) -> None:
    layout, settings = Layout(home), LogSettings()
    writer = make_writer(settings, layout, read_log_keys(settings, layout))
    writer.open()
    writer.take([logged("rec_forged", "record", FORGED)])
    writer.publish()
    writer.close()
    result = say("log", "audit", "--home", str(home), "--all-signatures")
    assert result.exit_code == 1 and "rec_forged is not of a key that was delegated" in result.output


def test_erased_records_are_counted_and_no_fault(home: Path) -> None:
    with Database(home / "provenance.db", provenance.MIGRATIONS) as database:
        database.transact_durably(provenance.erase, provenance.Erasure(id="rec_7"))
    told = json.loads(done("log", "audit", "--home", str(home), "--all-signatures", "--json"))
    assert told["is_clean"] and told["num_erased"] == 1


def test_an_audit_names_the_file_that_is_wrong(home: Path) -> None:
    path = home / "log" / "tile" / "0" / "001"
    data = path.read_bytes()
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    result = say("log", "audit", str(home / "log"))
    assert result.exit_code == 1 and "tile/0/001: hash 0 is not that of entry 256" in result.output


def test_a_mirror_follows_a_log_that_grows_and_can_be_audited(home: Path, tmp_path: Path) -> None:
    trust, copy = str(trust_file(home, tmp_path)), tmp_path / "copy"
    assert "701 of them new" in done("log", "mirror", str(home / "log"), str(copy), "--trust", trust)
    assert "as before" in done("log", "mirror", str(home / "log"), str(copy), "--trust", trust)
    grow(home, 700, 1000)
    told = json.loads(done("log", "mirror", str(home / "log"), str(copy), "--trust", trust, "--json"))
    assert told == {"origin": "example.com/answers", "size": 1001, "num_new": 300}
    assert "1001 entries" in done("log", "audit", str(copy), "--trust", trust)
    same = {path.relative_to(copy) for path in copy.rglob("*") if path.is_file() and ".p" not in str(path)}
    assert all((home / "log" / path).read_bytes() == (copy / path).read_bytes() for path in same - {Path(".lock")})


def test_a_mirror_refuses_a_rollback_a_fork_and_another_log_and_keeps_what_it_has(home: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(home, tmp_path / "old")
    grow(home, 700, 800)
    done("log", "mirror", str(home / "log"), str(copy))
    before = (copy / "checkpoint").read_bytes()
    result = say("log", "mirror", str(tmp_path / "old" / "log"), str(copy))
    assert result.exit_code == 1 and "rolled back" in result.output
    grow(tmp_path / "old", 5000, 5100)  # as many entries, others
    result = say("log", "mirror", str(tmp_path / "old" / "log"), str(copy))
    assert result.exit_code == 1 and "forked" in result.output
    grow(tmp_path / "old", 6000, 6100)  # more entries
    result = say("log", "mirror", str(tmp_path / "old" / "log"), str(copy))
    assert result.exit_code == 1 and "forked" in result.output
    assert (copy / "checkpoint").read_bytes() == before
    assert "801 entries" in done("log", "audit", str(copy))


def test_a_mirror_of_files_that_do_not_fit_their_checkpoint_takes_no_checkpoint(home: Path, tmp_path: Path) -> None:
    path = home / "log" / "tile" / "entries" / "001"
    path.write_bytes(path.read_bytes().replace(b"record", b"recorD", 1))
    result = say("log", "mirror", str(home / "log"), str(tmp_path / "copy"))
    assert result.exit_code == 1 and "do not hash to the root" in result.output
    assert not (tmp_path / "copy" / "checkpoint").exists()


def test_what_is_no_log_is_said_to_be_none(tmp_path: Path) -> None:
    for words in (("show", str(tmp_path)), ("audit", str(tmp_path / "nothing")), ("show", "http://127.0.0.1:9/log")):
        result = say("log", *words)
        assert result.exit_code == 1 and "Traceback" not in result.output


def test_another_origin_than_the_logs_is_refused_with_the_way_to_a_new_log(home: Path) -> None:
    (home.parent / "headrace.toml").write_text(f'home = "{home}"\n[log]\norigin = "example.com/new"\n')
    result = say("log", "trust-file")
    assert result.exit_code == 1 and "a log keeps its name" in result.output and "log.keys" in result.output


def test_a_backup_has_the_log_without_its_keys_and_goes_on_only_with_them(home: Path, tmp_path: Path) -> None:
    trust = str(trust_file(home, tmp_path))
    done("witness", "key", str(home / "keys"))  # another secret beside them, which is copied
    told = json.loads(done("backup", str(tmp_path / "copy"), "--home", str(home), "--json"))
    assert told["records"]
    copy = tmp_path / "copy"
    assert [one.name for one in (copy / "keys").iterdir()] == ["witness.keys"]
    with pytest.raises(InvalidRequest, match="this is a copy"):
        grow(copy, 700, 701)
    assert not (copy / "keys" / "log.keys").exists()
    shutil.copy(home / "keys" / "log.keys", copy / "keys")
    grow(copy, 700, 701)
    assert "702 entries" in done("log", "audit", "--home", str(copy), "--trust", trust)


def test_a_witness_keeps_its_keys_and_its_name(tmp_path: Path) -> None:
    first = done("witness", "key", str(tmp_path / "w"), "--name", "w.example/1")
    assert first.count("w.example/1+") == 2 and done("witness", "key", str(tmp_path / "w")) == first
    assert say("witness", "key", str(tmp_path / "w"), "--name", "w.example/2").exit_code == 1
    path = tmp_path / "w" / "witness.keys"
    assert path.stat().st_mode & 0o777 == 0o600
    assert parse_witness_keys(path.read_bytes()).name == "w.example/1"


def test_a_witness_of_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trust").write_text("quorum none\n")
    result = say("witness", "serve", str(tmp_path / "w"), "--trust", str(tmp_path / "trust"))
    assert result.exit_code == 1 and "names no log" in result.output


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "log.keys"
    assert read_or_make(path, lambda: b"secret") == b"secret"
    assert read_or_make(path, lambda: b"another") == b"secret"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [one.name for one in path.parent.iterdir()] == ["log.keys"]
    path.chmod(0o640)
    with pytest.raises(Unavailable, match="others may read"):
        read_or_make(path, lambda: b"another")


def test_settings_of_the_log_are_printed_as_they_could_be_written(tmp_path: Path) -> None:
    keys = done("witness", "key", str(tmp_path / "w"), "--name", "w.example/1").split()
    file = tmp_path / "headrace.toml"
    file.write_text(
        f'[log]\norigin = "example.com/mine"\nquorum = 1\npublic = false\nbatch = "50ms"\nqueue_bytes = "1MiB"\n'
        f'[[log.witnesses]]\nname = "w1"\nurl = "http://127.0.0.1:8009"\nvkey = "{keys[1]}"\n'
    )
    resolved = compose({}, {"HOME": "/h"}, file)
    again = tmp_path / "again.toml"
    again.write_text(resolved.toml())
    assert compose({}, {"HOME": "/h"}, again).settings.trust.log == resolved.settings.trust.log
    log = resolved.settings.trust.log
    assert (log.witnesses[0].vkey, log.queue_bytes, log.batch_s, log.is_public) == (keys[1], 2**20, 0.05, False)


def test_settings_of_the_log_that_cannot_be_are_told_with_line_and_key(tmp_path: Path) -> None:
    for text, said in (
        ('origin = "two words"', "origin"),
        ("quorum = 1", "quorum"),
        ("batch_items = 600\nqueue_items = 5", "queue_items"),
        ('[[log.witnesses]]\nname = "w"\nurl = "http://x"\nvkey = "nonsense"', "vkey"),
        ("merge_delay = 1", "merge_delay"),
    ):
        (tmp_path / "wrong.toml").write_text(f"[log]\n{text}\n")
        result = say("config", "check", str(tmp_path / "wrong.toml"))
        assert result.exit_code == 1 and said in result.output and "wrong.toml:" in result.output, result.output
