"""Workloads as callers: what an SVID gives its holder, and that everything else gives nothing."""

import pytest
from tests.spiffe_world import NOW_S, TD, SetClock, make_issuer, turn

from headrace.core.errors import Unauthenticated
from headrace.core.identity import Shown
from headrace.core.request import Principal
from headrace.trust.spiffe.authenticators import JwtWorkloads, Workloads, X509Workloads
from headrace.trust.spiffe.ids import parse_id, parse_pattern
from headrace.trust.spiffe.rhythm import Rhythm
from headrace.trust.spiffe.settings import WorkloadSettings

AGENTS = WorkloadSettings(
    pattern=parse_pattern(f"spiffe://{TD}/agent/*"),
    tenant="agents",
    agent="*",
    scopes=frozenset({"generate", "logprobs"}),
    priority=3,
    share=2.0,
    tags=("mail",),
    labels=frozenset({"internal"}),
    routes=frozenset({"small"}),
)
ROOT = WorkloadSettings(pattern=parse_pattern(f"spiffe://{TD}/agent/root"), tenant="other", agent="the root")
DEEP = WorkloadSettings(pattern=parse_pattern(f"spiffe://{TD}/deep/**"), tenant="deep", agent="*")
EXACT = WorkloadSettings(pattern=parse_pattern(f"spiffe://{TD}/ns/exact"), tenant="exact", agent="*")


def shown(now_s: float = NOW_S, **more: object) -> Shown:
    return Shown(method="POST", url="https://x/", headers={}, came_unix_s=now_s, **more)  # type: ignore[arg-type]


def test_the_first_pattern_that_fits_says_who_a_workload_is() -> None:
    workloads = Workloads([AGENTS, ROOT, DEEP, EXACT])
    mail = f"spiffe://{TD}/agent/mail"
    assert workloads.principal(parse_id(mail)) == Principal(
        tenant="agents",
        agent="mail",
        scopes=frozenset({"generate", "logprobs"}),
        priority=3,
        share=2.0,
        tags=("mail",),
        labels=frozenset({"internal"}),
        routes=frozenset({"small"}),
        subject=mail,
        workload=mail,
    )
    assert workloads.principal(parse_id(f"spiffe://{TD}/agent/root")).agent == "root"  # the first one fits
    assert workloads.principal(parse_id(f"spiffe://{TD}/deep/a/b")).agent == "a/b"
    assert workloads.principal(parse_id(f"spiffe://{TD}/ns/exact")).agent == "exact"
    for stranger in (f"spiffe://{TD}/agent", f"spiffe://{TD}/agent/a/b", "spiffe://other.org/agent/mail"):
        with pytest.raises(Unauthenticated, match="no workload that this server serves") as caught:
            workloads.principal(parse_id(stranger))
        assert caught.value.code == "unknown_workload"


def test_a_certificate_is_known_until_it_ends_or_the_bundles_change() -> None:
    clock, rhythm = SetClock(), Rhythm()
    issuer = make_issuer(clock)
    asked = X509Workloads(Workloads([AGENTS]), lambda: issuer.bundles)
    chain = issuer.mint_x509(parse_id(f"spiffe://{TD}/agent/mail")).certificates
    found = asked.authenticate(shown(certificates=chain))
    assert found is not None
    assert (found.principal.agent, found.expires_s, found.is_token) == ("mail", NOW_S + 3600, False)
    assert asked.authenticate(shown(certificates=chain)) is found  # verified once
    with pytest.raises(Unauthenticated, match="was valid until"):
        asked.authenticate(shown(NOW_S + 3601, certificates=chain))
    assert asked.authenticate(shown(certificates=chain)) is found
    turn(issuer, rhythm, NOW_S + rhythm.life_s / 2)  # its authority is still there
    assert asked.authenticate(shown(certificates=chain)) is not found
    turn(issuer, rhythm, NOW_S + rhythm.life_s)
    with pytest.raises(Unauthenticated, match="no authority"):
        asked.authenticate(shown(certificates=chain))


def test_certificates_of_strangers_are_refused_and_none_is_none() -> None:
    issuer, other = make_issuer(), make_issuer(seed=5)
    asked = X509Workloads(Workloads([AGENTS]), lambda: issuer.bundles)
    assert asked.authenticate(shown()) is None
    assert asked.authenticate(shown(scheme="bearer", token="hr_key")) is None
    chain = other.mint_x509(parse_id(f"spiffe://{TD}/agent/mail")).certificates
    for wrong in (chain, (b"rubbish",), chain * 9):
        with pytest.raises(Unauthenticated, match="no SVID that is valid here"):
            asked.authenticate(shown(certificates=wrong))
    unknown = issuer.mint_x509(parse_id(f"spiffe://{TD}/engine")).certificates
    with pytest.raises(Unauthenticated, match="no workload"):
        asked.authenticate(shown(certificates=unknown))


def test_a_token_is_known_by_its_subject_and_refused_if_it_is_not_valid() -> None:
    issuer = make_issuer()
    asked = JwtWorkloads(Workloads([AGENTS]), lambda: issuer.bundles, lambda: ("gateway", "other name"))
    mail = parse_id(f"spiffe://{TD}/agent/mail")
    token = issuer.mint_jwt(mail, ("other name",)).token
    found = asked.authenticate(shown(scheme="bearer", token=token))
    assert found is not None
    assert (found.principal.workload, found.expires_s, found.is_token) == (str(mail), NOW_S + 300, True)
    assert asked.authenticate(shown(scheme="bearer", token=token)) is found
    for now_s, wrong, why in (
        (NOW_S + 300, token, "has expired"),
        (NOW_S, issuer.mint_jwt(mail, ("elsewhere",)).token, "another audience"),
        (NOW_S, make_issuer(seed=9).mint_jwt(mail, ("gateway",)).token, "no key"),
        (NOW_S, token[:-8] + "AAAAAAAA", "signature"),
    ):
        with pytest.raises(Unauthenticated, match=why) as caught:
            asked.authenticate(shown(now_s, scheme="bearer", token=wrong))
        assert caught.value.code == "invalid_token"
        assert wrong not in caught.value.message
    with pytest.raises(Unauthenticated, match="no workload"):
        unknown = issuer.mint_jwt(parse_id(f"spiffe://{TD}/engine"), ("gateway",)).token
        asked.authenticate(shown(scheme="bearer", token=unknown))


@pytest.mark.parametrize(
    ("scheme", "token"),
    [(None, None), ("bearer", "hr_key"), ("bearer", "ey.ey.ey"), ("basic", "ey.e30.ey"), ("dpop", "ey.e30.ey")],
)
def test_what_is_no_jwt_svid_is_left_to_others(scheme: str | None, token: str | None) -> None:
    asked = JwtWorkloads(Workloads([AGENTS]), lambda: make_issuer().bundles, lambda: ("gateway",))
    assert asked.authenticate(shown(scheme=scheme, token=token)) is None


def test_a_users_token_and_one_of_a_trust_domain_that_nobody_knows_are_left_to_others() -> None:
    issuer, other = make_issuer(), make_issuer(trust_domain="other.org")
    asked = JwtWorkloads(Workloads([AGENTS]), lambda: issuer.bundles, lambda: ("gateway",))
    token = other.mint_jwt(parse_id("spiffe://other.org/a"), ("gateway",)).token
    assert asked.authenticate(shown(scheme="bearer", token=token)) is None


def test_where_an_svid_is_needed_nothing_else_will_do() -> None:
    issuer = make_issuer()
    asked = X509Workloads(Workloads([AGENTS]), lambda: issuer.bundles, is_needed=True)
    mail = parse_id(f"spiffe://{TD}/agent/mail")
    foreign = make_issuer(trust_domain="other.org").mint_jwt(parse_id("spiffe://other.org/a"), ("gateway",)).token
    for token in (None, "hr_key", "ey.ey.ey", foreign):
        with pytest.raises(Unauthenticated, match="only workloads with an SVID") as caught:
            asked.authenticate(shown(scheme=None if token is None else "bearer", token=token))
        assert caught.value.code == "svid_required"
    token = issuer.mint_jwt(mail, ("gateway",)).token
    assert asked.authenticate(shown(scheme="bearer", token=token)) is None  # the other authenticator's
    assert asked.authenticate(shown(certificates=issuer.mint_x509(mail).certificates)) is not None
