"""The gate before a model is loaded: what is signed goes in, and everything else as the settings say."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.cli.model_signatures import SignatureGate
from headrace.core.errors import InvalidRequest, ModelFileError
from headrace.trust.supply.settings import Mode, SupplySettings

Change = Callable[[Path], Any]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("keys")
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def model(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("weights")
    (folder / "sub" / "words.txt").write_text("words")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs")
    run("sign", str(folder), "--key", str(keys[0]))
    return folder


def run(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(app, ["models", *arguments])
    assert result.exit_code == exit_code, result.output
    return result.output


def gate(keys: tuple[Path, Path], mode: Mode = Mode.ENFORCE) -> SignatureGate:
    return SignatureGate(SupplySettings(mode=mode, keys=(keys[1],)), None)


def test_a_model_as_it_was_signed_is_loaded(model: Path, keys: tuple[Path, Path]) -> None:
    assert gate(keys).load(model, lambda: "loaded") == "loaded"
    checked = gate(keys).check(model)
    assert checked.faults == ()
    assert checked.signer.startswith("key ")


def _add(name: str, text: str = "x") -> Change:
    def change(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return change


def _link(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_add("model.safetensors", "weighty"), "other bytes"),
        (_add("sub/words.txt", "words "), "other bytes"),
        (lambda folder: (folder / "config.json").unlink(), "missing"),
        (_add("tokenizer.json"), "was not signed"),
        (_add("pytorch_model.bin"), "can run code"),
        (_add("loader.py"), "can run code"),
        (_add("sub/x.PKL"), "can run code"),
        (_link("model.safetensors", "/etc/hostname"), "out of the model's folder"),
        (_link("model.safetensors", "config.json"), "which the signature forbids"),
        (_link("more", "/etc"), "out of the model's folder"),
        (_add("CONFIG.json"), "one name on some disks"),
        (lambda folder: (folder / "model.sig").unlink(), "there is no model.sig"),
        (_add("model.sig", "{}"), "signature is not valid"),
        (lambda folder: (folder / "model.sig").replace(folder / "other.sig"), "there is no model.sig"),
    ],
)
def test_a_model_that_is_not_as_it_was_signed_is_not_loaded(
    change: Change, says: str, model: Path, keys: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    change(model)
    loads: list[str] = []
    with pytest.raises(ModelFileError, match=says):
        gate(keys).load(model, lambda: loads.append("loaded"))
    assert loads == []
    with caplog.at_level(logging.WARNING, "headrace.models"):
        gate(keys, Mode.WARN).load(model, lambda: loads.append("loaded"))
    assert loads == ["loaded"]
    assert says in caplog.text


def test_what_lies_where_nothing_is_ever_read_does_not_matter(model: Path, keys: tuple[Path, Path]) -> None:
    _add(".git/hooks/loader.py", "import os")(model)
    assert gate(keys).load(model, lambda: True)


def test_a_signature_that_leaves_out_a_folder_does_not_cover_what_is_in_it(
    model: Path, keys: tuple[Path, Path]
) -> None:
    # Signed by somebody who is trusted, with more left out than may be: what is there now was never looked at.
    from headrace.cli.model_signatures import digests_of, list_files, sha256_of
    from headrace.trust.records.dsse import IN_TOTO, pae
    from headrace.trust.supply.signer import hint_of, read_private_key, sign
    from headrace.trust.supply.statement import write_signature, write_statement

    files = [one for one in list_files(model) if one.name in {"config.json", "model.safetensors"}]
    key = read_private_key(keys[0].read_bytes())
    said = write_statement("model", digests_of(files, sha256_of), ["model.sig", "sub"])
    (model / "model.sig").write_bytes(write_signature(said, sign(key, pae(IN_TOTO, said)), hint_of(key.public_key())))
    with pytest.raises(ModelFileError, match="says nothing about 'sub'"):
        gate(keys).admit(model)


def test_a_file_that_changes_while_it_is_loaded_is_noticed(model: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(ModelFileError, match="changed while"):
        gate(keys).load(model, lambda: _add("model.safetensors", "swapped")(model))


def test_a_link_that_is_turned_between_two_files_is_noticed(model: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(ModelFileError, match="changed while"):
        gate(keys).load(model, lambda: _link("model.safetensors", "config.json")(model))


def test_a_file_alone_is_signed_beside_itself(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    file = tmp_path / "small.gguf"
    file.write_text("weights")
    run("sign", str(file), "--key", str(keys[0]))
    assert gate(keys).load(file, lambda: True)
    file.write_text("other")
    with pytest.raises(ModelFileError, match="other bytes"):
        gate(keys).admit(file)


def test_the_digest_of_a_file_is_not_taken_from_memory_when_the_file_has_changed(
    model: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    remembering = SignatureGate(SupplySettings(mode=Mode.ENFORCE, keys=(keys[1],)), tmp_path / "packed")
    remembering.admit(model)
    assert list((tmp_path / "packed").glob("*.digest.json"))
    _add("model.safetensors", "WEIGHTS")(model)
    with pytest.raises(ModelFileError, match="other bytes"):
        remembering.admit(model)


def test_off_looks_at_nothing(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    assert SignatureGate(SupplySettings(), None).load(tmp_path / "nothing there", lambda: True)


def test_keys_that_are_not_there_or_none_are_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot be read"):
        SignatureGate(SupplySettings(mode=Mode.WARN, keys=(tmp_path / "no.pem",)), None)
    (tmp_path / "no.pem").write_text("no key")
    with pytest.raises(InvalidRequest, match="holds no public key"):
        SignatureGate(SupplySettings(mode=Mode.WARN, keys=(tmp_path / "no.pem",)), None)
    with pytest.raises(InvalidRequest, match="holds no certificates"):
        SignatureGate(SupplySettings(mode=Mode.WARN, authorities=(tmp_path / "no.pem",)), None)


def test_verify_tells_what_is_wrong_and_exits_with_one(model: Path, keys: tuple[Path, Path]) -> None:
    assert "as the key" in run("verify", str(model), "--key", str(keys[1]))
    _add("tokenizer.json")(model)
    assert "was not signed" in run("verify", str(model), "--key", str(keys[1]), exit_code=1)


def test_sign_refuses_what_could_run_code(model: Path, keys: tuple[Path, Path]) -> None:
    _add("loader.py")(model)
    result = CliRunner().invoke(app, ["models", "sign", str(model), "--key", str(keys[0])])
    assert result.exit_code != 0
    assert "can run code" in result.output + str(result.exception)
