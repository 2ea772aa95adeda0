"""What `headrace embed` reads and writes; that it embeds is shown end to end."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from headrace.cli.embed import lines, read_texts, write_npy
from headrace.core.errors import InvalidRequest


def test_a_dash_stands_for_the_lines_of_standard_input() -> None:
    stdin = io.StringIO("first\n\n  second  \r\n   \nthird")
    assert read_texts(["typed", "-", "last"], stdin) == ["typed", "first", "  second  ", "third", "last"]


def test_lines_are_json_and_their_numbers_read_back_to_the_same_vector() -> None:
    vectors = np.random.default_rng(3).standard_normal((3, 384)).astype(np.float32)
    texts = ['say "hi"', "two\nlines", "🐞"]
    told = [json.loads(line) for line in lines(texts, vectors)]
    assert [entry["text"] for entry in told] == texts
    assert np.array([entry["embedding"] for entry in told], np.float32).tobytes() == vectors.tobytes()
    assert all(len(line) < 384 * 15 for line in lines(texts, vectors))


def test_a_numpy_file_holds_all_vectors_or_the_reason_is_told(tmp_path: Path) -> None:
    vectors = np.ones((2, 4), np.float32)
    write_npy(tmp_path / "v", vectors)
    assert np.array_equal(np.load(tmp_path / "v"), vectors)
    with pytest.raises(InvalidRequest, match=r"npy: .* cannot be written"):
        write_npy(tmp_path, vectors)
