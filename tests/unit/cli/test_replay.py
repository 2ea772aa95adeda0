"""`headrace replay` and `lineage` on the real model: what was said is said again, and what could not be is refused."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.doubles_gateway import PRICES, backend, bench, candidate
from tests.doubles_records import Desk, desk
from tests.log_in_memory import MemoryLog
from typer.testing import CliRunner, Result

from headrace.api.openai import Caller, decode_chat
from headrace.cli.assembly import open_model
from headrace.cli.config import compose
from headrace.cli.main import app
from headrace.core.backend import Backend
from headrace.core.gateway import Ask, EventReply
from headrace.core.request import Principal
from headrace.core.shape import Shape
from headrace.gateway.contract import Plan
from headrace.gateway.settings import ENGINE, ModelSettings, Target
from headrace.gateway.upstreams.engine import Engine
from headrace.memory import provenance
from headrace.memory.database import Database
from headrace.memory.provenance import Erasure


class State:
    """A state directory with records of the real model: a request, one that goes on from it, one answered elsewhere."""

    def __init__(self, home: Path, model: Path) -> None:
        self.home = home
        self.model = model
        log = MemoryLog(home / "provenance.db")
        self.at: Desk = desk(log, keeps_content=True)
        with open_model(compose({"model": str(model), "home": str(home)}, {}).settings) as engine:
            self.name = engine.models()[0].id
            self.body = json.dumps(
                {"model": self.name, "messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 8}
            ).encode()
            asyncio.run(self._record(engine))
        log.close()
        self.first, self.second, self.remote = (item.id for item in self.at.records)

    async def _record(self, engine: Backend) -> None:
        await self._answer(engine, "first", None, ENGINE)
        await self._answer(engine, "second", "first", ENGINE)
        await self._answer(engine, "remote", None, "elsewhere")

    async def _answer(self, engine: Backend, request_id: str, parent: str | None, place: str) -> None:
        caller = Caller(request_id=request_id, principal=Principal(tenant="t"), parent=parent)
        request = decode_chat(self.body, caller).request
        target = Target(place, self.name)
        gate = bench(
            {place: Engine(engine)},  # type: ignore[dict-item]
            plan=Plan(route=self.name, candidates=(replace(candidate(place), target=target),)),
            backends={place: backend(place, models={self.name: ModelSettings(prices=PRICES)})},
            overseers=(self.at.recorder,),
        )
        reply = await gate.gate.ask(Ask(shape=Shape.of(request), decode=lambda: request))
        assert isinstance(reply, EventReply)
        async for _ in reply.events:
            pass

    def run(self, *words: str) -> Result:
        """What the program says."""
        return CliRunner().invoke(app, [*words, "--home", str(self.home)])

    def replay(self, record_id: str, *words: str) -> Result:
        """What replaying says."""
        return self.run("replay", record_id, "--model", str(self.model), *words)


@pytest.fixture(scope="module")
def state(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> State:
    return State(tmp_path_factory.mktemp("home"), smollm2_path)


def test_what_was_drawn_at_random_is_drawn_again_from_the_seed_that_the_record_has(state: State) -> None:
    statement = state.at.statement(0)
    assert statement.external["parameters"]["sampling"]["seed"] is not None
    done = state.replay(state.first)
    assert done.exit_code == 0, done.output
    assert "replayed" in done.output
    told = json.loads(state.replay(state.first, "--json").stdout)
    assert told == {"record": state.first, "is_same": True, "level": "replayed"}


def test_the_body_of_the_request_is_enough_where_content_was_not_kept(state: State, tmp_path: Path) -> None:
    path = tmp_path / "request.json"
    path.write_bytes(state.body)
    done = state.replay(state.first, "--request", str(path))
    assert done.exit_code == 0, done.output
    path.write_bytes(state.body.replace(b"colour", b"number"))
    refused = state.replay(state.first, "--request", str(path))
    assert refused.exit_code == 1 and "not the one" in refused.output


def test_what_another_place_answered_is_not_run_here(state: State) -> None:
    done = state.replay(state.remote)
    assert done.exit_code == 1 and "'elsewhere'" in done.output
    assert state.replay("rec_nothing").exit_code == 1


def test_another_model_is_refused_by_the_digest_that_differs(state: State) -> None:
    done = state.run("replay", state.first, "--model", str(state.model), "--config", str(_with_system(state)))
    assert done.exit_code == 1
    assert "the system is another" in done.output


def _with_system(state: State) -> Path:
    path = state.home / "other.toml"
    path.write_text('system = "Answer in one word."\n')
    return path


def test_the_first_difference_is_told_where_something_else_comes_out(state: State) -> None:
    with Database(state.home / "provenance.db", provenance.MIGRATIONS) as database:
        kept = database.read(provenance.by_id, state.second)
        assert kept is not None
        content = json.loads(kept.item.content)
        content["asked"]["sampling"]["seed"] = 12345
        database.transact(
            lambda connection: connection.execute(
                "UPDATE kept SET content = ? WHERE leaf = ?", (json.dumps(content).encode(), kept.index)
            )
        )
    done = state.replay(state.second)
    assert done.exit_code == 3, done.output
    assert "choice 0 from character" in done.output


def test_lineage_shows_the_chain_and_what_made_each_answer(state: State) -> None:
    done = state.run("lineage", state.second)
    assert done.exit_code == 0, done.output
    assert f"parent: {state.first}" in done.output
    assert state.at.statement(0).digests["model"] in done.output
    told = json.loads(state.run("lineage", state.second, "--json").output)
    assert [one["id"] for one in told["records"]] == [state.second, state.first]
    assert [(one["relation"], one["problem"]) for one in told["edges"]] == [("parent", None)]


def test_an_erased_record_is_listed_and_says_nothing(state: State) -> None:
    assert state.first in state.run("records", "list").output
    with Database(state.home / "provenance.db", provenance.MIGRATIONS) as database:
        assert database.transact(provenance.erase, Erasure(id=state.remote)) == 1
    assert "erased" in state.run("records", "list").output
    assert state.run("records", "show", state.remote).exit_code == 1
    assert state.first in state.run("records", "show", state.first).output
    assert json.loads(state.run("records", "show", state.first, "--content").output)["answer"]["choices"]
    assert state.run("records", "erase", state.second).exit_code == 0
    assert state.run("records", "show", state.second).exit_code == 1
