"""The keys file: private, whole, and never holding a key."""

import stat
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from headrace.cli.keys import KeyRights, _own_tables, add_key, disable_key, hash_key, load_keys, remove_key
from headrace.core.errors import InvalidRequest, NotFound

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GOOD = {
    "name": '"a"',
    "tenant": '"t"',
    "scopes": '["generate"]',
    "sha256": f'"{"0" * 64}"',
    "created": "2026-01-02T03:04:05Z",
}


def table(**changes: str | None) -> str:
    fields = {**GOOD, **changes}
    return "[[key]]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items() if value is not None)


def test_a_key_is_stored_only_as_its_hash_in_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    key = add_key(path, "laptop", KeyRights(tenant="anna", scopes=("generate", "metrics")), NOW)
    assert key.startswith("hr_") and len(key) > 40
    assert key not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (entry,) = load_keys(path)
    assert (entry.name, entry.tenant, entry.scopes) == ("laptop", "anna", frozenset({"generate", "metrics"}))
    assert (entry.sha256, entry.created) == (hash_key(key), NOW)


def test_priority_and_share_are_kept_and_a_file_without_them_means_the_standard(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(table())
    add_key(path, "batch", KeyRights(priority=-3, share=0.25), NOW)
    standard, batch = load_keys(path)
    assert (standard.priority, standard.share) == (0, 1.0)
    assert (batch.priority, batch.share) == (-3, 0.25)
    with pytest.raises(InvalidRequest, match="share: -1"):
        add_key(path, "c", KeyRights(share=-1.0), NOW)


def test_two_keys_differ_and_one_can_be_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    keys = {add_key(path, name, KeyRights(), NOW) for name in ("a", "b")}
    assert len(keys) == 2
    with pytest.raises(InvalidRequest, match="a key called a already"):
        add_key(path, "a", KeyRights(), NOW)
    with pytest.raises(NotFound, match=r"no key called c .*existing: a, b"):
        remove_key(path, "c")
    remove_key(path, "a")
    assert [entry.name for entry in load_keys(path)] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (table(name=None), "missing or unknown: name"),
        (table(colour='"red"'), "missing or unknown: colour"),
        (table(tenant='"a b"'), "tenant: 'a b' .*letters"),
        (table(scopes='["everything"]'), "scopes: .*must be some of generate, metrics, admin"),
        (table(scopes="[]"), "scopes: "),
        (table(sha256='"123"'), "64 lower-case hexadecimal digits"),
        (table(created='"today"'), "created: 'today'"),
        (table(priority="1.5"), "priority: 1.5 .* is not in"),
        (table(priority="true"), "priority: True"),
        (table(priority="1001"), r"priority: 1001 .*\[-1000, 1000\]"),
        (table(share="0"), r"share: 0 .*\(0, 1000\]"),
        (table(share="nan"), "share: nan"),
        (table(share="inf"), "share: inf"),
        (table(share="true"), "share: True"),
        (table() + table(), "two entries with the same name"),
        (table() + table(name='"b"'), "two entries with the same sha256"),
        ("[keys]", r"may hold \[\[key\]\] tables only; found keys"),
        ("[[key]", "is not valid TOML"),
    ],
)
def test_a_wrong_entry_is_named_and_nothing_is_guessed(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "keys.toml").write_text(text)
    with pytest.raises(InvalidRequest, match=sentence):
        load_keys(tmp_path / "keys.toml")


def test_a_keys_file_that_is_not_there_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="headrace keys add NAME"):
        load_keys(tmp_path / "keys.toml")


@pytest.mark.parametrize(("name", "tenant"), [('x"\n[evil]', "t"), ("", "t"), ("a", "t\nu"), ("a" * 65, "t")])
def test_a_name_that_could_change_the_file_is_refused(tmp_path: Path, name: str, tenant: str) -> None:
    with pytest.raises(InvalidRequest, match="letters"):
        add_key(tmp_path / "keys.toml", name, KeyRights(tenant=tenant), NOW)
    assert not (tmp_path / "keys.toml").exists()


RIGHTS = KeyRights(
    user='a "quoted" user \\ of anna',
    tags=("night", "batch"),
    labels=frozenset({"restricted"}),
    routes=frozenset({"small", "openai/gpt-5"}),
    expires=datetime(2027, 1, 31, tzinfo=UTC),
)


@pytest.mark.parametrize("user", ["bob", RIGHTS.user])
def test_what_a_key_is_under_is_read_as_it_was_written_fast_or_as_all_of_toml(tmp_path: Path, user: str) -> None:
    path = tmp_path / "keys.toml"
    add_key(path, "plain", KeyRights(), NOW)
    add_key(path, "full", replace(RIGHTS, user=user), NOW)
    disable_key(path, "plain", is_disabled=True)
    text = path.read_text("utf-8")
    assert _own_tables(text) == (None if "\\" in user else tomllib.loads(text))
    plain, full = load_keys(path)
    assert plain.is_disabled
    assert (full.user, full.tags, full.labels, full.routes, full.expires, full.is_disabled) == (
        user, RIGHTS.tags, RIGHTS.labels, RIGHTS.routes, RIGHTS.expires, False,
    )  # fmt: skip
    assert not disable_key(path, "plain", is_disabled=False).is_disabled
    with pytest.raises(NotFound, match="no key called other"):
        disable_key(path, "other", is_disabled=True)


@pytest.mark.parametrize(
    "line",
    [
        "user = 3",
        'tags = "x"',
        "labels = [1]",
        'routes = [""]',
        'expires = "2027"',
        "expires = 2027-01-31",
        "is_disabled = 1",
    ],
)
def test_a_wrong_field_is_refused_by_name(tmp_path: Path, line: str) -> None:
    path = tmp_path / "keys.toml"
    path.write_text(table() + line + "\n")
    with pytest.raises(InvalidRequest, match=line.split(maxsplit=1)[0]):
        load_keys(path)
