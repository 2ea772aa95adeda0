"""What `headrace config` prints and how it ends."""

import json
import tomllib
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from tests.unit.cli.test_gateway_tables import BACKEND, PRICED, ROUTE
from tests.unit.cli.test_main import type_in


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HEADRACE_CONFIG", "HEADRACE_PORT", "HEADRACE_HOST", "HEADRACE_KEYS", "HEADRACE_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HEADRACE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def write(text: str, name: str = "headrace.toml") -> str:
    Path(name).write_text(text, "utf-8")
    return name


def test_a_right_file_is_summed_up() -> None:
    write(PRICED.replace("[backends.a.models.n]", "") + "[[budgets]]\nsubject='all'\nwindow='day'\nmoney=1\n")
    assert type_in("config", "check") == (0, "headrace.toml is right: no engine, 1 backend, 1 budget.\n", "")


def test_a_wrong_file_is_told_on_stderr_and_for_programs_as_json() -> None:
    name = write(BACKEND.replace("kind", "knd") + "[routes.r]\ncandidates = 7\n", "other.toml")
    code, out, err = type_in("config", "check", name)
    assert (code, out) == (1, "")
    assert err.startswith("headrace: 3 settings are wrong:\n  other.toml:1: backends.a: kind is missing")
    assert "\n  other.toml:2: backends.a.knd: is no setting; did you mean kind?\n" in err
    code, out, err = type_in("config", "check", name, "--json")
    problems = json.loads(out)["problems"]
    assert (code, err) == (1, "") and [one["line"] for one in problems] == [1, 2, 7]
    assert problems[1] == {
        "file": "other.toml",
        "line": 2,
        "key": "backends.a.knd",
        "message": "is no setting; did you mean kind?",
        "level": "error",
    }


def test_warnings_are_told_and_end_well() -> None:
    write(BACKEND + "[routes.n]\ncandidates = ['a/m']\n")
    code, out, err = type_in("config", "check")
    assert code == 0 and "is right" in out and err.startswith("warning: headrace.toml:6: routes.n: n is a model of a")
    code, out, _ = type_in("config", "check", "--json")
    assert code == 0 and [one["level"] for one in json.loads(out)["problems"]] == ["warning"]


def test_what_a_file_names_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("empty").touch()
    Path("twice").write_text("one two", "utf-8")
    Path("long").write_text("x" * 70_000, "utf-8")
    keys = "".join(f'[[keys]]\nname = "{name}"\nsecret = "{place}"\n' for name, place in SECRETS.items())
    write(ROUTE + keys + '[tls]\ncertificate = "no.crt"\nkey = "no.key"\n[[keys]]\nname = "a"\nsecret = "env:SET"\n')
    monkeypatch.setenv("SET", "hr_set")
    monkeypatch.setenv("BLANK", " ")
    code, _, err = type_in("config", "check")
    assert code == 1
    for sentence in (
        "headrace.toml:10: keys[1].secret: env:UNSET is not set; export UNSET before the server starts.",
        "headrace.toml:13: keys[2].secret: env:BLANK is not set",
        "headrace.toml:16: keys[3].secret: file:nowhere cannot be read (No such file or directory); make the file",
        "headrace.toml:19: keys[4].secret: file:empty is empty; write the key into it.",
        "headrace.toml:22: keys[5].secret: file:twice has spaces, line breaks or other characters that no key has",
        "headrace.toml:25: keys[6].secret: file:long is longer than 65536 bytes",
        "headrace.toml:27: tls.certificate: no.crt cannot be read",
        "headrace.toml:30: keys[7].name: there are two keys with the name a; give each a name of its own.",
    ):
        assert sentence in err, err


SECRETS = {
    "a": "env:UNSET",
    "b": "env:BLANK",
    "c": "file:nowhere",
    "d": "file:empty",
    "e": "file:twice",
    "f": "file:long",
}


def test_a_model_that_is_not_installed_and_one_that_is_not_served_are_told() -> None:
    write('model = "smolm2"\n')
    assert "headrace.toml:1: model: No model is called smolm2; did you mean smollm2?" in type_in("config", "check")[2]
    Path("home/models/tiny").mkdir(parents=True)
    Path("home/models/tiny/tiny.gguf").touch()
    write('model = "tiny"\n[routes.r]\ncandidates = ["local/tny"]\n')
    code, _, err = type_in("config", "check")
    assert (
        code == 1 and "headrace.toml:3: routes.r.candidates[1]: local/tny is no model that is served here; did" in err
    )
    write(
        'model = "tiny"\n[routes.r]\ncandidates = ["local/tiny", "local/tiny:french"]\n'
        '[tenants.t]\nroutes = ["tiny", "tiny:french", "local/tiny", "local/tiny:french", "r"]\n'
    )
    assert type_in("config", "check")[:2] == (0, "headrace.toml is right: the engine serves tiny, 1 route, 1 tenant.\n")


@pytest.mark.parametrize(
    ("table", "place"),
    [
        ("[identity.signers.desk]\nkey = 'gone.pem'\ntenant = 't'", "identity.signers.desk.key: {} cannot be read"),
        (
            "[identity.issuers.corp]\nissuer = 'https://i'\naudience = 'https://a'\njwks = 'gone.pem'\ntenant = 't'",
            "identity.issuers.corp.jwks: {} cannot be read",
        ),
        ("[answer_signatures]\nkey = 'gone.pem'\nkeyid = 'a'", "answer_signatures.key: {} cannot be read"),
        (
            "[spiffe]\ntrust_domain = 'a.org'\nid = 'spiffe://a.org/x'\nfederated = {'b.org' = 'gone.pem'}",
            'spiffe.federated."b.org": {} cannot be read',
        ),
        ("[model_signatures]\nmode = 'warn'\nkeys = ['gone.pem']", "model_signatures: {} cannot be read"),
        ("[delegation]\nkey = 'gone.pem'", "delegation.key: {} cannot be read"),
        ("[records]\nnode_key = 'gone.pem'", "records.node_key: there is no file {}; make one"),
    ],
)
def test_files_that_parts_of_trust_name_are_looked_at(table: str, place: str) -> None:
    write(f"{BACKEND}{table}\n")
    code, _, err = type_in("config", "check")
    line = next(number for number, text in enumerate(f"{BACKEND}{table}".splitlines(), 1) if "gone.pem" in text)
    assert code == 1 and place.format("gone.pem") in err.replace(f"{Path.cwd()}/", "")
    assert err.startswith(f"headrace: headrace.toml:{line}: ") or "model_signatures" in err
    assert not Path("gone.pem").exists()


def test_the_settings_in_force_are_printed_as_a_settings_file() -> None:
    write(BACKEND.replace("kind", 'secret = "env:UNSET"\nkind', 1))
    code, out, _ = type_in("config", "show")
    assert (
        code == 0 and 'secret = "env:UNSET"  # line 2' in out and 'model = "none"  # default: there are backends' in out
    )
    assert tomllib.loads(out)["backends"]["a"]["kind"] == "openai-compatible"


def test_the_schema_is_printed() -> None:
    code, out, _ = type_in("config", "schema")
    assert code == 0
    Draft202012Validator.check_schema(json.loads(out))


def test_without_a_file_the_defaults_are_checked() -> None:
    code, _, err = type_in("config", "check")
    assert code == 1 and "headrace.toml: model: Model smollm2-135m-instruct is not installed" in err


def test_a_file_of_litellm_that_is_not_there_is_named_plainly() -> None:
    code, _, err = type_in("config", "import-litellm", "gone.yaml")
    assert (code, err) == (
        1,
        "headrace: gone.yaml cannot be read (No such file or directory); name LiteLLM's YAML file.\n",
    )
