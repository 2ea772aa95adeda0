"""What differs between two settings is told by its name in the file, and never by what it says."""

from pathlib import Path

import pytest

from headrace.cli.config import Settings, compose
from headrace.cli.setting_changes import changed_names

SHARED = """
[backends.near]
kind = "openai-compatible"
url = "http://127.0.0.1:9/v1"
clearance = ["a", "b"]
secret = "env:NEAR"
models = ["small"]
[routes.chat]
candidates = ["near/small"]
[[keys]]
name = "boss"
secret = "env:BOSS"
scopes = ["generate", "admin"]
[[keys]]
name = "user"
secret = "env:USER_KEY"
[tenants.acme]
labels = ["a"]
[prices.small]
input = 1
output = 2
[policy]
files = ["a.cedar"]
"""


def read(folder: Path, text: str) -> Settings:
    file = folder / "headrace.toml"
    file.write_text(text, "utf-8")
    return compose({}, {"HEADRACE_HOME": str(folder)}, file).settings


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("", "", ()),
        ('"env:NEAR"', '"env:OTHER"', ("backends.near",)),
        ("[routes.chat]", "[routes.talk]", ("routes.chat", "routes.talk")),
        ('"env:USER_KEY"', '"env:OTHER"', ("keys.user",)),
        ('[[keys]]\nname = "user"\nsecret = "env:USER_KEY"\n', "", ("keys.user",)),
        ('labels = ["a"]', 'labels = ["b"]', ("tenants.acme",)),
        ("output = 2", "output = 3", ("prices.small",)),
        ("a.cedar", "b.cedar", ("policy",)),
        ("[policy]", "[answer_cache]\non = true\n[policy]", ("answer_cache",)),
        ("[backends.near]", "queue = 7\nmax_in_flight = 9\n[backends.near]", ("max_in_flight", "queue")),
    ],
)
def test_what_differs_is_named_as_the_file_names_it(tmp_path: Path, old: str, new: str, names: tuple[str, ...]) -> None:
    before, now = read(tmp_path, SHARED), read(tmp_path, SHARED.replace(old, new, 1) if old else SHARED)
    assert changed_names(before, now) == names == changed_names(now, before)


def test_keys_in_another_order_are_told_as_a_whole(tmp_path: Path) -> None:
    head, boss, user_and_rest = SHARED.split("[[keys]]")
    user, rest = user_and_rest.split("[tenants")
    turned = f"{head}[[keys]]{user}[[keys]]{boss}[tenants{rest}"
    assert changed_names(read(tmp_path, SHARED), read(tmp_path, turned)) == ("keys",)
