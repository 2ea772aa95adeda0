"""Tokens say what they were made to say, hold only with every block in place, and cannot be made to say more."""

import base64
from typing import Any

import pytest
from biscuit_auth import Biscuit, BiscuitBuilder, BlockBuilder, DataLogError, KeyPair, PrivateKey, PublicKey
from tests.doubles_delegation import KEYS, NOW_S, granted, pem, public, read

from headrace.core.trust import Effect
from headrace.trust.delegation.grant import Block, Bounds, Grant
from headrace.trust.delegation.token import (
    MAX_BLOCKS,
    Moment,
    RootKeys,
    VoidToken,
    authorize,
    key_id,
    make_token,
    narrow_token,
    read_token,
)

ROOT = PrivateKey.from_pem(pem().decode())  # type: ignore[attr-defined]


def open_biscuit(text: str) -> Biscuit:
    return Biscuit.from_base64(text, PublicKey(public()))


def add(text: str, source: str) -> str:
    """A block as anybody may write it, with the library alone."""
    return open_biscuit(text).append(BlockBuilder(source)).to_base64()


def signed(source: str, **values: Any) -> str:
    """A first block of ours that says anything."""
    builder = BiscuitBuilder(source, values)
    builder.set_root_key_id(key_id(public()))
    return builder.build(ROOT).to_base64()


def may(text: str, **moment: Any) -> bool:
    return authorize(read(text), Moment(**{"operation": "request", "unix_s": NOW_S} | moment)) is None


def test_what_was_granted_is_what_is_read() -> None:
    bounds = Bounds(
        models=frozenset({"small", "large"}),
        tools=frozenset(),
        effects=frozenset({Effect.READ, Effect.WRITE}),
        labels=frozenset({"restricted"}),
        max_cost_nanos=5,
        max_calls=0,
        max_depth=3,
        expires_s=NOW_S + 60,
    )
    block = Block(revocation_id="", holder="spiffe://d/a", bounds=bounds)
    grant = Grant(
        tenant="acme", subject="user:https://i.example#anna", scopes=frozenset({"generate", "logprobs"}),
        facts={"ticket": "T-1 (urgent); x"}, blocks=(block,),
    )  # fmt: skip
    found = read(make_token(pem(), grant)).grant
    assert found.blocks[0].bounds == bounds
    assert (found.tenant, found.subject, found.scopes) == (grant.tenant, grant.subject, grant.scopes)
    assert found.facts == grant.facts
    assert found.chain == ("user:https://i.example#anna", "spiffe://d/a")


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "", "a" * 257, "a\u202eb", "\x7f"])
def test_a_name_that_could_be_read_as_something_else_is_not_granted(name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        granted(models=frozenset({name}))
    with pytest.raises(ValueError, match="is no name"):
        granted(holder=name)
    with pytest.raises(ValueError, match="is no name"):
        narrow_token(granted(), Bounds(), name)


def test_a_holder_narrows_without_a_secret_and_what_is_allowed_is_what_every_block_allows() -> None:
    token = granted(models=frozenset({"a", "b"}), tools=frozenset({"x"}), max_depth=2)
    narrowed = narrow_token(token, Bounds(models=frozenset({"b", "c"}), effects=frozenset({Effect.READ})), "helper")
    assert may(token, model="a") and may(token, model="b") and not may(token, model="c")
    assert may(narrowed, model="b") and not may(narrowed, model="a") and not may(narrowed, model="c")
    delegation = read(narrowed).grant.delegation()
    assert delegation.models == {"b"}
    assert delegation.chain == ("key:laptop", "planner", "helper")
    assert delegation.depth == 2
    assert may(narrowed, operation="tool", tool="x", effect="read")
    assert not may(narrowed, operation="tool", tool="x", effect="write")
    assert not may(narrowed, operation="tool", tool="y", effect="read")


def test_it_ends_at_its_end_and_a_later_end_does_not_prolong_it() -> None:
    token = granted(expires_s=NOW_S + 10)
    longer = narrow_token(token, Bounds(expires_s=NOW_S + 100), None)
    assert may(token, unix_s=NOW_S + 9)
    assert not may(token, unix_s=NOW_S + 10)
    assert not may(longer, unix_s=NOW_S + 10)
    assert read(longer).grant.bounds.expires_s == NOW_S + 10


def test_it_is_not_handed_on_more_often_than_it_allows() -> None:
    token = granted(max_depth=1)
    once = narrow_token(token, Bounds(max_depth=7), "helper")
    assert read(once).grant.depth_left == 0
    with pytest.raises(VoidToken, match="more often"):
        read(narrow_token(once, Bounds(max_calls=1), None))
    with pytest.raises(VoidToken, match="more often"):
        read(narrow_token(granted(max_depth=0), Bounds(), "helper"))


def test_a_block_cannot_be_removed_reordered_or_taken_from_another_token() -> None:
    token = granted()
    first = narrow_token(token, Bounds(models=frozenset({"a"})), None)
    second = narrow_token(first, Bounds(models=frozenset({"b"})), None)
    raw, parts = base64.urlsafe_b64decode(second), []
    at = raw.index(b"\x12")  # field 2, the first block; field 1 is the number of the key
    for _ in range(3):
        length, shift, begin = 0, 0, at + 1
        while True:
            length |= (raw[begin] & 0x7F) << shift
            shift, begin = shift + 7, begin + 1
            if raw[begin - 1] < 0x80:
                break
        parts.append(raw[at : begin + length])
        at = begin + length
    head, proof = raw[: raw.index(b"\x12")], raw[at:]
    assert base64.urlsafe_b64encode(b"".join([head, *parts, proof])).decode() == second
    for forged in (
        [head, parts[0], proof],  # both narrowings gone
        [head, parts[0], parts[1], proof],  # the last one gone
        [head, parts[0], parts[2], proof],  # the first one gone
        [head, parts[0], parts[2], parts[1], proof],
        [head, parts[0], parts[1], parts[2]],  # without its proof
        [head, parts[1], parts[2], proof],
    ):
        with pytest.raises(VoidToken, match="no token that was signed here"):
            read(base64.urlsafe_b64encode(b"".join(forged)).decode())


def test_a_narrowed_token_is_not_widened_by_merging_another_into_it() -> None:
    narrow = narrow_token(granted(models=frozenset({"a"})), Bounds(models=frozenset({"a"})), None)
    wide = granted(models=frozenset({"a", "b"}))
    # A block that says what the wide one says, as facts, rules or checks of its own.
    block = BlockBuilder(open_biscuit(wide).block_source(0).replace('tenant("acme");\nsubject("key:laptop");\n', ""))
    merged = BlockBuilder('note("merged");')
    merged.merge(block)
    text = open_biscuit(narrow).append(merged).to_base64()
    with pytest.raises(VoidToken, match="only the first block says whose it is"):
        read(text)
    text = add(narrow, 'reject if model($m), !{"a", "b"}.contains($m);')
    assert read(text).grant.bounds.models == {"a"}
    assert not may(text, model="b")


@pytest.mark.parametrize(
    "source",
    [
        'model("b");',
        'models("b");',
        'tenant("rival");',
        'subject("key:root");',
        'scope("admin");',
        "max_calls(9223372036854775807);",
        "max_call(1);",
        'max_calls("9");',
        'allow("everything");',
        'holder("spiffe://d/root"); holder("x");',
        'carry("x");',
        'priority("9");',
        "trusting authority; check if tenant($t);",
        "check if tenant($t) trusting authority;",
    ],
)
def test_facts_of_a_later_block_widen_nothing(source: str) -> None:
    token = granted(models=frozenset({"a"}), max_calls=3)
    try:
        text = add(token, source)
        found = read(text)
    except VoidToken:
        return
    except DataLogError:  # the library itself refuses to write it
        return
    assert found.grant.tenant == "acme"
    assert found.grant.scopes == {"generate"}
    assert found.grant.bounds.max_calls == 3
    assert not may(text, model="b")


def test_a_block_that_nobody_understands_voids_the_token_rather_than_being_left_out() -> None:
    for source in ("max_cals(5);", 'models(["a"]);', "limit(3, 4);", 'x("a", "b");', "max_calls(-1);"):
        with pytest.raises(VoidToken, match="nobody here understands"):
            read(add(granted(), source))


def test_checks_of_anybody_are_run_and_can_only_refuse() -> None:
    token = add(granted(), 'check if operation("call") or model("a");')
    assert read(token).has_checks
    assert may(token, operation="call") and may(token, model="a") and not may(token, model="b")
    assert not may(add(granted(), 'check if nothing("x");'), model="a")
    assert may(add(granted(), 'check if holder("planner"), tenant("acme");'), model="a")


def test_texts_that_biscuit_prints_as_something_else_void_the_token() -> None:
    # Printed, this fact looks like a fact and two bounds.
    disguised = 'x");\nmax_calls(99);\nmax_cost_nanos(99);\nholder("root'
    text = open_biscuit(granted(max_calls=1)).append(BlockBuilder("note({n});", {"n": disguised})).to_base64()
    assert "max_calls(99)" in open_biscuit(text).block_source(1)
    with pytest.raises(VoidToken, match="quotes, backslashes or control characters"):
        read(text)
    with pytest.raises(VoidToken, match="quotes"):
        read(signed('tenant("acme"); subject("key:laptop"); note({n});', n='a"b'))


LOOPS = {
    "a join of five": "".join(f"n({i});" for i in range(40)) + "check if n($a), n($b), n($c), n($d), n($e), $a > 99;",
    "a rule that feeds itself": "n(1); n($y) <- n($x), m($y);",
    "a rule that joins": "n(1); a($x, $y) <- n($x), n($y);",
    "many facts": "".join(f"n({i});" for i in range(500)) + "check if n($a), n($b), $a > 999;",
    "many checks": "".join(f"check if n({i}), m({i});" for i in range(40)),
    "a closure": "check if [1, 2, 3].all($x -> [1, 2].any($y -> $x > $y));",
    "an expression without end": "check if 1 " + "+ 1 " * 80 + "> 0;",
}  # fmt: skip


@pytest.mark.parametrize("source", LOOPS.values(), ids=LOOPS.keys())
def test_what_could_take_long_is_refused_before_it_is_run(source: str) -> None:
    with pytest.raises(VoidToken, match=r"too long|characters|nobody here understands"):
        read(add(granted(), source))


def test_too_many_blocks_and_too_long_a_token_are_refused() -> None:
    token = granted()
    for _ in range(MAX_BLOCKS - 1):
        token = add(token, "max_depth(99);")
    read(token)
    with pytest.raises(VoidToken, match="10 blocks"):
        read(add(token, "max_depth(99);"))
    with pytest.raises(VoidToken, match="at most 8192"):
        read("A" * 9000)


@pytest.mark.parametrize("text", ["", "A", "hello", "Biscuit x", "ÿ", "\ud800", "A" * 100, "-" * 50])
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(VoidToken, match="no token that was signed here"):
        read(text)


def test_every_changed_byte_voids_a_token() -> None:
    raw = bytearray(base64.urlsafe_b64decode(narrow_token(granted(), Bounds(max_calls=1), "helper")))
    # The number that names the key (5 bytes and a tag) is a hint: with one key there is no other to choose.
    for at in range(0, len(raw), 3):
        changed = bytearray(raw)
        changed[at] ^= 1 << (at % 8)
        try:
            found = read(base64.urlsafe_b64encode(bytes(changed)).decode())
        except VoidToken:
            continue
        assert found.grant == read(base64.urlsafe_b64encode(bytes(raw)).decode()).grant


def test_another_root_key_does_not_count_and_several_can() -> None:
    other = granted(2)
    with pytest.raises(VoidToken, match="no token that was signed here"):
        read(other)
    both = RootKeys.of([public(1), public(2)])
    assert read_token(other, both).grant.tenant == "acme"
    assert read_token(granted(1), both).grant.tenant == "acme"
    # A token that names none is tried with the only key there is.
    plain = BiscuitBuilder('tenant("acme"); subject("key:laptop");').build(ROOT).to_base64()
    assert read(plain).grant.holder == "key:laptop"
    with pytest.raises(VoidToken):
        read_token(plain, both)


def test_a_revoked_block_voids_its_token_and_everything_that_was_made_of_it() -> None:
    parent = granted()
    child = narrow_token(parent, Bounds(), "helper")
    sibling = narrow_token(parent, Bounds(), "helper")
    ids = [one.revocation_id for one in read(child).grant.blocks]
    with pytest.raises(VoidToken, match="was revoked"):
        read(child, {ids[0]})
    with pytest.raises(VoidToken, match="was revoked"):
        read(child, {ids[1]})
    read(sibling, {ids[1]})
    read(parent, {ids[1]})


def test_blocks_of_third_parties_count_only_if_they_are_known_and_only_narrow() -> None:
    party, stranger = KeyPair(), KeyPair()
    known = RootKeys.of([public()], [repr(party.public_key)])
    token = open_biscuit(granted(models=frozenset({"a", "b"})))

    def from_party(pair: KeyPair, source: str) -> str:
        block = token.third_party_request().create_block(pair.private_key, BlockBuilder(source))
        return token.append_third_party(pair.public_key, block).to_base64()

    narrowed = from_party(party, 'reject if model($m), !{"a", "c"}.contains($m);')
    assert read_token(narrowed, known).grant.bounds.models == {"a"}
    with pytest.raises(VoidToken, match="somebody whom nobody here knows"):
        read(narrowed)
    with pytest.raises(VoidToken, match="somebody whom nobody here knows"):
        read_token(from_party(stranger, "max_calls(1);"), known)
    with pytest.raises(VoidToken, match="only the first block"):
        read_token(from_party(party, 'scope("admin");'), known)


def test_a_first_block_that_does_not_say_whose_it_is_is_void() -> None:
    for source in ('tenant("acme");', 'subject("x");', 'tenant("a"); tenant("b"); subject("x");'):
        with pytest.raises(VoidToken, match="does not say whose it is"):
            read(signed(source))


def test_a_sealed_token_is_read_and_not_narrowed() -> None:
    with pytest.raises(ValueError, match="no token that can be narrowed"):
        narrow_token("x", Bounds(max_calls=1), None)
    with pytest.raises(ValueError, match="nothing is narrowed"):
        narrow_token(granted(), Bounds(), None)
    with pytest.raises(ValueError, match="no token that can be narrowed"):
        narrow_token(signed('tenant("acme"); subject("x");'), Bounds(max_calls=1), None)


@pytest.mark.parametrize(
    "bounds",
    [
        {"max_calls": -1},
        {"max_cost_nanos": 2**63},
        {"max_depth": -1},
        {"expires_s": -1.0},
        {"expires_s": 1e15},
        {"models": frozenset(map(str, range(65)))},
    ],
)
def test_bounds_that_no_block_can_say_are_refused(bounds: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(bounds)).removesuffix("_s")):
        Bounds(**bounds)


@pytest.mark.parametrize("key", ["ed25519/00", "secp256r1/" + "0" * 66, "", "ed25519/" + "F" * 64])
def test_what_is_no_public_key_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="no public key"):
        RootKeys.of([key])


def test_a_key_of_another_kind_signs_nothing() -> None:
    with pytest.raises(ValueError, match="no private key"):
        make_token(b"x", Grant(tenant="t", subject="s", scopes=frozenset(), blocks=(Block(revocation_id=""),)))
    assert KEYS.find(key_id(public())) is not None
