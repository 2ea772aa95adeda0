"""The keeper of an issuer's keys: kept before they are used, the same after a restart, turned in time."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tests.spiffe_world import ME, NOW_S, TD, SetClock, make_issuer

from headrace.cli.config import Settings, compose
from headrace.cli.spiffe import Keeper, open_spiffe
from headrace.core.errors import DiskFull, InvalidRequest, Unauthenticated, Unavailable
from headrace.core.identity import Shown
from headrace.gateway.workloads.source import NoSource
from headrace.memory.authority_file import AuthorityFile
from headrace.server.workload_api import WorkloadApi
from headrace.trust.spiffe.authority import read_authorities
from headrace.trust.spiffe.bundle import write_bundle
from headrace.trust.spiffe.ids import parse_id, parse_pattern
from headrace.trust.spiffe.rhythm import Rhythm
from headrace.trust.spiffe.settings import EntrySettings, SpiffeSettings, WorkloadSettings

RHYTHM = Rhythm(life_s=10_000, settle_s=100)
SETTINGS = SpiffeSettings(trust_domain=TD, rhythm=RHYTHM, x509_ttl_s=600)


def keeper_at(folder: Path, clock: SetClock, settings: SpiffeSettings = SETTINGS) -> Keeper:
    keeper = Keeper(settings, folder, clock, Random(4))
    keeper.open()
    return keeper


def test_keys_are_on_disk_before_they_sign_and_the_same_after_a_restart(tmp_path: Path) -> None:
    clock = SetClock()
    keeper = keeper_at(tmp_path, clock)
    kept = read_authorities((tmp_path / "authorities.json").read_bytes())
    assert keeper.issuer.authorities == kept
    keeper.close()
    clock.unix += 1000
    again = keeper_at(tmp_path, clock)
    assert again.issuer.authorities == kept
    again.close()


def test_keys_turn_in_time_and_whoever_listens_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        clock = SetClock()
        keeper = keeper_at(tmp_path, clock)
        keeper.api = WorkloadApi(tmp_path / "unused.sock", keeper.issuer, clock)
        news = keeper.api.news.event()
        clock.unix += 4999
        keeper.turn()
        assert (keeper.issuer.authorities.sequence, news.is_set()) == (1, False)
        clock.unix += 1
        keeper.turn()
        assert (keeper.issuer.authorities.sequence, news.is_set()) == (2, True)
        assert read_authorities((tmp_path / "authorities.json").read_bytes()) == keeper.issuer.authorities
        keeper.close()

    asyncio.run(main())


def test_keys_that_cannot_be_kept_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SetClock()
    keeper = keeper_at(tmp_path, clock)
    before = keeper.issuer.authorities

    def full(_: AuthorityFile, __: bytes) -> None:
        raise DiskFull("there is no room.")

    clock.unix += 5000
    with monkeypatch.context() as patch:
        patch.setattr(AuthorityFile, "save", full)
        with pytest.raises(DiskFull):
            keeper.turn()
    assert keeper.issuer.authorities is before
    keeper.turn()
    assert keeper.issuer.authorities.sequence == before.sequence + 1
    keeper.close()


def test_keys_of_another_trust_domain_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    keeper_at(tmp_path, SetClock()).close()
    with pytest.raises(Unavailable, match=r"has the keys of the trust domain example\.org, not of other\.org"):
        keeper_at(tmp_path, SetClock(), replace(SETTINGS, trust_domain="other.org"))
    (tmp_path / "authorities.json").write_text("{}")
    with pytest.raises(Unavailable, match="not as it was written"):
        keeper_at(tmp_path, SetClock())
    (tmp_path / "authorities.json").unlink()
    keeper_at(tmp_path, SetClock()).close()  # and the lock was let go of each time


def test_bundles_of_others_are_read_again_and_a_broken_one_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    first, second = make_issuer(trust_domain="other.org"), make_issuer(trust_domain="other.org", seed=8)
    file.write_bytes(write_bundle(first.bundle))
    settings = replace(SETTINGS, federated={"other.org": file})
    keeper = keeper_at(tmp_path / "keys", SetClock(), settings)
    assert keeper.issuer.bundles["other.org"] == first.bundle
    file.write_text("rubbish")
    with pytest.raises(Unavailable, match="is no JSON"):
        keeper.turn()
    assert keeper.issuer.bundles["other.org"] == first.bundle
    file.write_bytes(write_bundle(second.bundle))
    keeper.turn()
    assert keeper.issuer.bundles["other.org"] == second.bundle
    file.unlink()
    with pytest.raises(Unavailable, match="cannot be read"):
        keeper.turn()
    keeper.close()
    with pytest.raises(Unavailable, match="cannot be read"):
        keeper_at(tmp_path / "keys", SetClock(), settings)


def test_an_entry_of_another_trust_domain_ends_the_start(tmp_path: Path) -> None:
    wrong = replace(SETTINGS, entries=(EntrySettings(id=parse_id("spiffe://other.org/a"), uid=os.getuid()),))
    with pytest.raises(Unavailable, match="not of the trust domain"):
        keeper_at(tmp_path, SetClock(), wrong)


def test_an_issuer_without_a_name_of_its_own_believes_its_trust_domain_all_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_spiffe(SETTINGS, tmp_path, SetClock(NOW_S)) as spiffe:
            assert isinstance(spiffe.source, NoSource)
            assert list(spiffe.source.bundles()) == [TD]
            assert spiffe.authenticators(is_needed=False) == ()
        # it is closed: another may have the keys
        async with open_spiffe(SETTINGS, tmp_path, SetClock(NOW_S)):
            pass

    asyncio.run(main())


AGENTS = WorkloadSettings(pattern=parse_pattern(f"spiffe://{TD}/agent/*"), tenant="agents")
MAIL = EntrySettings(id=parse_id(f"spiffe://{TD}/agent/mail"), uid=1000)


def read(spiffe: SpiffeSettings) -> Settings:
    """Settings as a reload reads them."""
    plain = compose({}, {"HOME": "/h"}).settings
    return replace(plain, trust=replace(plain.trust, spiffe=spiffe))


def test_entries_workloads_and_audiences_are_taken_by_a_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no settings file is
    other = tmp_path / "other.json"
    other.write_bytes(write_bundle(make_issuer(trust_domain="other.org").bundle))

    async def main() -> None:
        clock = SetClock()
        settings = replace(SETTINGS, id=parse_id(f"spiffe://{TD}/gateway"), workloads={"a": AGENTS})
        async with open_spiffe(settings, tmp_path / "keys", clock) as spiffe:
            by_certificate, by_token = spiffe.authenticators(is_needed=False)
            assert spiffe.keeper is not None
            issuer = spiffe.keeper.issuer
            chain = issuer.mint_x509(MAIL.id).certificates
            token = issuer.mint_jwt(MAIL.id, (f"spiffe://{TD}/gateway",)).token
            shown = Shown(method="GET", url="", headers={}, certificates=chain, came_unix_s=NOW_S)
            said = Shown(method="GET", url="", headers={}, scheme="bearer", token=token, came_unix_s=NOW_S)
            for asked, what in ((by_certificate, shown), (by_token, said)):
                found = asked.authenticate(what)
                assert found is not None
                assert found.principal.tenant == "agents"
            assert not issuer.has_names(ME)
            after = replace(
                settings,
                entries=(MAIL,),
                audiences=("elsewhere",),
                federated={"other.org": other},
                workloads={"a": replace(AGENTS, tenant="others")},
            )
            put_in_force = spiffe.prepare(read(after))
            assert not issuer.has_names(ME)  # read, and not in force yet
            put_in_force()
            assert issuer.has_names(ME)
            assert "other.org" in issuer.bundles
            again = by_certificate.authenticate(shown)
            assert again is not None
            assert again.principal.tenant == "others"
            with pytest.raises(Unauthenticated, match="another audience"):
                by_token.authenticate(said)
            spiffe.prepare(read(replace(after, federated={})))()
            assert "other.org" not in issuer.bundles

    asyncio.run(main())


def test_a_reload_refuses_what_holds_after_a_restart_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def main() -> None:
        async with open_spiffe(SETTINGS, tmp_path / "keys", SetClock()) as spiffe:
            for wrong, names in (
                ({"trust_domain": "other.org"}, "trust_domain"),
                ({"x509_ttl_s": 60.0, "jwt_ttl_s": 60.0}, "jwt_ttl, x509_ttl"),
                ({"workloads": {"a": AGENTS}}, "workloads"),
                ({"is_required": True}, "required"),
            ):
                with pytest.raises(InvalidRequest, match=f"spiffe: {names} changed and can only hold after a restart"):
                    spiffe.prepare(read(replace(SETTINGS, **wrong)))
            with pytest.raises(Unavailable, match="cannot be read"):
                spiffe.prepare(read(replace(SETTINGS, federated={"other.org": tmp_path / "nowhere"})))
            spiffe.prepare(read(SETTINGS))()

    asyncio.run(main())
