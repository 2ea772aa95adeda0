"""`headrace tools endorse`, `endorsements`, `withheld` and `unendorse`, asked of the routes' own codec and keeper."""

import asyncio
import json
from collections.abc import Mapping
from itertools import count
from typing import Any

import pytest
from tests.doubles_gateway import HandClock

from headrace.api.endorsements import decode_order, encode_endorsement, encode_endorsements, encode_withheld
from headrace.cli.endorsements import parse_uses, run_endorse, run_list, run_withdraw, run_withheld
from headrace.cli.residents import Server
from headrace.core.endorsing import Doubt, WithheldCall
from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.core.request import Principal
from headrace.gateway.oversight.endorsing import EndorsementKeeper

ME = Principal(tenant="t", subject="key:me", scopes=frozenset({"endorse"}))
DIGEST = "sha256:" + "ab" * 32


class NoStore:
    """Keeps nothing."""

    async def call_durably(self, *_: Any) -> list[Any]:
        """As `Store`."""
        return []


class Answering(Server):
    """A server without a socket."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1", None, None)
        numbers = count(1)
        self.keeper = EndorsementKeeper(NoStore(), HandClock(), lambda: f"{next(numbers)}")  # type: ignore[arg-type]

    def ask(self, path: str, body: Mapping[str, Any] | None = None, method: str | None = None) -> Any:
        """As the routes do."""
        keeper = self.keeper
        if body is not None:
            made = asyncio.run(keeper.endorse(ME, decode_order(json.dumps(body).encode())))
            return json.loads(encode_endorsement(made))
        if method == "DELETE":
            ended = asyncio.run(keeper.withdraw(ME, path.rpartition("/")[2]))
            return json.loads(encode_endorsement(ended, is_withdrawn=True))
        if path.endswith("/withheld"):
            return json.loads(encode_withheld(keeper.withheld(ME)))
        return json.loads(encode_endorsements(keeper.endorsements(ME)))


def order(**fields: Any) -> dict[str, Any]:
    return {"tool": "pay", "uses": 1, "expires_in": 600, "session": None, "reason": None} | fields


def test_what_is_endorsed_is_told_listed_and_withdrawn(capsys: pytest.CaptureFixture[str]) -> None:
    server = Answering()
    run_list(server, json=False)
    run_withheld(server, json=False)
    assert capsys.readouterr().out == "Nothing is endorsed.\nNothing was withheld in the last hour.\n"
    run_endorse(server, order(call=DIGEST), None, json=False)
    assert capsys.readouterr().out == f"end_1: pay, call {DIGEST}, 1 more call, until 2023-11-14 22:40:00\n"
    run_endorse(server, order(argument="to", uses=None, session="s1"), "eve", json=True)
    made = json.loads(capsys.readouterr().out)
    assert (made["value"], made["uses_left"], made["session"]) == ("eve", None, "s1")
    run_list(server, json=False)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2:] == [
        f'{made["id"]}  pay, to = "eve", session s1',
        "  any number of calls, used 0 times, until 2023-11-14 22:40:00, by key:me",
    ]
    run_withdraw(server, made["id"])
    assert capsys.readouterr().out == f"{made['id']}: withdrawn, used 0 times\n"
    run_list(server, json=True)
    assert [one["id"] for one in json.loads(capsys.readouterr().out)["data"]] == ["end_1"]
    with pytest.raises(HeadraceError, match="no endorsement"):
        run_withdraw(server, made["id"])


@pytest.mark.parametrize(
    ("typed", "value"), [("5", 5), ("1.5", 1.5), ('"5"', "5"), ("x", "x"), ("true", "true"), ("[1]", "[1]"), ("", "")]
)
def test_a_value_is_a_number_if_it_reads_as_one(
    capsys: pytest.CaptureFixture[str], typed: str, value: str | float
) -> None:
    run_endorse(Answering(), order(argument="to"), typed, json=True)
    assert json.loads(capsys.readouterr().out)["value"] == value


def test_withheld_calls_are_shown_without_what_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    server = Answering()
    server.keeper.note_withheld(
        WithheldCall(
            tenant="t",
            tool="$(pay)",
            call=DIGEST,
            arguments='{"to": "\x1b[2Jeve"}',
            doubts=(Doubt(argument="to", value=None),),
            request_id="r",
            subject="key:agent",
            at_s=HandClock().unix_s(),
            reason="no",
        )
    )
    run_withheld(server, json=False)
    assert capsys.readouterr().out.splitlines() == [
        '2023-11-14 22:30:00  key:agent  $(pay)({"to": "\\x1b[2Jeve"})',
        "  in doubt: to; no",
        f"  headrace tools endorse '$(pay)' --call {DIGEST}",
    ]
    run_withheld(server, json=True)
    assert json.loads(capsys.readouterr().out)["data"][0]["call"] == DIGEST


def test_uses_are_a_number_or_any() -> None:
    assert (parse_uses("3"), parse_uses("any")) == (3, None)
    for text in ("", "-1", "1.5", "³"):
        with pytest.raises(InvalidRequest):
            parse_uses(text)
