"""Engine configuration: bad values are named, "auto" is resolved by a pure function."""

from pathlib import Path

import pytest

from headrace.engine.config import EngineConfig, Hardware, detect_hardware, pages_for, resolve
from headrace.kernels.plan import CacheShape, KvKind

PAIRS = Hardware(2, 4000, ((0, 1), (4, 5)))
SHAPE = CacheShape(num_layers=2, num_kv_heads=1, head_dim=8)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("threads", 0),
        ("kv_memory_bytes", 0),
        ("max_batch_tokens", 1),
        ("max_sequences", 512),
        ("max_waiting", -1),
        ("prefill_chunk", 513),
        ("switch_interval_s", 2.0),
        ("tokenizer_threads", 0),
        ("inline_prompt_chars", -1),
        ("pin_threads", "some"),
        ("pin_threads", "0,,1"),
        ("pin_threads", "3-1"),
        ("pin_threads", "0-2,1"),
        ("pin_threads", ""),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: float | str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: {value!r}"):
        EngineConfig(**{field: value})  # type: ignore[arg-type]


def test_an_unknown_kind_of_keys_and_values_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="kv_type: 'fp8' is not one of auto, fp16, int8"):
        EngineConfig(kv_type="fp8")


def test_auto_means_all_cores_and_a_quarter_of_memory() -> None:
    config = resolve(EngineConfig(), Hardware(physical_cores=6, memory_bytes=4000))
    assert (config.threads, config.kv_memory_bytes) == (6, 1000)
    config = resolve(EngineConfig(memory_bytes=600), Hardware(physical_cores=6, memory_bytes=4000))
    assert config.kv_memory_bytes == 300  # half of what models may hold is left to weights
    chosen = EngineConfig(threads=2, kv_memory_bytes=5)
    assert resolve(chosen, Hardware(6, 4000)) == chosen


@pytest.mark.parametrize(
    ("pin_threads", "threads", "cpus", "resolved_threads"),
    [
        ("none", None, (), 2),
        ("cores", None, (0, 4), 2),
        ("cores", 1, (0,), 1),
        ("5,0-1", None, (5, 0, 1), 3),
        ("4-5,0", 2, (4, 5), 2),
    ],
)
def test_threads_are_bound_to_cores_or_to_the_cpus_named(
    pin_threads: str, threads: int | None, cpus: tuple[int, ...], resolved_threads: int
) -> None:
    config = resolve(EngineConfig(pin_threads=pin_threads, threads=threads), PAIRS)
    assert (config.cpus, config.threads) == (cpus, resolved_threads)
    assert resolve(config, PAIRS) == config


@pytest.mark.parametrize(
    ("pin_threads", "hardware", "sentence"),
    [
        ("cores", PAIRS, "'cores' gives 2 CPUs to 3 threads"),
        ("0,1", PAIRS, "'0,1' gives 2 CPUs to 3 threads"),
        ("0,7,1", PAIRS, "CPU 7, but this process may use only 0,1,4,5"),
        ("cores", Hardware(4, 4000), "this system binds no thread"),
    ],
)
def test_a_binding_that_is_not_possible_here_is_refused(pin_threads: str, hardware: Hardware, sentence: str) -> None:
    with pytest.raises(ValueError, match=rf"^pin_threads: .*{sentence}"):
        resolve(EngineConfig(pin_threads=pin_threads, threads=3), hardware)


def test_the_pool_gets_what_the_budget_holds_but_not_more_than_could_be_used() -> None:
    assert SHAPE.page_bytes(KvKind.HALF) == 2048
    assert pages_for(10 * 2048 + 5, 2048, 64, 8192) == 10
    assert pages_for(10**9, 2048, 2, 64) == 8
    with pytest.raises(ValueError, match="kv_memory_bytes: 2047"):
        pages_for(2047, 2048, 64, 8192)


def test_hyper_threads_of_one_core_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in range(4):
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{cpu % 2},{cpu % 2 + 2}\n")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    assert detect_hardware(tmp_path).physical_cores == 2
    assert detect_hardware(tmp_path).cores == ((0, 2), (1, 3))
    assert detect_hardware(tmp_path / "nowhere").physical_cores == 4
    assert detect_hardware(tmp_path).memory_bytes > 0
