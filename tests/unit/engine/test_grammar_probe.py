"""What would crash, hang or fill the server is found in another process."""

import json
from collections.abc import Iterator

import pytest

from headrace.engine.grammar.probe import Probe


@pytest.fixture
def probe() -> Iterator[Probe]:
    probe = Probe(97, {"<end>": 94}, 94)
    yield probe
    probe.close()


def lark(text: str) -> str:
    return json.dumps({"grammars": [{"lark_grammar": text}]})


def test_a_grammar_that_compiles_has_no_complaint_and_one_that_does_not_has_llguidances(probe: Probe) -> None:
    assert probe.try_out(lark('start: "a" <end>')) is None
    assert "unknown special token" in str(probe.try_out(lark('start: "a" <start>')))
    assert probe.try_out(lark('start: "a"')) is None


def test_a_chain_of_references_that_overflows_the_stack_ends_the_other_process_only(probe: Probe) -> None:
    chain = "\n".join(f'x{i}: "(" x{i + 1} ")"' for i in range(5000))
    assert "too deeply" in str(probe.try_out(lark(f'start: x0\n{chain}\nx5000: "a"')))
    assert probe.try_out(lark('start: "a"')) is None


def test_a_schema_that_takes_minutes_is_given_up() -> None:
    probe = Probe(97, {}, 94, timeout_s=0.5)
    schema = {"allOf": [{"pattern": f"x{i}"} for i in range(32)]}
    assert "longer than 0.5 s" in str(probe.try_out(json.dumps({"grammars": [{"json_schema": schema}]})))
    probe.close()


def test_after_closing_nothing_is_compiled_and_nothing_runs(probe: Probe) -> None:
    assert probe.try_out(lark('start: "a"')) is None
    process = probe._process
    assert process is not None
    probe.close()
    probe.close()
    assert process.returncode is not None
    assert probe.try_out(lark('start: "a"')) == "the server is stopping"
