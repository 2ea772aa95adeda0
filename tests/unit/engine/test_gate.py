"""The gate of 8-bit keys and values: what it measures, what it decides, and that only the first start measures."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from headrace.core.errors import InvalidRequest
from headrace.engine.kv import gate
from headrace.engine.kv.gate import Figures, choose_kind, decide, decide_unmeasured, recorded_decision
from headrace.kernels.plan import CacheShape, KvKind, Plan

VOCAB = 50


def plan_of(head_dim: int = 32, max_positions: int = 2048) -> Plan:
    return Plan((), (), (), (), CacheShape(1, 1, head_dim), VOCAB, max_positions, 0)


@dataclass
class Program:
    """Gives the following token logit 3, and `penalty` less of it where keys and values have 8 bits; counts tokens."""

    text: list[int]
    penalty: float = 0.0
    num_tokens: int = 0

    def step(  # noqa: PLR0917 - the native signature
        self,
        threads: Any,
        pool: NDArray[Any],
        tokens: NDArray[np.int32],
        starts: NDArray[np.int32],
        contexts: NDArray[np.int32],
        page_tables: NDArray[np.int32],
        selected: NDArray[np.int32],
        output: NDArray[np.float32] | None = None,
        sampling: dict[str, NDArray[Any]] | None = None,
    ) -> None:
        assert output is not None and output.shape == (len(tokens), VOCAB)
        assert page_tables.shape[1] <= pool.shape[0]
        output[:] = 0
        start = int(contexts[0])
        assert tokens.tolist() == self.text[start : start + len(tokens)]
        for row in range(len(tokens)):
            if start + row + 1 < len(self.text):
                output[row, self.text[start + row + 1]] = 3.0 - (self.penalty if pool.dtype == np.uint8 else 0.0)
        self.num_tokens += len(tokens)


@dataclass
class Tokenizer:
    def encode(self, text: str, *, special: bool = False, bos: bool = False) -> list[int]:
        return [byte % VOCAB for byte in text.encode()]


@dataclass
class Model:
    """As much of a loaded model as the gate needs."""

    cache_dir: Path | None
    penalty: float = 0.0
    digest: str = "sha256:" + "ab" * 32
    plan: Plan = field(default_factory=plan_of)
    tokenizer: Tokenizer = field(default_factory=Tokenizer)

    def __post_init__(self) -> None:
        text = (Path(gate.__file__).parent / "gate.txt").read_text("utf-8")
        self.program = Program(self.tokenizer.encode(text), self.penalty)

    def choose(self, asked: KvKind | None = None) -> gate.Decision:
        return choose_kind(self, asked, None)  # type: ignore[arg-type]


def expected_nll(logit: float) -> float:
    return float(np.log(np.exp(logit) + VOCAB - 1) - logit)


def test_the_difference_is_that_of_the_two_means_and_exact() -> None:
    figures = Model(None, penalty=0.5).choose().figures
    assert figures is not None
    assert figures.half_nll == pytest.approx(expected_nll(3.0), rel=1e-6)
    assert figures.int8_nll == pytest.approx(expected_nll(2.5), rel=1e-6)
    assert figures.difference == pytest.approx(figures.int8_nll - figures.half_nll)
    assert figures.error < 1e-6, "every token loses the same, so the mean loss is known exactly"


def test_a_model_that_loses_nothing_gets_8_bits_and_one_that_loses_more_than_the_bound_does_not() -> None:
    assert Model(None, penalty=0.0).choose().kind is KvKind.INT8
    assert Model(None, penalty=0.5).choose().kind is KvKind.HALF
    assert Model(None, penalty=-0.5).choose().kind is KvKind.INT8


@pytest.mark.parametrize(
    ("half", "difference", "kind"),
    [
        (2.0, 2.0 * gate.MAX_LOSS + 0.00099, KvKind.INT8),
        (2.0, 2.0 * gate.MAX_LOSS + 0.00101, KvKind.HALF),
        (2.0, float("nan"), KvKind.HALF),
        (float("nan"), 0.0, KvKind.HALF),
        (0.0, 0.0, KvKind.HALF),
        (-1.0, 0.5, KvKind.HALF),
    ],
)
def test_the_bound_is_relative_plus_a_standard_error_and_what_is_no_number_fails(
    half: float, difference: float, kind: KvKind
) -> None:
    figures = Figures(gate.VERSION, "sha256:00", "portable", 100, half, half + difference, difference, 0.001)
    assert decide(figures).kind is kind


def test_the_second_start_reads_what_the_first_has_measured(tmp_path: Path) -> None:
    first = Model(tmp_path).choose()
    second = Model(tmp_path)
    assert second.choose() == first
    assert second.program.num_tokens == 0
    assert recorded_decision(tmp_path, second.digest, second.plan) == first
    assert len(list(tmp_path.iterdir())) == 1, "no half-written file may stay behind"


def corrupt(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[Callable[[Path], object]] = [
    corrupt,
    replace_by_folder,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"\xff\xfe\x00"),
    lambda path: path.write_text("[1, 2]"),
    lambda path: path.write_text(path.read_text().replace('"num_tokens":', '"num_tokens":"x","y":')),
    lambda path: path.write_text(path.read_text().replace(f'"version":{gate.VERSION}', '"version":99')),
    lambda path: path.write_text(path.read_text().replace("abab", "cdcd")),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_record_is_measured_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    first = Model(tmp_path).choose()
    (record,) = tmp_path.iterdir()
    damage(record)
    assert recorded_decision(tmp_path, Model(None).digest, plan_of()) is None
    again = Model(tmp_path)
    assert again.choose() == first
    assert again.program.num_tokens > 0


def test_a_folder_that_cannot_be_written_costs_time_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a folder")
    assert Model(file / "packed").choose().kind is KvKind.INT8


def test_a_shorter_context_is_measured_by_itself_and_reads_no_more_than_it_holds(tmp_path: Path) -> None:
    Model(tmp_path).choose()
    short = Model(tmp_path, plan=plan_of(max_positions=100))
    figures = short.choose().figures
    assert figures is not None and figures.num_tokens == 100
    assert short.program.num_tokens == 200


def test_a_wish_is_followed_without_measuring() -> None:
    for kind in KvKind:
        model = Model(None)
        assert model.choose(kind).kind is kind
        assert model.program.num_tokens == 0


def test_shapes_that_cannot_have_8_bits_get_fp16_and_say_why() -> None:
    odd = decide_unmeasured(plan_of(head_dim=80), None)
    assert odd is not None and odd.kind is KvKind.HALF and "heads of 80 features" in odd.reason
    short = decide_unmeasured(plan_of(max_positions=63), None)
    assert short is not None and short.kind is KvKind.HALF and "context of 63 tokens" in short.reason
    with pytest.raises(InvalidRequest, match="kv_type: int8 is not possible"):
        decide_unmeasured(plan_of(head_dim=80), KvKind.INT8)
