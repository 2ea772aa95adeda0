"""Users by their tokens: whom a token names, what it lets do, and what it is bound to."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from tests.tokens import AUDIENCE, ISSUER, NOW_S, encode, key, key_set, proof, public, token

from headrace.core.errors import Unauthenticated, Unavailable
from headrace.core.identity import Identity, Shown
from headrace.core.request import Principal
from headrace.trust.identity.dpop import Proofs
from headrace.trust.identity.jwk import KeySet, read_key, read_key_set
from headrace.trust.identity.settings import IdentitySettings, IssuerSettings, SignerSettings
from headrace.trust.identity.users import MAX_KEPT, Users

URL = "http://localhost:8000/v1/chat/completions"
SETTINGS = IssuerSettings(
    name="corp",
    issuer=ISSUER,
    audience=frozenset({AUDIENCE}),
    jwks="https://id.example/keys",
    tenant="acme",
    scope_claim="scope",
    scope_map={"llm:use": frozenset({"generate"}), "llm:watch": frozenset({"metrics", "audit"})},
    scopes=frozenset(),
    labels=frozenset({"internal"}),
    tags=("corp",),
)


@dataclass
class Sets:
    """Key sets that a test puts there."""

    keys: KeySet | None = field(default_factory=lambda: read_key_set(key_set(key())))
    wanted: list[str] = field(default_factory=list)

    def find(self, name: str) -> KeySet | None:
        assert name == "corp"
        return self.keys

    def want(self, name: str) -> None:
        self.wanted.append(name)


def users(settings: IssuerSettings = SETTINGS, sets: Sets | None = None) -> Users:
    return Users([settings], sets or Sets(), Proofs(60, 100, b"s" * 32))


def shown(text: str | None, scheme: str = "bearer", dpop: str | None = None, **more: Any) -> Shown:
    headers = {} if dpop is None else {b"dpop": dpop.encode()}
    given = {"method": "POST", "url": URL, "came_unix_s": NOW_S} | more
    return Shown(headers=headers, scheme=scheme, token=text, **given)


def who(text: str, settings: IssuerSettings = SETTINGS, **more: Any) -> Identity:
    found = users(settings).authenticate(shown(text, **more))
    assert found is not None
    return found


def test_a_token_names_a_user_of_the_tenant_with_what_its_scopes_map_to() -> None:
    assert who(token(scope="openid llm:use llm:watch")) == Identity(
        Principal(
            tenant="acme",
            user="anna",
            scopes=frozenset({"generate", "metrics", "audit"}),
            tags=("corp",),
            labels=frozenset({"internal"}),
            subject="user:https://id.example#anna",
        ),
        "corp",
        NOW_S + 290 + 30,
        is_token=True,
    )


@pytest.mark.parametrize(
    ("claim", "value", "scopes"),
    [
        ("scope", "llm:use", {"generate"}),
        ("scope", "llm:useless", set()),
        ("scope", "", set()),
        ("scope", ["llm:use", 1, None], {"generate"}),
        ("scope", {"llm:use": 1}, set()),
        ("realm.roles", None, set()),
        ("https://id.example/roles", ["llm:watch"], {"metrics", "audit"}),
    ],
)
def test_scopes_are_those_of_the_map_and_no_others(claim: str, value: Any, scopes: set[str]) -> None:
    settings = replace(SETTINGS, scope_claim=claim)
    assert who(token(**{claim: value, "realm": {"roles": ["admin"]}}), settings).principal.scopes == scopes


def test_a_claim_may_lie_deeper() -> None:
    settings = replace(SETTINGS, scope_claim="realm_access.roles", scopes=frozenset({"generate"}))
    found = who(token(realm_access={"roles": ["llm:watch"]}), settings).principal
    assert found.scopes == {"generate", "metrics", "audit"}


def test_a_tenant_is_named_by_a_claim_only_where_the_operator_lists_it() -> None:
    settings = replace(SETTINGS, tenant=None, tenant_claim="org", tenants=frozenset({"red", "blue"}))
    assert who(token(org="red"), settings).principal.tenant == "red"
    for org in ("green", "acme", "", None, ["red"], 1):
        with pytest.raises(Unauthenticated):
            who(token(org=org), settings)


@pytest.mark.parametrize("sub", [None, "", 1, "a b", "a\n", "é", "x" * 256, ["anna"]])
def test_a_token_must_say_who_it_is(sub: Any) -> None:
    with pytest.raises(Unauthenticated):
        who(token(sub=sub))


def test_another_claim_may_name_the_user_but_the_subject_stays_the_issuers() -> None:
    found = who(token(email="anna@example.com"), replace(SETTINGS, user_claim="email")).principal
    assert (found.user, found.subject) == ("anna@example.com", "user:https://id.example#anna")
    with pytest.raises(Unauthenticated):
        who(token(), replace(SETTINGS, user_claim="email"))


@pytest.mark.parametrize(
    "text",
    [
        None,
        "hr_abc",
        "a.b.c",
        "eyJ.eyJ.x",
        token(iss="https://other.example"),
        token(iss=["https://id.example"]),
        token(padding="x" * 20_000),
    ],
)
def test_what_is_no_token_of_a_known_issuer_is_for_others_to_judge(text: str | None) -> None:
    assert users().authenticate(shown(text)) is None
    assert users().authenticate(shown(token(), scheme="basic")) is None


@pytest.mark.parametrize(
    "text",
    [
        token(aud="https://other.example"),
        token(exp=NOW_S - 100),
        token(by=key("ES256", "other")),
        token(header={"kid": "two"}),
        token(header={"crit": ["x"], "x": 1})[:-4],
    ],
)
def test_a_token_that_is_not_valid_is_refused_with_a_challenge(text: str) -> None:
    try:
        found = users().authenticate(shown(text))
    except Unauthenticated as error:
        assert error.challenges == ('Bearer realm="headrace", error="invalid_token"',)
        assert ISSUER not in error.message and AUDIENCE not in error.message
    else:
        assert found is None  # no issuer was read of it; then nobody knows it


def test_the_algorithms_are_the_issuers_and_not_the_tokens() -> None:
    sets = Sets(read_key_set(key_set(key("ES384"))))
    with pytest.raises(Unauthenticated):
        users(SETTINGS, sets).authenticate(shown(token(alg="ES384")))
    settings = replace(SETTINGS, algs=frozenset({"ES384"}))
    assert users(settings, sets).authenticate(shown(token(alg="ES384"))) is not None


def test_an_unknown_key_has_the_set_fetched_anew() -> None:
    sets = Sets(read_key_set(key_set(key("ES256", "old"))))
    judge = users(SETTINGS, sets)
    with pytest.raises(Unauthenticated, match="not known"):
        judge.authenticate(shown(token()))
    assert sets.wanted == ["corp"]
    sets.keys = read_key_set(key_set(key()))
    assert judge.authenticate(shown(token())) is not None


def test_without_a_set_nobody_is_refused_for_good() -> None:
    sets = Sets(None)
    with pytest.raises(Unavailable):
        users(SETTINGS, sets).authenticate(shown(token()))
    assert sets.wanted == ["corp"]


def test_what_was_verified_once_holds_only_with_the_keys_of_now_and_until_it_expires() -> None:
    sets = Sets()
    judge = users(SETTINGS, sets)
    text = token()
    assert judge.authenticate(shown(text)) == judge.authenticate(shown(text))
    with pytest.raises(Unauthenticated, match="expired"):
        judge.authenticate(shown(text, came_unix_s=NOW_S + 320))
    sets.keys = read_key_set(key_set(public(key("ES256", "new"), kid="one")))
    with pytest.raises(Unauthenticated, match="signature"):
        judge.authenticate(shown(text))


def test_known_tokens_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace.trust.identity.users.MAX_KEPT", 2)
    judge = users()
    for number in range(4):
        judge.authenticate(shown(token(jti=str(number))))
    assert len(judge._known) == 2 < MAX_KEPT


CLIENT_KEY = key("ES256", "client")
THUMBPRINT = read_key(public(CLIENT_KEY)).thumbprint
BOUND = token(cnf={"jkt": THUMBPRINT})


def prove(by: Any = None, text: str = BOUND, **changed: Any) -> str:
    return proof(by or key("ES256", "client"), text, **changed)


def test_a_token_that_is_bound_to_a_key_is_good_with_a_proof_of_it_once() -> None:
    judge = users()
    assert judge.authenticate(shown(BOUND, "dpop", prove())) is not None
    assert judge.authenticate(shown(BOUND, "dpop", prove(jti="2"))) is not None
    with pytest.raises(Unauthenticated, match="before") as caught:
        judge.authenticate(shown(BOUND, "dpop", prove()))
    assert caught.value.challenges == ('DPoP error="invalid_dpop_proof", algs="ES256 ES384 EdDSA PS256 RS256"',)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (shown(BOUND), "show it as 'DPoP'"),
        (shown(BOUND, "bearer", prove()), "show it as 'DPoP'"),
        (shown(BOUND, "dpop"), "missing"),
        (shown(BOUND, "dpop", prove(key())), "another key"),
        (shown(BOUND, "dpop", prove(text=token())), "ath"),
        (shown(token(), "dpop", prove(text=token())), "not bound"),
        (shown(token(), "bearer", prove(text=token())), "not bound"),
    ],
)
def test_a_token_and_its_proof_belong_together(seen: Shown, why: str) -> None:
    with pytest.raises(Unauthenticated, match=why):
        users().authenticate(seen)


def test_an_issuer_may_be_made_to_bind_all_its_tokens_or_none() -> None:
    with pytest.raises(Unauthenticated, match="not bound"):
        who(token(), replace(SETTINGS, dpop="required"))
    with pytest.raises(Unauthenticated, match="not taken here"):
        who(BOUND, replace(SETTINGS, dpop="off"), scheme="dpop", dpop=prove())
    assert users(replace(SETTINGS, dpop="off")).challenges == ()
    assert users().challenges[0].startswith("DPoP algs=")


def test_a_nonce_is_asked_for_where_it_is_needed() -> None:
    judge = users(replace(SETTINGS, nonce="required"))
    with pytest.raises(Unauthenticated) as caught:
        judge.authenticate(shown(BOUND, "dpop", prove()))
    assert caught.value.code == "use_dpop_nonce"
    assert judge.authenticate(shown(BOUND, "dpop", prove(nonce=caught.value.nonce))) is not None


def test_a_token_that_is_bound_to_a_certificate_is_good_with_that_one() -> None:
    text = token(cnf={"x5t#S256": encode(hashlib.sha256(b"leaf").digest())})
    assert who(text, certificates=(b"leaf", b"issuer")).principal.user == "anna"
    for certificates in ((), (b"issuer", b"leaf"), (b"",)):
        with pytest.raises(Unauthenticated, match="certificate"):
            who(text, certificates=certificates)


def test_a_token_may_be_bound_to_both_and_then_needs_both() -> None:
    text = token(cnf={"jkt": THUMBPRINT, "x5t#S256": encode(hashlib.sha256(b"leaf").digest())})
    given = shown(text, "dpop", prove(text=text))
    with pytest.raises(Unauthenticated, match="certificate"):
        users().authenticate(given)
    assert users().authenticate(replace(given, certificates=(b"leaf",))) is not None
    with pytest.raises(Unauthenticated, match="DPoP"):
        users().authenticate(shown(text, certificates=(b"leaf",)))


@pytest.mark.parametrize("cnf", [{"jwk": {}}, {"kid": "one"}, {"jkt": THUMBPRINT, "x": 1}, "x", []])
def test_a_token_that_is_bound_to_what_we_do_not_understand_is_refused(cnf: Any) -> None:
    with pytest.raises(Unauthenticated, match="cnf"):
        who(token(cnf=cnf), scheme="dpop", dpop=prove())


def test_the_tenants_of_callers_are_those_that_the_settings_name() -> None:
    claimed = replace(SETTINGS, tenant=None, tenant_claim="org", tenants=frozenset({"red", "blue"}))
    signer = SignerSettings(name="desk", key=Path("desk.pem"), tenant="green")
    found = IdentitySettings(issuers={"a": SETTINGS, "b": claimed}, signers={"desk": signer})
    assert found.tenants == {"acme", "red", "blue", "green"}


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"audience": frozenset()}, "audience"),
        ({"tenant": None}, "tenant"),
        ({"tenant_claim": "org"}, "tenant"),
        ({"tenant": None, "tenant_claim": "org"}, "tenants"),
        ({"scope_claim": None}, "scope_claim"),
        ({"dpop": "maybe"}, "dpop"),
        ({"dpop": "off", "nonce": "required"}, "nonce"),
        ({"issuer": "corp", "jwks": None}, "jwks"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        replace(SETTINGS, **changed)
