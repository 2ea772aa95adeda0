"""all-MiniLM-L6-v2 against sentence-transformers: ids, vectors, and what the folder says of both."""

from pathlib import Path

import numpy as np
import pytest
from tests.oracle.embedding_texts import TEXTS

from headrace.core.request import Task
from headrace.kernels import native
from headrace.kernels.plan import PAGE_TOKENS, KvKind
from headrace.models.load import LoadedModel, load_model
from headrace.models.pooling import PoolingKind

COSINE_BOUND = 1e-3  # of one text; seen: 5e-4 at most, 2e-4 on average
PAIR_TOKENS = 64
VECTORS = Path(__file__).parent / "vectors" / "minilm.npz"


@pytest.fixture(scope="module")
def model(minilm_path: Path) -> LoadedModel:
    return load_model(minilm_path)


def recorded(*names: str) -> list[np.ndarray]:
    with np.load(VECTORS) as vectors:
        return [vectors[name] for name in names]


def embed(model: LoadedModel, inputs: list[list[int]]) -> np.ndarray:
    """Vectors of whole inputs in one step."""
    starts = np.cumsum([0, *map(len, inputs)]).astype(np.int32)
    width = max(-(-len(ids) // PAGE_TOKENS) for ids in inputs)
    pages = np.arange(width * len(inputs), dtype=np.int32).reshape(-1, width)
    hidden = np.empty((starts[-1], model.plan.buffers[model.plan.output].width), np.float32)
    threads = native.Threads(2)
    model.program.step(
        threads,
        np.zeros(model.plan.cache.pool_shape(KvKind.HALF, pages.size), np.uint16),
        np.concatenate(inputs).astype(np.int32),
        starts,
        np.zeros(len(inputs), np.int32),
        pages,
        np.arange(starts[-1], dtype=np.int32),
        output=hidden,
    )
    threads.close()
    assert model.pooling is not None
    return np.stack([model.pooling.finish(part.mean(axis=0)) for part in np.split(hidden, starts[1:-1])])


def test_texts_become_the_ids_that_transformers_gives(model: LoadedModel) -> None:
    ids, lengths = recorded("ids", "lengths")
    assert model.pooling is not None
    for text, wanted in zip(TEXTS, np.split(ids, np.cumsum(lengths)[:-1]), strict=True):
        got, segments = model.tokenizer.encode_input(text, max_tokens=model.pooling.max_tokens)
        assert got == wanted.tolist()
        assert segments == [0] * len(got)


def test_pairs_are_cut_and_joined_as_transformers_does(model: LoadedModel) -> None:
    ids, segments, lengths = recorded("pair_ids", "pair_segments", "pair_lengths")
    cuts = np.cumsum(lengths)[:-1]
    for a, b, wanted in zip(
        TEXTS, (*TEXTS[1:], TEXTS[2]), zip(np.split(ids, cuts), np.split(segments, cuts), strict=True), strict=True
    ):
        got = model.tokenizer.encode_input(a, b, max_tokens=PAIR_TOKENS)
        assert [list(part) for part in got] == [part.tolist() for part in wanted]


def test_vectors_are_within_a_thousandth_of_those_of_sentence_transformers(model: LoadedModel) -> None:
    ids, lengths, vectors = recorded("ids", "lengths", "vectors")
    ours = embed(model, [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])])
    assert np.allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-6)
    distances = 1 - (ours * vectors).sum(axis=1)
    assert distances.max() < COSINE_BOUND
    assert distances.mean() < COSINE_BOUND / 3


def test_the_folder_says_that_it_embeds_and_how(model: LoadedModel) -> None:
    assert model.tasks == {Task.EMBED, Task.COUNT}
    assert model.pooling is not None
    assert (model.pooling.kind, model.pooling.normalizes, model.pooling.max_tokens) == (PoolingKind.MEAN, True, 256)
    assert model.template is None
    assert model.plan.is_whole


def test_control_tokens_cannot_be_typed(model: LoadedModel) -> None:
    text = "[CLS] [SEP] [MASK] [PAD] [UNK] [unused1]"
    inside = model.tokenizer.encode(text)
    assert not {*inside} & {0, 100, 101, 102, 103, 2}
    assert model.tokenizer.encode("[SEP]", special=True) == [102]
