"""Where things lie, and how a name becomes a path, with the remedy when it does not."""

import stat
from pathlib import Path

import pytest

from headrace.core.errors import ModelFileError, NotFound
from headrace.models.store import default_home, installed_names, open_home, resolve


def test_the_state_directory_follows_its_variable_then_the_platform() -> None:
    assert default_home({"HEADRACE_HOME": "/a", "XDG_DATA_HOME": "/b", "HOME": "/h"}) == Path("/a")
    assert default_home({"XDG_DATA_HOME": "/b", "HOME": "/h"}) == Path("/b/headrace")
    assert default_home({"XDG_DATA_HOME": "relative", "HOME": "/h"}, "linux") == Path("/h/.local/share/headrace")
    assert default_home({"HOME": "/h"}, "darwin") == Path("/h/Library/Application Support/headrace")


def test_the_state_directory_is_private(tmp_path: Path) -> None:
    layout = open_home(tmp_path / "home")
    assert stat.S_IMODE(layout.home.stat().st_mode) == 0o700
    assert layout.models.is_dir() and layout.packed.is_dir()


def test_a_state_directory_that_cannot_be_made_is_a_sentence_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelFileError, match=r"cannot be created.*HEADRACE_HOME or --home"):
        open_home(tmp_path / "file" / "home")


def install(home: Path, name: str, *files: str) -> Path:
    folder = open_home(home).models / name
    folder.mkdir()
    for file in files:
        (folder / file).write_bytes(b"x")
    return folder


def test_names_aliases_and_paths_all_lead_to_the_file(tmp_path: Path) -> None:
    file = install(tmp_path, "smollm2-135m-instruct", "SmolLM2.gguf") / "SmolLM2.gguf"
    for name in ("smollm2-135m-instruct", "SmolLM2-135M-Instruct", "smollm2", "default", str(file), str(file.parent)):
        assert resolve(name, tmp_path) == file
    assert installed_names(tmp_path) == ["smollm2-135m-instruct"]


def test_a_safetensors_model_is_its_folder(tmp_path: Path) -> None:
    folder = install(tmp_path, "tiny", "config.json", "model.safetensors")
    assert resolve("tiny", tmp_path) == folder


def test_a_catalog_model_that_is_not_installed_names_the_pull(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="run `headrace pull smollm2-135m-instruct` first"):
        resolve("smollm2", tmp_path)


def test_a_misspelt_name_names_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"did you mean smollm2-135m-instruct\?"):
        resolve("smolm2-135m-instuct", tmp_path)
    with pytest.raises(NotFound, match=r"known are .*smollm2"):
        resolve("zzz", tmp_path)


def test_a_path_that_does_not_exist_is_called_a_path(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"no model file .*nowhere\.gguf"):
        resolve("nowhere.gguf", tmp_path)


@pytest.mark.parametrize("name", ["..", "../etc", "a/../../b", ".partial"])
def test_a_name_cannot_lead_out_of_the_models_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A name is also tried as a path, so the folder that the tests run in must hold no model beside it."""
    (tmp_path / "a" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "here")
    home = tmp_path / "state"
    (open_home(home).models / ".partial").mkdir()
    (home / "secret.gguf").write_bytes(b"x")
    with pytest.raises((NotFound, ModelFileError)):
        resolve(name, home)


def test_a_folder_with_two_models_asks_which(tmp_path: Path) -> None:
    install(tmp_path, "two", "a.gguf", "b.gguf")
    with pytest.raises(ModelFileError, match=r"a\.gguf, b\.gguf; name the file itself"):
        resolve("two", tmp_path)
