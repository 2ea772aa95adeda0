"""Who acts on a delegation may do what its granter may do now, within its bounds, until it ends or is revoked."""

import math
from dataclasses import replace
from typing import Any

import pytest
from tests.doubles_delegation import HOUR_S, KEYS, LAPTOP, NOW_S, desk, granted, pem, read

from headrace.core.errors import Unauthenticated
from headrace.core.identity import Shown
from headrace.core.request import Principal
from headrace.trust.delegation.authenticator import DelegationAuthenticator
from headrace.trust.delegation.desk import DelegationDesk, Rules
from headrace.trust.delegation.grant import Block, Bounds, Grant
from headrace.trust.delegation.token import VoidToken, make_token, narrow_token
from headrace.trust.policy.decision_log import DecisionLog
from headrace.trust.policy.in_force import JudgeInForce


def test_rights_are_those_of_the_granter_and_of_the_token_together() -> None:
    who = desk().principal(granted(models=frozenset({"a"})), NOW_S)
    assert (who.tenant, who.key, who.tags) == ("acme", "laptop", ("team",))
    assert (who.subject, who.agent) == ("agent:planner", "planner")
    assert who.scopes == {"generate"}  # the key has admin, too
    assert who.routes == {"a"}
    assert who.delegation is not None and who.delegation.root == "key:laptop"
    bound = desk(granter=replace(LAPTOP, scopes=frozenset({"metrics"}), routes=frozenset({"b"})))
    less = bound.principal(granted(models=frozenset({"a", "b"})), NOW_S)
    assert (less.scopes, less.routes) == (frozenset(), {"b"})


def test_a_granter_that_is_gone_or_lives_elsewhere_grants_nothing_any_more() -> None:
    for granter in (None, replace(LAPTOP, tenant="rival")):
        with pytest.raises(VoidToken, match="may not any more"):
            desk(granter=granter).principal(granted(), NOW_S)


def test_of_users_the_first_block_says_what_they_could_hand_on() -> None:
    block = Block(revocation_id="", holder="spiffe://d/a", bounds=Bounds(expires_s=NOW_S + 60))
    grant = Grant(tenant="acme", subject="user:i#anna", scopes=frozenset({"generate"}), blocks=(block,))
    who = desk().principal(make_token(pem(), grant), NOW_S)
    assert (who.tenant, who.subject, who.key, who.scopes) == ("acme", "spiffe://d/a", None, {"generate"})


def test_what_the_granters_requests_were_under_its_agents_are_under() -> None:
    block = Block(revocation_id="", holder="spiffe://d/a", bounds=Bounds(expires_s=NOW_S + 60))
    grant = Grant(
        tenant="acme", subject="user:i#anna", scopes=frozenset({"generate"}), blocks=(block,),
        carries=frozenset({"restricted"}), tags=("x", "y"), user="anna", priority=-3,
    )  # fmt: skip
    who = desk().principal(make_token(pem(), grant), NOW_S)
    assert (who.labels, who.tags, who.user, who.priority) == ({"restricted"}, ("x", "y"), "anna", -3)
    of_key = desk().principal(make_token(pem(), replace(grant, subject="key:laptop")), NOW_S)
    assert (of_key.labels, of_key.tags, of_key.priority) == ({"restricted"}, ("team",), -3)


def test_it_must_end_and_soon_enough() -> None:
    for expires_s in (None, NOW_S + 2 * 86_400):
        with pytest.raises(VoidToken, match="must end within 86400 s"):
            desk().principal(granted(expires_s=expires_s), NOW_S)
    with pytest.raises(VoidToken, match="has ended"):
        desk().principal(granted(), NOW_S + HOUR_S)


def test_checks_of_its_own_are_run_when_it_is_shown() -> None:
    from tests.unit.trust.delegation.test_token import add

    with pytest.raises(VoidToken, match="does not allow it"):
        desk().principal(add(granted(), 'check if model("a");'), NOW_S)


def test_a_request_is_held_to_models_labels_end_and_own_checks() -> None:
    from tests.unit.trust.delegation.test_token import add

    at = desk()
    text = granted(models=frozenset({"a", "b"}), labels=frozenset({"restricted"}))
    text = add(text, 'check if operation("call") or operation("tool") or model("a");')
    who = at.principal(text, NOW_S)

    def why(model: str = "a", *labels: str, now_s: float = NOW_S) -> str:
        return at.refuses(who, model, frozenset(labels), now_s) or ""

    assert why() == why("a", "restricted") == ""
    assert "the model 'c'" in why("c")
    assert "does not allow it" in why("b")
    assert "the label 'secret'" in why("a", "secret")
    assert why(now_s=NOW_S + HOUR_S) == "the delegation has ended"
    at.revoke([who.delegation.revocation_ids[0]] if who.delegation else [])
    assert why() == "the delegation was revoked"
    with pytest.raises(VoidToken, match="revoked"):
        at.principal(text, NOW_S)


def test_after_a_restart_bounds_hold_and_what_only_the_token_can_say_has_to_be_shown_again() -> None:
    from tests.unit.trust.delegation.test_token import add

    plain, own = granted(models=frozenset({"a"})), add(granted(), 'check if operation("call") or model("a");')
    who, checked = desk().principal(plain, NOW_S), desk().principal(own, NOW_S)
    anew = desk()
    assert anew.refuses(who, "a", frozenset(), NOW_S) is None
    assert anew.refuses(who, "b", frozenset(), NOW_S) is not None
    assert anew.refuses(checked, "a", frozenset(), NOW_S) == "the delegation has to be shown again"


def test_a_tool_call_is_held_to_the_tokens_own_checks() -> None:
    from tests.doubles_policy import judge, question
    from tests.unit.trust.delegation.test_token import add

    at = desk()
    text = add(granted(), 'check if operation("call") or operation("request") or tool("search"), effect("read");')
    who = at.principal(text, NOW_S)

    def decide(at: DelegationDesk, name: str, effect: str, who: Principal = who) -> str:
        log = DecisionLog(lambda *_: None, lambda: 0.0)
        in_force = JudgeInForce(judge("", "default"), log, lambda asked: at.refuses_tool(asked, NOW_S))
        return in_force.decide(question("tool", name, principal=who, attributes={"effect": effect})).reason

    assert decide(at, "search", "read") == ""
    assert "does not allow it" in decide(at, "search", "write")
    assert "does not allow it" in decide(at, "pay", "read")
    assert decide(desk(), "search", "read") == "the delegation has to be shown again"
    assert decide(desk(), "search", "read", at.principal(granted(), NOW_S)) == ""


def test_other_keys_void_what_was_read_before() -> None:
    at, text = desk(), granted()
    at.principal(text, NOW_S)
    at.replace(Rules(replace(KEYS, by_id={}), 86_400.0))
    with pytest.raises(VoidToken):
        at.principal(text, NOW_S)


def shown(**given: Any) -> Shown:
    return Shown(method="POST", url="http://h/v1", **{"headers": {}, "came_unix_s": NOW_S, "came_s": 0.0} | given)


def test_a_delegation_is_shown_as_authorization_or_beside_a_credential() -> None:
    asked = DelegationAuthenticator(desk())
    text = granted()
    assert asked.authenticate(shown(scheme="bearer", token="hr_x")) is None
    alone = asked.authenticate(shown(scheme="biscuit", token=text))
    assert alone is not None and alone.is_token and alone.key == "laptop" and alone.expires_s == NOW_S + HOUR_S
    beside = asked.authenticate(shown(headers={b"x-headrace-delegation": text.encode()}, scheme="bearer", token="jwt"))
    assert beside is not None and not beside.is_token
    with pytest.raises(Unauthenticated, match="send one"):
        asked.authenticate(shown(headers={b"x-headrace-delegation": text.encode()}, scheme="biscuit", token=text))
    with pytest.raises(Unauthenticated, match="no token that was signed here") as caught:
        asked.authenticate(shown(scheme="biscuit", token=granted(2)))
    assert caught.value.challenges == ('Biscuit realm="headrace"',)


def test_counts_are_of_each_block_by_itself_and_what_could_be_spent_is_set_aside() -> None:
    at = desk()
    parent = granted(max_calls=3, max_cost_nanos=100)
    child = narrow_token(parent, Bounds(max_calls=1, max_cost_nanos=60), "helper")
    blocks, of_parent = read(child).grant.blocks, read(parent).grant.blocks
    held = at.budgets.begin(blocks, NOW_S)
    assert not isinstance(held, str)
    assert held.covers(50) and held.covers(60) and held.covers(10)
    assert held.nanos == 60
    assert not held.covers(61)
    assert at.budgets.left(of_parent) == {"left_nanos": 40, "left_calls": 2}
    assert at.budgets.begin(blocks, NOW_S) == "the delegation's 1 requests are used up"
    other = at.budgets.begin(of_parent, NOW_S)
    assert not isinstance(other, str)
    assert other.covers(40) and not other.covers(41)
    assert "budget is used up" in str(at.budgets.begin(of_parent, NOW_S))
    held.settle(20, is_call=True)
    held.settle(20, is_call=True)
    other.settle(0, is_call=False)
    assert at.budgets.left(of_parent) == {"left_nanos": 80, "left_calls": 2}
    assert at.budgets.left(blocks) == {"left_nanos": 40, "left_calls": 0}
    assert at.budgets.take_changes() == {
        blocks[0].revocation_id: (1, 20, NOW_S + HOUR_S),
        blocks[1].revocation_id: (1, 20, NOW_S + HOUR_S),
    }
    assert at.budgets.take_changes() == {}
    assert at.budgets.begin(read(granted()).grant.blocks, NOW_S).settle(5, is_call=True) is None  # type: ignore[union-attr]


def test_making_ever_more_tokens_of_one_forgets_no_count_and_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.trust.delegation.budget.MAX_COUNTS_OF_ONE", 4)
    at, parent = desk(), granted(max_calls=100)

    def child(number: int) -> Any:
        return read(narrow_token(parent, Bounds(max_calls=1), f"h{number}")).grant.blocks

    for number in range(3):
        assert not isinstance(at.budgets.begin(child(number), NOW_S, "acme"), str)
    assert "too many" in str(at.budgets.begin(child(3), NOW_S, "acme"))
    assert at.budgets.left(read(parent).grant.blocks) == {"left_calls": 97}
    # Others are none the worse for it.
    other = read(granted(max_calls=1)).grant.blocks
    assert not isinstance(at.budgets.begin(other, NOW_S, "other"), str)


def test_only_counts_that_no_token_needs_any_more_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.trust.delegation.budget.MAX_COUNTS", 2)
    at = desk()
    tokens = [read(granted(max_calls=1, expires_s=NOW_S + at_s)).grant.blocks for at_s in (10, 20, 30)]
    for blocks in tokens[:2]:
        held = at.budgets.begin(blocks, NOW_S)
        assert not isinstance(held, str)
        held.settle(0, is_call=True)
    assert "too many" in str(at.budgets.begin(tokens[2], NOW_S + 9))
    assert "used up" in str(at.budgets.begin(tokens[0], NOW_S + 9))
    assert not isinstance(at.budgets.begin(tokens[2], NOW_S + 10), str)
    assert "used up" in str(at.budgets.begin(tokens[1], NOW_S + 10))


def test_a_beginning_counts_as_long_as_anything_can_be_made_of_it() -> None:
    short = narrow_token(granted(max_calls=5), Bounds(expires_s=NOW_S + 1, max_calls=1), "h")
    assert [one.until_s for one in read(short).grant.blocks] == [NOW_S + HOUR_S, NOW_S + 1]
    endless = narrow_token(granted(max_calls=5, expires_s=None), Bounds(expires_s=NOW_S + 1), "h")
    assert [one.until_s for one in read(endless).grant.blocks] == [math.inf, NOW_S + 1]


def test_a_principal_without_a_delegation_is_nobodys_agent() -> None:
    assert Principal().delegation is None
