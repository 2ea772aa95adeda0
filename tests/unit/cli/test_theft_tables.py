"""The monitor of theft in a settings file: off without its table, in shadow mode with it, and every mistake told."""

from pathlib import Path

import pytest

from headrace.cli.config import Resolved, compose
from headrace.cli.kinds import WrongSettings
from headrace.cli.theft import open_theft
from headrace.trust.monitors.theft.settings import Mode, TheftSettings


def read(folder: Path, text: str) -> Resolved:
    path = folder / "headrace.toml"
    path.write_text(text)
    return compose({}, {}, path)


def test_without_the_table_nobody_watches_and_with_it_somebody_only_watches(tmp_path: Path) -> None:
    assert read(tmp_path, "").settings.trust.theft is None
    assert open_theft(None, None) is None
    settings = read(tmp_path, "[theft]\n").settings.trust.theft
    assert settings == TheftSettings(mode=Mode.SHADOW)
    watching = open_theft(settings, None)
    assert watching is not None
    assert not watching.reads_answers
    assert open_theft(read(tmp_path, "[theft]\nmode = 'off'\n").settings.trust.theft, None) is None


def test_what_is_set_is_read_and_written_as_it_was(tmp_path: Path) -> None:
    text = "[theft]\nmode = 'enforce'\nbias_vectors = 12\nramp_days = 3\nwindow_action = 'throttle'\n"
    resolved = read(tmp_path, text)
    expected = TheftSettings(mode=Mode.ENFORCE, bias_vectors=12, ramp_days=3.0, window_action="throttle")
    assert resolved.settings.trust.theft == expected
    assert read(tmp_path, resolved.toml()).settings.trust.theft == expected


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("mode = 'on'", "theft.mode: "),
        ("bias_vectors = 0", "theft.bias_vectors: 0 is not a whole number from 1"),
        ("window_size = 5", "window_size: 5 is below 20; write more, or 0 for no windows"),
        ("window_action = 'ban'", "theft.window_action: 'ban' is not one of note, label, throttle, refuse"),
        ("bias_vektors = 3", "theft.bias_vektors: is no setting; did you mean bias_vectors?"),
    ],
)
def test_mistakes_are_told_with_file_line_key_and_remedy(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(WrongSettings) as caught:
        read(tmp_path, f"[theft]\n{line}\n")
    assert told in str(caught.value)
    assert "headrace.toml:" in str(caught.value)
