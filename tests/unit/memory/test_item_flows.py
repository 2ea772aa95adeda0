"""What stored items are worth is kept with them, wherever they lie, and goes with them."""

from dataclasses import replace
from pathlib import Path

from headrace.core.trust import Confidentiality, Integrity, Label
from headrace.memory import responses as memory
from headrace.memory.database import Database
from headrace.memory.item_flows import item_flows, owned_flows

TOOL = Label(Integrity.TOOL, Confidentiality.SECRET, frozenset({"user", "tool:read inbox", "tool:\ud800"}))
USER = Label(Integrity.USER, Confidentiality.TENANT, frozenset({"user"}))


def item(name: str) -> dict[str, str]:
    return {"id": name, "type": "message"}


def record(name: str, thread: str = "t", **flows: Label) -> memory.ResponseRecord:
    body = {"id": name, "status": "completed", "output": []}
    return memory.ResponseRecord(tenant="a", id=name, thread=thread, previous=None, body=body, flows=flows)


def test_labels_are_kept_with_a_response_and_with_the_conversation_that_it_is_of(tmp_path: Path) -> None:
    with Database(tmp_path / "db") as opened:
        opened.transact(memory.create_conversation, "a", "c", {}, [item("first")], 0.0)
        kept = record("r", "t", out=TOOL, nowhere=USER)
        opened.transact(memory.save_response, kept, [item("in")], [item("out")], 1.0, "c")
    with Database(tmp_path / "db") as opened:
        [found] = opened.transact(owned_flows, "a", ["c"]).items()
        assert found == ("out", replace(TOOL, sources=frozenset({"user", "tool:read inbox", "tool:?"})))
        chain = opened.transact(memory.load_chain, "a", "r")
        assert chain is not None
        assert chain.flows == dict([found])
        assert opened.transact(item_flows, "a", ["out", "in", "none"]) == dict([found])
        assert opened.transact(item_flows, "b", ["out"]) == {}


def test_an_item_in_two_places_is_worth_the_least_of_them_until_it_is_gone_from_one(tmp_path: Path) -> None:
    plain = Label(Integrity.TOOL, Confidentiality.SECRET, frozenset({"tool:x"}))
    with Database(tmp_path / "db") as opened:
        for name, label in (("r1", plain), ("r2", USER)):
            opened.transact(memory.save_response, record(name, name, out=label), [], [item("out")], 1.0)
        assert opened.transact(item_flows, "a", ["out"]) == {"out": plain.join(USER)}
        opened.transact(memory.delete_response, "a", "r1")
        assert opened.transact(item_flows, "a", ["out"]) == {"out": USER}
