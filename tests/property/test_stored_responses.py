"""Whatever is saved, continued, deleted and forgotten in any order, the store says what a plain dictionary says."""

import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from headrace.core.errors import NotFound
from headrace.memory import responses as memory
from headrace.memory.database import Database

TENANTS = st.sampled_from(["a", "b"])


@dataclass
class Kept:
    """A response of the model."""

    thread: str
    previous: str | None
    items: list[str]


@dataclass
class Model:
    """What a tenant has."""

    responses: dict[str, Kept] = field(default_factory=dict)
    used: dict[str, float] = field(default_factory=dict)
    conversations: dict[str, tuple[float, list[str]]] = field(default_factory=dict)
    count: int = 0


class Storing(RuleBasedStateMachine):
    """Two tenants, whose ids are often the same."""

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="headrace-test-")
        self.database = Database(Path(self.folder.name) / "state.db")
        self.models = {"a": Model(), "b": Model()}
        self.now_s = 0.0

    def teardown(self) -> None:
        self.database.close()
        self.folder.cleanup()

    def run(self, function: Any, *given: Any) -> Any:
        return self.database.transact(function, *given)

    @rule(tenant=TENANTS, pick=st.integers(0, 20), joins=st.booleans(), streamed=st.booleans())
    def answer(self, tenant: str, pick: int, joins: bool, streamed: bool) -> None:
        """A response: on its own, or continuing one that can be, or in a conversation."""
        model = self.models[tenant]
        self.now_s += 1.0
        model.count += 1
        name = f"r{model.count}"
        whole = [one for one in model.responses if self.chain(tenant, one) is not None]
        previous = whole[pick % len(whole)] if whole and pick % 3 else None
        talks = sorted(model.conversations)
        talk = talks[pick % len(talks)] if talks and joins and previous is None else None
        thread = model.responses[previous].thread if previous is not None else name
        items = [f"{name}in", f"{name}out"]
        record = memory.ResponseRecord(
            tenant=tenant,
            id=name,
            thread=thread,
            previous=previous,
            body={"id": name, "status": "completed", "output": []},
            events=b"events" if streamed else None,
        )
        asked, answered = [{"id": items[0]}], [{"id": items[1]}]
        self.run(memory.save_response, record, asked, answered, self.now_s, talk)
        model.responses[name] = Kept(thread, previous, items)
        model.used[thread] = self.now_s
        if talk is not None:
            model.conversations[talk] = (self.now_s, [*model.conversations[talk][1], *items])

    @rule(tenant=TENANTS, number=st.integers(1, 40))
    def delete(self, tenant: str, number: int) -> None:
        """Of what may be there or not."""
        model = self.models[tenant]
        name = f"r{number % (model.count + 1) + 1}"
        known = model.responses.pop(name, None)
        try:
            self.run(memory.delete_response, tenant, name)
            assert known is not None
        except NotFound:
            assert known is None

    @rule(tenant=TENANTS)
    def talk(self, tenant: str) -> None:
        """A new conversation."""
        model = self.models[tenant]
        model.count += 1
        name = f"c{model.count}"
        self.run(memory.create_conversation, tenant, name, {}, [{"id": f"{name}first"}], self.now_s)
        model.conversations[name] = (self.now_s, [f"{name}first"])

    @rule(tenant=TENANTS, number=st.integers(1, 40), drops=st.booleans())
    def change(self, tenant: str, number: int, drops: bool) -> None:
        """A conversation is deleted, or its first item."""
        model = self.models[tenant]
        if not model.conversations:
            return
        name = sorted(model.conversations)[number % len(model.conversations)]
        if drops or not model.conversations[name][1]:
            self.run(memory.delete_conversation, tenant, name)
            del model.conversations[name]
            return
        first, *rest = model.conversations[name][1]
        self.run(memory.delete_item, tenant, name, first, self.now_s)
        model.conversations[name] = (self.now_s, rest)

    @rule(age_s=st.integers(0, 10))
    def forget(self, age_s: int) -> None:
        """What was not used lately."""
        before_s = self.now_s - age_s
        self.run(memory.purge, before_s)
        for model in self.models.values():
            model.responses = {
                name: kept for name, kept in model.responses.items() if model.used[kept.thread] >= before_s
            }
            model.conversations = {name: kept for name, kept in model.conversations.items() if kept[0] >= before_s}

    @rule(tenant=TENANTS)
    def erase(self, tenant: str) -> None:
        """All of a tenant."""
        model = self.models[tenant]
        told = self.run(memory.erase, tenant)
        assert tuple(told)[:2] == (len(model.responses), len(model.conversations))
        self.models[tenant] = Model(count=model.count)

    def chain(self, tenant: str, name: str | None) -> list[str] | None:
        """What the model says was said up to a response."""
        items: list[str] = []
        while name is not None:
            kept = self.models[tenant].responses.get(name)
            if kept is None:
                return None
            items = [*kept.items, *items]
            name = kept.previous
        return items

    @invariant()
    def agrees(self) -> None:
        """Every chain, every conversation, and the bytes that are counted."""
        for tenant, model in getattr(self, "models", {}).items():
            for number in range(1, model.count + 1):
                told = self.run(memory.load_chain, tenant, f"r{number}")
                ids = None if told is None else [item["id"] for item in told.items]
                assert ids == self.chain(tenant, f"r{number}")
            for name, (_, items) in model.conversations.items():
                assert [item["id"] for item in self.run(memory.conversation_items, tenant, name)] == items
            held, counted = self.run(_bytes, tenant)
            assert held == counted


def _bytes(connection: sqlite3.Connection, tenant: str) -> tuple[int, int]:
    def total(query: str) -> int:
        return int(connection.execute(query, (tenant,)).fetchone()[0] or 0)

    held = total("SELECT SUM(LENGTH(body)) FROM items WHERE tenant = ?")
    held += total("SELECT SUM(LENGTH(body) + COALESCE(LENGTH(events), 0)) FROM responses WHERE tenant = ?")
    counted = total("SELECT SUM(num_bytes) FROM threads WHERE tenant = ?")
    return held, counted + total("SELECT SUM(num_bytes) FROM conversations WHERE tenant = ?")


TestStoring = Storing.TestCase
TestStoring.settings = settings(max_examples=60, stateful_step_count=40)
