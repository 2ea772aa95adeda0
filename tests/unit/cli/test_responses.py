"""`headrace responses erase` and what the settings say about keeping responses."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from headrace.cli.config import compose
from headrace.cli.main import app
from headrace.cli.services import is_running
from headrace.core.service import StoredCompletion
from headrace.memory import responses as memory
from headrace.memory.completions import add
from headrace.memory.database import Database
from headrace.models.store import open_home


def test_a_tenant_is_erased_and_others_stay(tmp_path: Path) -> None:
    path = open_home(tmp_path).database
    with Database(path) as database:
        for tenant in ("acme", "other"):
            items = [{"id": "i", "text": f"secret of {tenant}"}]
            database.transact(memory.create_conversation, tenant, "conv_1", {}, items, 0.0)
            said = f"spoken to {tenant}".encode()
            kept = StoredCompletion(id="c", created=0, model="m", messages=b"[]", answer=said)
            database.transact(add, tenant, kept)
    (tmp_path / "files").mkdir()
    with sqlite3.connect(path) as connection:
        for tenant in ("acme", "other"):
            row = (f"file-{tenant}", tenant, "a", "user_data", 1, 0, None)
            connection.execute("INSERT INTO files VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)
            (tmp_path / "files" / row[0]).write_text(f"file of {tenant}")
    connection.close()
    result = CliRunner().invoke(app, ["responses", "erase", "--tenant", "acme", "--home", str(tmp_path), "--json"])
    counts = {"responses": 0, "conversations": 1, "completions": 1, "files": 1, "batches": 0, "caches": 0}
    assert json.loads(result.stdout) == {"tenant": "acme"} | counts
    assert [path.read_text() for path in (tmp_path / "files").iterdir() if path.is_file()] == ["file of other"]
    assert b"secret of acme" not in path.read_bytes()
    assert b"spoken to acme" not in path.read_bytes()
    assert b"spoken to other" in path.read_bytes()
    assert b"secret of other" in path.read_bytes()
    result = CliRunner().invoke(app, ["responses", "erase", "--tenant", "acme", "--home", str(tmp_path)])
    said = "Erased 0 responses, 0 conversations, 0 chat completions, 0 files, 0 batches and 0 caches of acme"
    assert said in result.stdout


def test_days_and_bytes_are_settings() -> None:
    settings = compose({"responses_days": 3, "responses_bytes": "1GB"}, {"HOME": "/h"}).settings
    assert (settings.responses_days, settings.responses_bytes) == (3, 10**9)


def test_work_of_a_process_that_is_gone_is_not_taken_for_somebody_elses() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        assert is_running(other.pid)
        other.communicate(b"\n")
    assert not is_running(other.pid)
    assert not is_running(os.getpid())
