"""The hidden size of a model, asked for through a whole gateway and its engine: found without the monitor of theft, and
not found with it, by every way there is; and who tried is known early.

The model is random and small, so that what is found can be known exactly; `bench.trust` does the same to a real one.
"""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench.trust.extraction import ATTACKS, Account, Aim, Rank, insist, rank_of
from bench.trust.guarded import guarded
from tests.gguf_files import TinyLlama, byte_alphabet, write_tiny_llama

import headrace
from headrace.core.request import Principal
from headrace.engine.config import EngineConfig
from headrace.trust.monitors.theft.monitor import Flag
from headrace.trust.monitors.theft.settings import Mode, TheftSettings

HIDDEN = 64
SETTINGS = TheftSettings(mode=Mode.ENFORCE, bias_vectors=5, prompt_bias_vectors=4, sampling_vectors=5, window_size=0)
"""Thresholds as far below this hidden size as the defaults are below that of a real model."""
PROBER = Principal(tenant="t", key="k", subject="key:k", scopes=frozenset({"generate"}))
BOUND_S = 300.0

Found = tuple[Rank, Account, tuple[Flag, ...]]


def aim(num_queries: int) -> Aim:
    alphabet = byte_alphabet()
    columns = [one for one in range(256) if alphabet[one].isascii() and alphabet[one].isprintable()][: HIDDEN + 12]
    contexts = tuple(f"{alphabet[columns[row % 70]]}{alphabet[columns[row * 7 % 71]]}" for row in range(HIDDEN + 8))
    return Aim(contexts, tuple(columns), tuple(alphabet[one] for one in columns), num_queries)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf", TinyLlama(hidden=HIDDEN))


def attack(
    model: Path, folder: Path, name: str, settings: TheftSettings | None, *, num_queries: int = 0, **who: object
) -> Found:
    """What an attack finds: once, or with so many questions."""

    async def run() -> Found:
        config = EngineConfig(threads=2, kv_memory_bytes=16 * 2**20)
        async with (
            asyncio.timeout(BOUND_S),
            headrace.Engine.open(model, home=folder, config=config) as engine,
            guarded(engine, folder, settings) as at,
        ):
            account = Account(at.gate.run, "tiny", replace(PROBER, **who))
            if num_queries:
                matrix = await insist(name, account, aim(num_queries))
            else:
                matrix = await ATTACKS[name](account, aim(1_000_000))
            return rank_of(matrix), account, at.overseer.monitor.flags() if at.overseer else ()

    return asyncio.run(run())


def test_the_rank_test_finds_the_rank_of_a_matrix_and_nothing_in_noise() -> None:
    random = np.random.default_rng(0)
    low = random.normal(size=(90, 40)) @ random.normal(size=(40, 100))
    shifted = low + random.normal(size=(90, 1))
    assert rank_of(shifted).size == 40
    assert rank_of(random.normal(size=(90, 100))).size is None
    holed = shifted.copy()
    holed[:, ::25] = np.nan
    assert rank_of(holed).size == 40
    assert rank_of(np.full((90, 100), np.nan)).size is None


BUDGETS = {"choices": 900, "heat": 1500, "score": 72, "bias": 5472, "form": 547, "echo": 547, "bisection": 300}
"""Questions that an attack needs where nothing is guarded, or a tenth of them where that takes long."""


@pytest.mark.parametrize("name", ["choices", "heat", "score"])
def test_without_controls_the_hidden_size_is_found(model: Path, tmp_path: Path, name: str) -> None:
    rank, account, _ = attack(model, tmp_path, name, None)
    assert rank.size == HIDDEN
    assert not account.refusals
    assert account.num_queries <= BUDGETS[name]


@pytest.mark.parametrize("name", ["choices", "score"])
def test_in_shadow_mode_it_is_found_too_and_the_account_is_flagged(model: Path, tmp_path: Path, name: str) -> None:
    rank, account, flags = attack(model, tmp_path, name, replace(SETTINGS, mode=Mode.SHADOW))
    assert rank.size == HIDDEN
    assert not account.refusals
    assert flags and all(flag.is_shadow for flag in flags)


@pytest.mark.parametrize("name", ["bias", "choices", "heat", "form", "score", "echo", "bisection"])
def test_with_controls_it_is_not_found_with_ten_times_as_many_questions_and_the_account_is_flagged(
    model: Path, tmp_path: Path, name: str
) -> None:
    rank, account, flags = attack(model, tmp_path, name, SETTINGS, num_queries=10 * BUDGETS[name])
    assert rank.size is None
    assert rank.columns <= SETTINGS.max_top_logprobs
    assert account.num_queries >= 10 * BUDGETS[name]
    assert {flag.account for flag in flags} == {"t/key:k"}


@pytest.mark.parametrize("name", ["bias", "choices", "heat", "form", "score", "echo", "bisection"])
def test_who_probes_is_flagged_before_a_tenth_of_as_many_questions_as_the_hidden_size(
    model: Path, tmp_path: Path, name: str
) -> None:
    _, _, flags = attack(model, tmp_path, name, SETTINGS, num_queries=HIDDEN // 10)
    assert {flag.account for flag in flags} == {"t/key:k"}
    assert flags[0].evidence_id == ""  # no log is kept here


@pytest.mark.parametrize("name", ["top", "few choices"])
def test_what_everybody_is_told_has_no_part_without_holes_that_is_larger_than_the_tokens_told(
    model: Path, tmp_path: Path, name: str
) -> None:
    rank, account, flags = attack(model, tmp_path, name, SETTINGS, num_queries=1500)
    assert not account.refusals
    assert not flags
    assert rank.size is None
    assert rank.columns <= SETTINGS.max_top_logprobs
