"""`headrace erase` and what it takes of a tenant's records, and of nobody else's."""

import asyncio
import json
from pathlib import Path

import pytest
from tests.doubles_gateway import ANSWER, ScriptedUpstream, ask, bench, read, shape
from tests.doubles_records import Desk, desk
from tests.log_in_memory import MemoryLog
from typer.testing import CliRunner

from headrace.cli.main import app
from headrace.core.request import Principal
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.memory.provenance import Kept


def recorded(home: Path) -> Desk:
    """Two records of `t` and one of `other` in a state directory."""
    log = MemoryLog(home / "provenance.db")
    at = desk(log, keeps_content=True)

    async def main() -> None:
        for tenant in ("t", "other", "t"):
            gate = bench({"a": ScriptedUpstream(ANSWER)}, overseers=(at.recorder,))
            await read(await gate.gate.ask(ask(shape(principal=Principal(tenant=tenant)), raw=None)))

    asyncio.run(main())
    log.close()
    return at


def kept(home: Path, tenant: str) -> list[Kept]:
    with Database(home / "provenance.db", provenance.MIGRATIONS) as database:
        return database.read(provenance.of_tenant, tenant)


@pytest.mark.parametrize("keeps", [False, True])
def test_a_tenants_records_go_with_it_and_the_logs_entries_stay(tmp_path: Path, *, keeps: bool) -> None:
    at = recorded(tmp_path)
    config = tmp_path / "headrace.toml"
    config.write_text(f"[records]\nkeeps_envelopes = {str(keeps).lower()}\n")
    words = ["erase", "--tenant", "t", "--home", str(tmp_path), "--config", str(config), "--json"]
    told = json.loads(CliRunner().invoke(app, words).output)
    assert told["records"] == 2
    assert kept(tmp_path, "t") == [], "nobody is told whose they were"
    nobodys = [one for one in kept(tmp_path, "") if one.item.kind == "record"]
    assert [bool(one.item.envelope) for one in nobodys] == [keeps] * 2
    assert all(not one.item.secrets and not one.item.content and one.item.entry for one in nobodys)
    (other,) = kept(tmp_path, "other")
    assert other.item.secrets and other.item.content and other.item.envelope
    data = b"".join(path.read_bytes() for path in tmp_path.glob("provenance.db*"))
    assert at.records[0].secrets[:16] not in data, "erased text lingers in no log of the database"
    again = json.loads(CliRunner().invoke(app, words).output)
    assert again["records"] == 0
