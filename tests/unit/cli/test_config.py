"""Settings: which layer wins, what is refused, and that what is printed can be read again."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from headrace.cli.config import PARSERS, TABLE_NAMES, Settings, compose, parse_bytes
from headrace.cli.file_tables import TABLES
from headrace.core.errors import InvalidRequest
from headrace.core.ledger import Prices

ENVIRON = {"HOME": "/h"}


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def test_flags_win_over_variables_and_variables_over_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "a.toml", 'port = 1\nthreads = 1\nhost = "file"\n')
    resolved = compose({"port": 3, "host": None}, {**ENVIRON, "HEADRACE_PORT": "2", "HEADRACE_THREADS": "2"}, file)
    assert (resolved.settings.port, resolved.settings.threads, resolved.settings.host) == (3, 2, "file")
    assert resolved.origins["port"] == "from the command line"
    assert resolved.origins["threads"] == "from the environment"
    assert resolved.origins["host"] == f"from {file}"
    assert resolved.origins["queue"] == "default"


def test_a_file_in_the_working_directory_is_read_and_a_named_one_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert compose({}, ENVIRON).settings.port == 8000
    write(tmp_path / "headrace.toml", "port = 1")
    other = write(tmp_path / "other.toml", "port = 2")
    assert compose({}, ENVIRON).settings.port == 1
    assert compose({}, {**ENVIRON, "HEADRACE_CONFIG": str(other)}).settings.port == 2


@pytest.mark.parametrize(
    ("environ", "text", "sentence"),
    [
        ({"HEADRACE_PROT": "1"}, "", r"HEADRACE_PROT \(the environment\) is no setting; did you mean HEADRACE_PORT\?"),
        ({"HEADRACE_port": "1"}, "", r"HEADRACE_port .* is no setting"),
        ({}, "kv_memry = 1", r"a\.toml:1: kv_memry: is no setting; did you mean kv_memory\?"),
        ({}, "\n[server]\nport = 1", r"a\.toml:2: server: is no setting"),
        ({}, "port = ", r"a\.toml:1: is not valid TOML: Invalid value"),
        ({"HEADRACE_PORT": "x"}, "", r"port: 'x' \(from the environment\) is not a whole number from 0 to 65535"),
        ({}, "port = 1.5", r"a\.toml:1: port: 1\.5 is not a whole number"),
        ({}, "threads = true", r"threads: True is not a whole number"),
        ({}, "threads = 0", r"threads: 0 is not a whole number from 1"),
        ({"HEADRACE_REQUEST_TIMEOUT": "nan"}, "", r"request_timeout: 'nan' .* is not a number of seconds"),
        ({"HEADRACE_LOG_LEVEL": "loud"}, "", r"log_level: 'loud' .* is not one of debug, info"),
        ({}, 'kv_type = "fp8"', r"kv_type: 'fp8' is not one of auto, fp16, int8"),
        ({}, 'kv_memory = "many"', r"kv_memory: 'many' is not a size"),
        ({}, 'pin_threads = "core"', r"pin_threads: 'core' is neither none nor cores nor a list of CPUs such as"),
        ({}, "host = 7", r"host: 7 is not a text"),
        ({}, "guests = 7", r"guests: 7 is not a list of names"),
        ({}, 'guests = ["a", ""]', r"guests: \['a', ''\] is not a list of names"),
        ({}, "prices = 1", r"prices: 1 is not a table of tables; write \[prices\.NAME\]"),
        ({"HEADRACE_PRICES": "m=1"}, "", r"HEADRACE_PRICES .* prices is a table; write it in the settings file"),
        ({}, "[prices.m]\ninput = 1", r"prices\.m: output is missing"),
        (
            {},
            "[prices.m]\ninput = 1\noutput = 2\ncache = 3",
            r"a\.toml:4: prices\.m\.cache: is no setting; did you mean cache_read",
        ),
        ({}, "[prices.m]\ninput = true\noutput = 2", r"prices\.m\.input: True is not a number from 0"),
        ({}, "[prices.m]\ninput = -1\noutput = 2", r"prices\.m\.input: -1 is not a number"),
        ({}, "[prices.m]\ninput = nan\noutput = 2", r"prices\.m\.input: nan is not a number"),
        ({}, 'model_ttl = "never"', r"model_ttl: 'never' is not a number of seconds"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_its_place_and_the_remedy(
    tmp_path: Path, environ: dict[str, str], text: str, sentence: str
) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        compose({}, {**ENVIRON, **environ}, write(tmp_path / "a.toml", text))


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"there is no file .*nowhere"):
        compose({}, ENVIRON, tmp_path / "nowhere.toml")


def test_variables_that_others_read_are_left_alone_and_empty_ones_count_as_unset() -> None:
    environ = {**ENVIRON, "HEADRACE_KERNELS": "portable", "HEADRACE_TEST_MODEL": "/x", "HEADRACE_PORT": ""}
    assert compose({}, environ).settings.port == 8000


def test_what_is_printed_is_a_configuration_file_with_the_same_meaning(tmp_path: Path) -> None:
    flags = {"host": 'we"ird\\', "kv_memory": "1.5GiB", "keys": Path("/k"), "request_timeout": 2}
    first = compose(flags, ENVIRON)
    second = compose({}, {}, write(tmp_path / "a.toml", first.toml()))
    assert second.settings == first.settings
    assert set(tomllib.loads(first.toml())) <= {*PARSERS, *TABLE_NAMES}


@pytest.mark.parametrize(
    ("value", "size"),
    [("1", 1), (7, 7), ("2g", 2 << 30), ("512MiB", 512 << 20), ("1.5GB", 1_500_000_000), (" 10 kb ", 10_000)],
)
def test_sizes_are_read_in_the_usual_spellings(value: Any, size: int) -> None:
    assert parse_bytes(value) == size


@pytest.mark.parametrize("value", ["", "-1", "0", "1 parsec", "1e9", "inf", True, "9999999 TiB", "0.1"])
def test_a_size_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="is not"):
        parse_bytes(value)


def test_every_setting_has_a_parser_and_the_other_way_round() -> None:
    assert set(TABLES) == TABLE_NAMES
    assert set(PARSERS) | {"prices", "gateway", "issued", "tls", "cors", "console", "traces", "trust"} == set(
        Settings.__dataclass_fields__
    )


@pytest.mark.parametrize(
    ("environ", "text"), [({"HEADRACE_GUESTS": "b, c"}, ""), ({}, 'guests = ["b", "c"]'), ({}, 'guests = "b,c"')]
)
def test_guests_are_a_list_wherever_they_are_named_and_are_printed_as_one(
    environ: dict[str, str], text: str, tmp_path: Path
) -> None:
    resolved = compose({}, {**ENVIRON, **environ}, write(tmp_path / "a.toml", text))
    assert resolved.settings.guests == ("b", "c")
    assert 'guests = ["b", "c"]' in resolved.toml()
    assert compose({}, ENVIRON, write(tmp_path / "b.toml", resolved.toml())).settings.guests == ("b", "c")


def test_prices_are_read_by_model_and_printed_as_they_were_read(tmp_path: Path) -> None:
    text = '[prices."smol:a.b"]\ninput = 0.5\noutput = 2\n[prices.m]\ninput = 1\noutput = 3.5\ncache_read = 0\n'
    first = compose({"port": 3}, ENVIRON, write(tmp_path / "a.toml", text))
    wanted = {"smol:a.b": Prices(input=0.5, output=2), "m": Prices(input=1, output=3.5, cache_read=0)}
    assert first.settings.prices.models == wanted
    second = compose({}, {}, write(tmp_path / "b.toml", first.toml()))
    assert second.settings == first.settings
