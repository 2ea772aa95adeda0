"""Settings of tools and of the monitor of hijacking: what is written is what holds, and what is wrong is told."""

from pathlib import Path

import pytest

from headrace.cli.config import compose
from headrace.cli.hijack import read_canaries
from headrace.core.errors import InvalidRequest
from headrace.core.trust import Confidentiality, Effect
from headrace.trust.flow.settings import FlowSettings, Invisible, Kind, Mode, ToolRule
from headrace.trust.settings import TrustSettings

TEXT = """
[flow]
mode = "enforce"
system = "operator"
invisible = "strip"
amounts = "bounded"
endorses = { url = ["https://x.example/"], recipient = ["bob@x.example", "eve@x.example"] }

[tools.send_mail]
effect = "egress"
arguments = { to = "recipient", "attachments.file_id" = "id" }
manifest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

[tools."get_*"]
effect = "read"
endorses = { "*" = "time", id = "id" }
names = ["title"]
source = ["url"]
confidentiality = "secret"
trusted = true
honey = false
"""


def read(tmp_path: Path, text: str) -> TrustSettings:
    file = tmp_path / "headrace.toml"
    file.write_text(text, "utf-8")
    return compose({}, {"HOME": "/h"}, file).settings.trust


def test_what_is_written_is_what_holds_and_is_shown_as_it_can_be_read_again(tmp_path: Path) -> None:
    trust = read(tmp_path, TEXT)
    assert trust.flow == FlowSettings(
        mode=Mode.ENFORCE,
        system="operator",
        invisible=Invisible.STRIP,
        amounts="bounded",
        endorses={Kind.URL: ("https://x.example/",), Kind.RECIPIENT: ("bob@x.example", "eve@x.example")},
    )
    assert trust.tools["send_mail"] == ToolRule(
        name="send_mail",
        effect=Effect.EGRESS,
        arguments={"to": Kind.RECIPIENT, "attachments.file_id": Kind.ID},
        manifest="sha256:" + "a" * 64,
    )
    assert trust.tools["get_*"] == ToolRule(
        name="get_*",
        effect=Effect.READ,
        endorses={"*": Kind.TIME, "id": Kind.ID},
        names=("title",),
        source=("url",),
        confidentiality=Confidentiality.SECRET,
        is_trusted=True,
    )
    shown = compose({}, {"HOME": "/h"}, tmp_path / "headrace.toml").toml()
    assert read(tmp_path, shown) == trust


def test_without_tables_everything_is_off(tmp_path: Path) -> None:
    trust = read(tmp_path, "")
    assert trust.flow.mode is Mode.OFF
    assert trust.tools == {}
    assert trust.hijack is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[flow]\nsystem = "user"', "mode is missing"),
        ('[flow]\nmode = "on"', "known are off"),
        ('[flow]\nmode = "off"\nendorses = { links = ["x"] }', "'links' is no kind of argument"),
        ('[tools.a]\neffect = "egres"', "did you mean egress"),
        ('[tools.a]\narguments = { to = "recipent" }', "did you mean recipient"),
        ('[tools.a]\narguments = { "a..b" = "id" }', "no path"),
        ('[tools.a]\narguments = "to"', "not a table"),
        ('[tools.a]\nmanifest = "abc"', "headrace tools digest"),
        ('[tools.a]\nkind = "x"', "is no setting"),
        ("[hijack]\nthreshold = 0", "not a number above 0 to 1"),
        ("[hijack]\ndenials = 0", "not a whole number"),
    ],
)
def test_what_is_wrong_is_told_with_file_line_and_remedy(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidRequest, match=r"headrace\.toml:\d+: ") as caught:
        read(tmp_path, text)
    assert told in str(caught.value)


def test_canaries_are_lines_of_a_file_neither_short_nor_long(tmp_path: Path) -> None:
    file = tmp_path / "canaries"
    file.write_text("canary-123456\n\ncanary-123456\n  other-secret \n")
    assert read_canaries(file) == ("canary-123456", "other-secret")
    assert read_canaries(None) == ()
    for text, told in (
        ("short", "from 8 to 256"),
        ("x" * 257, "from 8"),
        ("\n".join(f"canary-{n:06}" for n in range(300)), "300 texts"),
    ):
        file.write_text(text)
        with pytest.raises(InvalidRequest, match=told):
            read_canaries(file)
    with pytest.raises(InvalidRequest, match="cannot be read"):
        read_canaries(tmp_path / "none")
