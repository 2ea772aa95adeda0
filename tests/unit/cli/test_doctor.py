"""What `headrace doctor` tells: this machine as the compiled module sees it, and what a model would need of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.gguf_files import TinyLlama, write_tiny_llama
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.kernels import native


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("HEADRACE_") and name != "HEADRACE_KERNELS"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def examine(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["doctor", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_machine_is_described_as_the_kernels_see_it() -> None:
    machine = json.loads(examine("--json"))["machine"]
    assert machine["cpu_features"] == sorted(name for name, has in native.cpu_features().items() if has)
    assert (machine["kernels"], machine["kernels_available"]) == (native.variant(), [*native.variants(), "reference"])
    assert (
        machine["read_bandwidth"] > 0 and machine["multiply_rate"] > 0 and 1 <= machine["threads"] <= machine["cores"]
    )
    assert f"{native.variant()} in use" in examine()


def test_a_models_needs_are_computed_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path)
    model = json.loads(examine(str(path), "--json"))["model"]
    assert model["architecture"] == "llama" and model["fits"] is True
    assert model["weights_bytes"] == path.stat().st_size
    assert model["kv_bytes_for_context"] == model["kv_bytes_per_token"] * model["context"]


def test_a_model_is_run_for_a_moment_and_shown_beside_the_ceilings(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path)
    report = json.loads(examine(str(path), "--json"))
    steps = {step["name"]: step for step in report["model"]["running"]["steps"]}
    prompt = steps["prefill-128"]  # the tiny model's whole context
    assert prompt["share_of_multiply_rate"] == pytest.approx(
        prompt["operations"] / prompt["seconds"] / report["machine"]["multiply_rate"]
    )
    assert {"attention", "gate and up", "head"} <= {stage["kind"] for stage in prompt["stages"]}
    shown = examine(str(path))
    assert "of reading" in shown and "prefill-128" in shown


def test_a_model_that_no_vector_kernel_fits_is_named_and_runs(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path, TinyLlama(hidden=160, heads=8, kv_heads=2))
    report = json.loads(examine(str(path), "--json"))["model"]
    assert (report["head_dim"], report["attention"]) == (20, "portable")
    assert report["running"]["steps"]
    assert "plain path" in examine(str(path), "--quick")
    write_tiny_llama(path)
    assert "plain path" not in examine(str(path), "--quick")


def test_a_quick_examination_leaves_the_model_alone(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path)
    assert json.loads(examine(str(path), "--json", "--quick"))["model"]["running"] is None
    assert "of reading" not in examine(str(path), "--quick")
    assert not list((tmp_path / "home").rglob("packed/*"))


def test_a_model_that_is_not_installed_is_a_pull_away() -> None:
    assert "headrace pull smollm2-135m-instruct" in examine()


def test_a_model_that_nobody_knows_is_not_to_be_pulled(tmp_path: Path) -> None:
    assert "No model is called nope; known are " in examine("nope") and "headrace pull" not in examine("nope")
    settings = tmp_path / "gateway.toml"
    settings.write_text('model = "none"\n', "utf-8")
    assert examine("--config", str(settings)).endswith(
        "\n\nThese settings run no model here; `headrace doctor MODEL` examines one.\n"
    )


def test_completion_is_a_script_of_the_shell() -> None:
    result = CliRunner().invoke(app, ["--show-completion", "bash"])
    assert result.exit_code == 0 and "_HEADRACE_COMPLETE" in result.stdout


def test_doctor_names_the_reference_and_does_not_time_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_llama(path)
    command = [sys.executable, "-m", "headrace", "doctor", str(path), "--json"]
    environ = os.environ | {"HEADRACE_KERNELS": "reference"}
    report = json.loads(subprocess.run(command, env=environ, capture_output=True, text=True, check=True).stdout)
    assert report["machine"]["kernels"] == "reference"
    assert report["model"]["fits"] and report["model"]["running"] is None
