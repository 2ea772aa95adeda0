"""`headrace cache` on real files: counted by name, erased by tenant and model, whatever the server does."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.doubles_disk import FILE_BYTES, LAYOUT, Rig, key
from typer.testing import CliRunner

from headrace.cli.assembly import open_disk
from headrace.cli.config import compose
from headrace.cli.main import app
from headrace.core.errors import InvalidRequest
from headrace.engine.kv.disk import DAY_S
from headrace.engine.kv.page_folder import model_folder, tenant_folder
from headrace.engine.kv.salt import Salt
from headrace.observe.metrics import Metrics


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    rig = Rig(tmp_path / "home" / "kv")
    rig.keep(Salt("local"), key(0), key(4))
    rig.keep(Salt("anna"), key(0))
    return tmp_path / "home"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["cache", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def stats(*arguments: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(run("stats", "--json", *arguments))
    return document


def test_pages_are_counted_by_tenant_and_model(home: Path) -> None:
    document = stats()
    assert document["root"] == str(home / "kv")
    assert document["enabled"] is False
    rows = {row["tenant"]: (row["model"], row["pages"], row["bytes"]) for row in document["folders"]}
    # This machine has no keys file that would tell who anna is, and no model of that digest.
    model = model_folder(LAYOUT.model)
    assert rows == {"local": (model, 2, 2 * FILE_BYTES), tenant_folder("anna"): (model, 1, FILE_BYTES)}
    assert [row["tenant"] for row in stats("--tenant", "anna")["folders"]] == ["anna"]
    assert stats("--model", "sha256:other")["folders"] == []
    assert "3 pages" in run("stats")


def test_a_tenant_is_erased_by_name_and_others_stay(home: Path) -> None:
    assert "Erased 1 pages" in run("clear", "--tenant", "anna")
    assert json.loads(run("clear", "--model", "sha256:other", "--json"))["pages"] == 0
    assert [row["tenant"] for row in stats()["folders"]] == ["local"]
    assert json.loads(run("clear", "--json"))["pages"] == 2
    assert stats()["folders"] == []


def test_with_the_last_key_of_a_tenant_go_its_pages(home: Path) -> None:
    def keys(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["keys", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    for name in ("laptop", "phone"):
        keys("add", name, "--tenant", "anna")
    assert {row["tenant"] for row in stats()["folders"]} == {"local", "anna"}
    assert "erased" not in keys("remove", "laptop")
    assert "last key of tenant anna: 1 pages" in keys("remove", "phone")
    assert [row["tenant"] for row in stats()["folders"]] == ["local"]


def test_another_directory_is_named_like_for_the_server(home: Path, tmp_path: Path) -> None:
    Rig(tmp_path / "elsewhere").keep(Salt("local"), key(0))
    document = stats("--disk-cache", str(tmp_path / "elsewhere"))
    assert document["enabled"] is True
    assert [row["pages"] for row in document["folders"]] == [1]


def test_a_model_that_is_unknown_is_refused_in_a_sentence(home: Path) -> None:
    result = CliRunner().invoke(app, ["cache", "stats", "--model", "nothing-like-it"])
    assert result.exit_code == 1
    assert "No model is called nothing-like-it" in result.stderr


def test_the_disk_is_not_used_unless_asked_for_and_then_where_and_how_much_as_asked(tmp_path: Path) -> None:
    environ = {"HOME": "/h", "HEADRACE_HOME": str(tmp_path)}
    assert open_disk(compose({}, environ).settings, Metrics()) is None
    assert open_disk(compose({"disk_cache": "OFF"}, environ).settings, Metrics()) is None
    flags = {"disk_cache": "on", "disk_cache_bytes": "1GB", "disk_cache_days": 2}
    tier = open_disk(compose(flags, environ).settings, Metrics())
    assert tier is not None
    config = tier.config
    assert (config.root, config.max_bytes, config.max_age_s) == (tmp_path / "kv", 10**9, 2 * DAY_S)
    tier = open_disk(compose({"disk_cache": "/var/kv"}, environ).settings, Metrics())
    assert tier is not None
    assert tier.config.root == Path("/var/kv")


def test_a_key_that_is_none_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    flags = {"disk_cache": "on", "disk_cache_key": tmp_path / "missing"}
    with pytest.raises(InvalidRequest, match=r"disk_cache_key: .*missing cannot be read"):
        open_disk(compose(flags, {"HOME": "/h"}).settings, Metrics())


def test_what_the_tier_does_is_exported(tmp_path: Path) -> None:
    metrics = Metrics()
    rig = Rig(tmp_path, metrics=metrics.disk)
    rig.keep(Salt("local"), key(0), key(4))
    rig.read(Salt("local"), key(0), key(4))
    text = metrics.expose()[0].decode()
    for line in (
        'headrace:disk_cache_pages_total{event="written"} 2.0',
        'headrace:disk_cache_pages_total{event="read"} 2.0',
        "headrace:disk_cache_stored_pages 2.0",
        f"headrace:disk_cache_bytes {2.0 * FILE_BYTES}",
    ):
        assert line in text
