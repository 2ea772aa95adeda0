"""Adapters against merged weights: `W + scale * B A` in float32, worked out on the checkpoint's tensors.

In exact arithmetic, with factors that 8 bits hold exactly, float32 rounding is all that stands between the two.
Natively, with factors of any size, bounds are shares of the logits' deviation, as for the models without adapters
(`test_tiny_models_native.py`): 8-bit activations cost those 0.020 to 0.027, adapters in 8 bits 0.022 to 0.031 (over the
four layers of SmolLM3 up to 0.037), and models that are packed to 8 bits after
merging 0.026 to 0.038.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from tests.oracle import tiny_adapters, tiny_models
from tests.oracle.assembly import Assembled, assemble, in_pieces
from tests.oracle.tiny_adapters import TinyAdapter, make, merged_weights, write_gguf_lora, write_peft
from tests.oracle.tiny_files import write_folder, write_gguf

from headrace.adapters.load import load_adapter, open_adapter, place_layers, read_factors
from headrace.adapters.plan import adapted, targets
from headrace.adapters.program import AdaptableProgram
from headrace.kernels import native
from headrace.kernels.plan import GROUP, PAGE_TOKENS, KvKind, padded
from headrace.kernels.reference import ReferenceProgram
from headrace.kernels.reference_pages import new_pool
from headrace.models.gguf import GgufFile
from headrace.models.load import bind
from headrace.models.packed import packed_matrix
from headrace.models.registry import architecture_for
from headrace.models.safetensors import SafetensorsFolder

EXACT_BOUND = 1e-4
ROOT_MEAN_SQUARE_BOUND = 0.04
WORST_BOUND = 0.35
MODELS = ("llama", "llama-tied-linear", "llama-biases", "mistral-window", "qwen2-yarn", "qwen3-odd-heads", "gemma3")
MODELS += ("phi3", "phi3-long", "gemma2", "granite", "olmo2", "smollm3")
ATTENTION, FEED_FORWARD = tiny_adapters.LINEAR[:4], tiny_adapters.LINEAR[4:]
KINDS = {
    "every layer": {},
    "attention": {"modules": ATTENTION, "rank": 16},
    "feed forward": {"modules": FEED_FORWARD, "rank": 3},
    "keys": {"modules": ("k_proj",), "rank": 40},
    "values and up": {"modules": ("v_proj", "up_proj"), "rank": 8, "by_root": True},
    "different ranks": {"ranks": (("q_proj", 33), ("down_proj", 7)), "rank": 5},
}


@dataclass(frozen=True, slots=True)
class FloatMatrix:
    """As much of `GroupedMatrix` as the reference needs, in float32."""

    values: np.ndarray

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def cols(self) -> int:
        return self.values.shape[1]

    def dequantize(self) -> np.ndarray:
        return self.values


def merged_logits(adapter: TinyAdapter, folder: Path, tokens: np.ndarray) -> np.ndarray:
    """Logits of the model whose weights were merged, in exact arithmetic; [tokens, vocab]."""
    model = assemble(SafetensorsFolder(write_folder(adapter.name, folder)))
    weights = merged_weights(adapter)
    matrices = []
    for spec in model.plan.matrices:
        parts = [weights[part] for part in spec.parts]
        if spec.layout == "halves":
            parts = np.split(parts[0], 2)
        if spec.layout in ("interleave", "halves"):
            parts = [np.pad(part, ((0, padded(len(part)) - len(part)), (0, 0))) for part in parts]
            pairs = np.stack([part.reshape(-1, GROUP, spec.cols) for part in parts], axis=1)
            matrices.append(FloatMatrix(pairs.reshape(-1, spec.cols)))
        else:
            matrices.append(FloatMatrix(np.concatenate(parts)))
    program = ReferenceProgram(model.plan, matrices, model.vectors, exact=True)
    pool = new_pool(model.plan.cache, 1 + -(-len(tokens) // PAGE_TOKENS), exact=True)
    return in_pieces(program.step, pool, tokens, (len(tokens),))


def adapted_logits(model: Assembled, architecture: str, path: Path, tokens: np.ndarray) -> np.ndarray:
    """Logits of the model with an adapter from a file, in exact arithmetic."""
    file = open_adapter(path)
    factors = read_factors(file, place_layers(file, targets(model.plan), architecture))
    program = ReferenceProgram(adapted(model.plan), model.matrices, model.vectors, exact=True)
    pool = new_pool(model.plan.cache, 1 + -(-len(tokens) // PAGE_TOKENS), exact=True)
    return in_pieces(lambda *arrays: program.step(*arrays, adapters=[factors]), pool, tokens, (len(tokens),))


def opened(name: str, folder: Path, form: str) -> tuple[Assembled, str]:
    folder.mkdir(exist_ok=True)
    if form == "gguf":
        checkpoint = GgufFile(write_gguf(name, folder / "model.gguf"))
    else:
        checkpoint = SafetensorsFolder(write_folder(name, folder))
    return assemble(checkpoint), architecture_for(checkpoint).name


def written(adapter: TinyAdapter, folder: Path, form: str) -> Path:
    folder.mkdir(exist_ok=True)
    if form == "gguf":
        return write_gguf_lora(adapter, folder / "adapter.gguf")
    return write_peft(adapter, folder / "adapter")


def deviation(logits: np.ndarray, exact: np.ndarray) -> np.ndarray:
    return (logits - exact) / exact.std()


def root_mean_square(error: np.ndarray) -> float:
    return float(np.sqrt((error**2).mean()))


@pytest.mark.parametrize("base", ["safetensors", "gguf"])
@pytest.mark.parametrize("form", ["peft", "gguf"])
@pytest.mark.parametrize("name", MODELS)
def test_an_adapter_gives_the_logits_of_merged_weights(name: str, form: str, base: str, tmp_path: Path) -> None:
    adapter = make(name, "one")
    tokens = tiny_models.tokens(tiny_models.CONFIGS[name])
    exact = merged_logits(adapter, tmp_path, tokens)
    model, architecture = opened(name, tmp_path / "base", base)
    logits = adapted_logits(model, architecture, written(adapter, tmp_path / "file", form), tokens)
    assert root_mean_square(deviation(logits, exact)) < EXACT_BOUND
    plain = ReferenceProgram(model.plan, model.matrices, model.vectors, exact=True)
    pool = new_pool(model.plan.cache, 1 + -(-len(tokens) // PAGE_TOKENS), exact=True)
    without = in_pieces(plain.step, pool, tokens, (len(tokens),))
    assert root_mean_square(deviation(without, exact)) > 0.1


# GGUF files know no scaling by the root of the rank.
@pytest.mark.parametrize(
    ("kind", "form"), [(k, f) for k in KINDS for f in ("peft", "gguf") if f == "peft" or "by_root" not in KINDS[k]]
)
def test_adapters_of_some_layers_and_of_any_rank_do_too(kind: str, form: str, tmp_path: Path) -> None:
    adapter = make("llama", kind, **KINDS[kind])
    tokens = tiny_models.tokens(tiny_models.CONFIGS["llama"])
    exact = merged_logits(adapter, tmp_path, tokens)
    model, architecture = opened("llama", tmp_path / "base", "gguf")
    logits = adapted_logits(model, architecture, written(adapter, tmp_path / "file", form), tokens)
    assert root_mean_square(deviation(logits, exact)) < EXACT_BOUND


def native_program(model: Assembled) -> AdaptableProgram:
    matrices = [packed_matrix(spec.name, m) for spec, m in zip(model.plan.matrices, model.matrices, strict=True)]
    return AdaptableProgram(
        model.plan, bind(model.plan, matrices, model.vectors), lambda plan: bind(plan, matrices, model.vectors)
    )


@pytest.mark.parametrize("name", MODELS)
def test_several_adapters_and_plain_rows_in_one_native_batch_are_each_as_close_as_a_model_alone(
    name: str, tmp_path: Path
) -> None:
    config = tiny_models.CONFIGS[name]
    model, architecture = opened(name, tmp_path / "base", "safetensors")
    program = native_program(model)
    makes = [
        make(name, "first", 16, is_exact=False),
        None,
        make(name, "second", 4, ATTENTION, is_exact=False),
        make(name, "third", 40, FEED_FORWARD, ranks=(("up_proj", 8),), is_exact=False),
    ]
    adapters, exact, prompts = [], [], []
    for i, made in enumerate(makes):
        tokens = np.roll(tiny_models.tokens(config), i)
        unchanged = TinyAdapter(name, {}, 1, 1.0)
        exact.append(merged_logits(made or unchanged, tmp_path, tokens))
        prompts.append(tokens)
        if made is None:
            adapters.append(None)
            continue
        path = write_peft(made, tmp_path / f"adapter{i}")
        adapters.append(load_adapter(path, program, name=str(i), architecture=architecture).bound)
    for logits, expected in zip(batch_logits(program, model, prompts, adapters), exact, strict=True):
        error = deviation(logits, expected)
        assert root_mean_square(error) < ROOT_MEAN_SQUARE_BOUND
        assert np.abs(error).max() < WORST_BOUND


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_an_adapter_is_closer_to_merged_weights_than_the_model_packed_after_merging(name: str, tmp_path: Path) -> None:
    made = make(name, "first", 16, is_exact=False)
    tokens = tiny_models.tokens(tiny_models.CONFIGS[name])
    exact = merged_logits(made, tmp_path, tokens)
    model, architecture = opened(name, tmp_path / "base", "safetensors")
    program = native_program(model)
    path = write_peft(made, tmp_path / "adapter")
    bound = load_adapter(path, program, name="it", architecture=architecture).bound
    folder = write_folder(name, tmp_path)
    save_file(merged_weights(made), folder / "model.safetensors")
    merged = assemble(SafetensorsFolder(folder))
    (ours,) = batch_logits(program, model, [tokens], [bound])
    (packed,) = batch_logits(native_program(merged), merged, [tokens], [None])
    assert root_mean_square(deviation(ours, exact)) < root_mean_square(deviation(packed, exact))


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_a_row_does_not_depend_on_the_adapters_of_its_neighbours(name: str, tmp_path: Path) -> None:
    config = tiny_models.CONFIGS[name]
    model, architecture = opened(name, tmp_path / "base", "safetensors")
    program = native_program(model)
    one, two = (
        load_adapter(
            write_peft(make(name, seed, rank, is_exact=False), tmp_path / seed),
            program,
            name=seed,
            architecture=architecture,
        ).bound
        for seed, rank in (("one", 16), ("two", 5))
    )
    prompts = [np.roll(tiny_models.tokens(config), i) for i in range(3)]
    alone = [batch_logits(program, model, [prompt], [one])[0] for prompt in prompts]
    plain = batch_logits(program, model, prompts[1:2], [None])[0]
    mixed = batch_logits(program, model, prompts, [one, None, one])
    np.testing.assert_array_equal(mixed[0], alone[0])
    np.testing.assert_array_equal(mixed[1], plain)
    np.testing.assert_array_equal(mixed[2], alone[2])
    other = batch_logits(program, model, prompts, [two, one, two])
    np.testing.assert_array_equal(other[1], alone[1])
    assert not np.array_equal(other[0], alone[0])


def batch_logits(program, model, prompts, adapters) -> list[np.ndarray]:
    """Logits of all tokens of several sequences in one batch: two chunks, then token by token."""
    threads = native.Threads(2)
    length = len(prompts[0])
    pages = -(-length // PAGE_TOKENS)
    pool = np.zeros(model.plan.cache.pool_shape(KvKind.HALF, pages * len(prompts)), dtype=np.uint16)
    tables = np.random.RandomState(3).permutation(pages * len(prompts)).astype(np.int32).reshape(len(prompts), pages)
    found: list[list[np.ndarray]] = [[] for _ in prompts]
    for first, last in [(0, 33), (33, 60), *((n, n + 1) for n in range(60, length))]:
        count = last - first
        num_rows = count * len(prompts)
        logits = np.empty((num_rows, model.plan.vocab_size), dtype=np.float32)
        program.step(
            threads,
            pool,
            np.concatenate([prompt[first:last] for prompt in prompts]),
            np.arange(0, num_rows + 1, count, dtype=np.int32),
            np.full(len(prompts), first, dtype=np.int32),
            tables,
            np.arange(num_rows, dtype=np.int32),
            output=logits,
            adapters=adapters,
        )
        for i, rows in enumerate(found):
            rows.append(logits[i * count : (i + 1) * count])
    threads.close()
    return [np.concatenate(rows) for rows in found]
