"""Settings of workload identity: what is read, what is refused with line and remedy, what goes with the rest."""

import subprocess
import sys
from pathlib import Path

import pytest

from headrace.cli.config import Resolved, compose
from headrace.cli.kinds import WrongSettings
from headrace.cli.surroundings import look_around
from headrace.trust.spiffe.rhythm import Rhythm

ISSUER = '[spiffe]\ntrust_domain = "example.org"\nid = "spiffe://example.org/gateway"\n'
ENTRY = '[[spiffe.entries]]\nid = "spiffe://example.org/agent/mail"\n'
AGENTS = '[spiffe.workloads."spiffe://example.org/agent/*"]\ntenant = "agents"\n'
BACKEND = '[backends.one]\nkind = "openai-compatible"\nurl = "https://engine:8000/v1"\nmodels = ["m"]\n'


def read(folder: Path, text: str) -> Resolved:
    file = folder / "a.toml"
    file.write_text(text, "utf-8")
    return compose({}, {"HOME": "/h"}, file)


def test_all_of_it_is_read_and_written_again(tmp_path: Path) -> None:
    text = (
        f"{ISSUER}serve = '/run/h.sock'\naudiences = ['gateway']\nx509_ttl = '30m'\njwt_ttl = 60\nrequired = true\n"
        "rhythm = {life = '24h', settle = '10m'}\nfederated = {\"other.org\" = '/etc/other.json'}\n"
        f"{ENTRY}uid = 1000\ngid = 100\nexe = '/usr/bin/agent'\nsha256 = '{'a' * 64}'\nhint = 'internal'\n"
        f"x509_ttl = 600\njwt_ttl = 30\n{AGENTS}agent = '*'\nscopes = ['generate']\nlabels = ['internal']\n"
        f"[tls]\nidentity = 'spiffe'\nclients = 'required'\n{BACKEND}identity = 'spiffe'\n"
        "spiffe_id = 'spiffe://example.org/engine/*'\n"
    )
    resolved = read(tmp_path, text)
    spiffe = resolved.settings.trust.spiffe
    assert spiffe.rhythm == Rhythm(life_s=86_400, settle_s=600)
    assert [(str(one.id), one.uid, one.x509_ttl_s) for one in spiffe.entries] == [
        ("spiffe://example.org/agent/mail", 1000, 600)
    ]
    assert [str(one.pattern) for one in spiffe.workloads.values()] == ["spiffe://example.org/agent/*"]
    assert resolved.settings.trust.names_callers
    (tmp_path / "b").mkdir()
    again = read(tmp_path / "b", resolved.toml()).settings
    assert (again.trust, again.tls, again.gateway) == (
        resolved.settings.trust,
        resolved.settings.tls,
        resolved.settings.gateway,
    )


def test_nothing_is_on_without_the_table(tmp_path: Path) -> None:
    spiffe = read(tmp_path, "port = 1").settings.trust.spiffe
    assert (spiffe.is_on, spiffe.names_callers, spiffe.is_required) == (False, False, False)


@pytest.mark.parametrize(
    ("text", "line", "key", "sentence"),
    [
        ("[spiffe]\n", 1, "spiffe", "neither trust_domain"),
        ("[spiffe]\ntrust_domain = 'Example.org'\n", 2, "spiffe.trust_domain", "is no trust domain"),
        ("[spiffe]\ntrust_domain = 7\n", 2, "spiffe.trust_domain", "is no text"),
        (f"{ISSUER}socket = 'unix:///a'\n", 4, "spiffe.socket", "is there beside trust_domain"),
        ("[spiffe]\nsocket = '/run/a.sock'\n", 2, "spiffe.socket", "is no address of a socket"),
        ("[spiffe]\nsocket = 'tcp://1.2.3.4:1'\n", 2, "spiffe.socket", "is no address of a socket"),
        ("[spiffe]\nsocket = 'unix:///a'\nserve = '/b'\n", 3, "spiffe.serve", "is for an issuer"),
        ("[spiffe]\ntrust_domain = 'a'\nid = 'spiffe://b/c'\n", 3, "spiffe.id", "is not of the trust domain a"),
        ("[spiffe]\ntrust_domain = 'a'\nid = 'spiffe://a'\n", 3, "spiffe.id", "needs a path"),
        ("[spiffe]\ntrust_domain = 'a'\nid = 'spiffe://a/%61'\n", 3, "spiffe.id", "other characters"),
        (f"{ISSUER}{ENTRY}", 4, "spiffe.entries[1]", "everybody would get the name"),
        (f"{ISSUER}[[spiffe.entries]]\nid='spiffe://b/c'\nuid=1\n", 4, "spiffe.entries", "not of the trust domain"),
        (f"{ISSUER}{ENTRY}uid = -1\n", 6, "spiffe.entries[1].uid", "is not a whole number"),
        (f"{ISSUER}{ENTRY}exe = 'agent'\n", 6, "spiffe.entries[1].exe", "begins with a slash"),
        (f"{ISSUER}{ENTRY}sha256 = 'AA'\n", 6, "spiffe.entries[1].sha256", "is no SHA-256"),
        (f"{ISSUER}{ENTRY}path = '/a'\n", 6, "spiffe.entries[1].path", "is no setting"),
        (f"{ISSUER}x509_ttl = '2d'\n", 4, "spiffe.x509_ttl", "is not a time from 10 to 86400"),
        (f"{ISSUER}x509_ttl = '24h'\n", 1, "spiffe.rhythm", "give keys a longer life"),
        (f"{ISSUER}rhythm = {{life = '1h', settle = '1h'}}\n", 4, "spiffe.rhythm", "a quarter of life_s"),
        (
            f"{ISSUER}federated = {{\"example.org\" = '/a'}}\n",
            4,
            "spiffe.federated",
            "whose identities are issued here",
        ),
        (f"{ISSUER}federated = {{\"Other\" = '/a'}}\n", 4, "spiffe.federated.Other", "is no trust domain"),
        (f"{ISSUER}[spiffe.workloads.'spiffe://*/a']\ntenant='a'\n", 4, "spiffe.workloads", "is no trust domain"),
        (f"{ISSUER}[spiffe.workloads.'agent/*']\ntenant='a'\n", 4, "spiffe.workloads", "is no pattern"),
        (f"{ISSUER}[spiffe.workloads.'spiffe://a/*']\nagent='x'\n", 4, "spiffe.workloads", "tenant is missing"),
        (f"[spiffe]\ntrust_domain = 'example.org'\n{AGENTS}", 1, "spiffe.id", "say whom they are for"),
        ("[tls]\nidentity = 'spiffe'\n", 2, "tls.identity", r"\[spiffe\] gives it"),
        ("[spiffe]\ntrust_domain = 'a'\n[tls]\nidentity = 'spiffe'\n", 4, "tls.identity", "it has none"),
        ("[tls]\nidentity = 'spiffe'\ncertificate = '/a'\nkey = '/b'\n", 1, "tls", "in their place"),
        ("[tls]\ncertificate = '/a'\n", 1, "tls", "the files belong together"),
        ("[tls]\nclients = 'wanted'\ncertificate = '/a'\nkey = '/b'\n", 1, "tls", "no client_ca"),
        (f"{ISSUER}[tls]\nidentity = 'spiffe'\nclient_ca = '/a'\n", 4, "tls", "take it out"),
        (f"{BACKEND}identity = 'spiffe'\n", 5, "backends.one.identity", r"\[spiffe\] gives it"),
        (f"{BACKEND}audience = 'a'\n", 5, "backends.one.audience", r"\[spiffe\] gives it"),
        (f"{BACKEND}spiffe_id = 'spiffe://a/b'\n", 5, "backends.one.spiffe_id", r"\[spiffe\] gives it"),
        (f"{BACKEND}spiffe_id = 'engine'\n", 5, "backends.one.spiffe_id", "is no pattern"),
        (f"{BACKEND}client_key = '/a'\n", 1, "backends.one.client_certificate", "belong together"),
        (f"{BACKEND}ca_file = '/a'\nspiffe_id = 'spiffe://a/b'\n", 5, "backends.one.ca_file", "take it out"),
        (f"{BACKEND}secret = 'env:A'\naudience = 'a'\n", 6, "backends.one.audience", "has one authorization"),
        (
            f"{BACKEND.replace('https', 'http')}identity = 'spiffe'\n",
            5,
            "backends.one.identity",
            "write https://",
        ),
        (
            "[backends.local]\nkind = 'engine'\nidentity = 'spiffe'\n",
            3,
            "backends.local.identity",
            "nothing is connected",
        ),
    ],
)
def test_what_is_wrong_is_told_with_line_key_and_remedy(
    tmp_path: Path, text: str, line: int, key: str, sentence: str
) -> None:
    with pytest.raises(WrongSettings, match=sentence) as caught:
        read(tmp_path, text)
    problem = caught.value.problems[0]
    assert problem.key.startswith(key)
    assert problem.line == line


KEYS = "[[keys]]\nname = 'a'\nsha256 = '" + "0" * 64 + "'\n"
REQUIRED = f"{ISSUER}required = true\n"
TLS = "[tls]\nidentity = 'spiffe'\n"


@pytest.mark.parametrize(
    ("text", "key", "sentence"),
    [
        # a listener that other machines reach
        (f"host = '0.0.0.0'\n{REQUIRED}{KEYS}", "spiffe.required", "can reach 0.0.0.0 without TLS"),
        (f"host = '10.0.0.1'\n{REQUIRED}{AGENTS}{KEYS}", "spiffe.required", "can reach 10.0.0.1 without TLS"),
        (f"host = '0.0.0.0'\n{REQUIRED}{TLS}{KEYS}", "spiffe.required", r"\[spiffe.workloads\]"),
        # a backend on another machine
        (f"{REQUIRED}{BACKEND.replace('https', 'http')}", "backends.one.url", "without TLS"),
        (f"{REQUIRED}{BACKEND}", "backends.one", "is shown no SVID"),
        (f"{REQUIRED}{BACKEND}spiffe_id = 'spiffe://example.org/engine'\n", "backends.one", "is shown no SVID"),
    ],
)
def test_a_hop_to_another_machine_without_an_svid_is_refused_where_one_is_required(
    tmp_path: Path, text: str, key: str, sentence: str
) -> None:
    with pytest.raises(WrongSettings, match=sentence) as caught:
        read(tmp_path, text)
    assert [one.key for one in caught.value.problems] == [key]


@pytest.mark.parametrize(
    "text",
    [
        f"{REQUIRED}",
        f"host = '0.0.0.0'\n{REQUIRED}{AGENTS}{TLS}",
        f"host = '0.0.0.0'\n{REQUIRED}{AGENTS}[tls]\ncertificate = '/a'\nkey = '/b'\n",  # callers show a JWT-SVID
        f"{REQUIRED}{BACKEND.replace('https://engine', 'http://127.0.0.1')}",
        f"{REQUIRED}{BACKEND}identity = 'spiffe'\nspiffe_id = 'spiffe://example.org/engine'\n",
        f"{REQUIRED}{BACKEND}audience = 'engine'\n",
        f"{BACKEND.replace('https', 'http')}",  # nothing is required
    ],
)
def test_hops_within_the_machine_and_those_with_svids_are_taken(tmp_path: Path, text: str) -> None:
    read(tmp_path, text)


def test_files_of_a_backends_tls_are_looked_at_before_anything_starts(tmp_path: Path) -> None:
    rubbish = tmp_path / "rubbish.pem"
    rubbish.write_text("rubbish")
    for key, value, sentence in (
        ("ca_file", "/nowhere.pem", "No such file"),
        ("ca_file", str(rubbish), "holds no certificates"),
        ("client_certificate", str(rubbish), "are no certificate with its key"),
    ):
        more = f'client_key = "{rubbish}"\n' if key == "client_certificate" else ""
        resolved = read(tmp_path, f'{BACKEND}{key} = "{value}"\n{more}')
        with pytest.raises(WrongSettings, match=sentence) as caught:
            look_around(resolved, {})
        assert [(one.key, one.line) for one in caught.value.problems] == [(f"backends.one.{key}", 5)]


def test_nothing_of_it_is_loaded_where_it_is_off() -> None:
    modules = "cli.main cli.serve cli.gateway cli.trust cli.file_tables cli.reload server.app server.serve"
    heavy = "grpc spiffe headrace.cli.spiffe headrace.server.workload_api headrace.trust.spiffe.path"
    script = "\n".join(
        [
            *(f"import headrace.{name}" for name in modules.split()),
            "import sys",
            f"print(sorted(set({heavy.split()!r}) & set(sys.modules)))",
        ]
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
