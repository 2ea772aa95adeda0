"""The page of measured speeds: what is shown is what the results hold, and drawings stay inside their frame."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import pytest

DOCS = Path(__file__).parents[3] / "docs"


@pytest.fixture(scope="module")
def performance() -> ModuleType:
    sys.path.insert(0, str(DOCS))
    try:
        spec = importlib.util.spec_from_file_location("performance", DOCS / "performance.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DOCS))
    return module


def part(kind: str, seconds: float, num_bytes: float, operations: float) -> dict[str, Any]:
    return {
        "kind": kind,
        "seconds": seconds,
        "bytes": num_bytes,
        "operations": operations,
        "share_of_read_bandwidth": 0.25,
        "share_of_multiply_rate": 0.125,
    }


def document(date: str, speed: float) -> dict[str, Any]:
    """A step of 4 ms: half of it a product that the ceilings allow in a quarter, half of it counted as nothing."""
    stages = [part("gate and up", 0.002, 5e6, 1e6), part("norms, positions, stores", 0.002, 0.0, 0.0)]
    step = part("", 0.004, 5e6, 1e6) | {"name": "decode-1", "tokens_per_second": 250.0, "stages": stages}
    row = {"measure": "decode-1", "unit": "tokens/s", "ours": speed, "peer": 100.0, "ratio": speed / 100, "spread": 0.1}
    return {
        "name": "engine",
        "machine": "a machine",
        "commit": "abc",
        "date": date,
        "config": {"model": "m.gguf", "kernels": "avx2", "threads": 2, "kv": "fp16"},
        "rows": [row | {"n": 5, "peer_name": "the other"}],
        "profile": {"read_bandwidth": 1e10, "multiply_rate": 1e12, "steps": [step]},
    }


@pytest.fixture
def results(tmp_path: Path) -> Path:
    folder = tmp_path / "some-machine"
    folder.mkdir()
    for name, content in {
        "b.json": document("2026-01-02T00:00:00+00:00", 251.0),
        "a.json": document("2026-01-03T00:00:00+00:00", 257.0),
        "old.json": {"name": "engine", "config": {}},  # from before profiles were kept
    }.items():
        (folder / name).write_text(json.dumps(content))
    return tmp_path


def test_the_newest_document_is_shown_whatever_its_file_is_called(performance: ModuleType, results: Path) -> None:
    page = performance.generated(results)[DOCS / "performance.md"]
    assert "| `decode-1` | tokens/s | 257 | 100 | 2.57 | 10% | 5 | the other |" in page
    assert "251" not in page


def test_what_the_ceilings_allow_keeps_the_time_of_what_is_not_counted(performance: ModuleType, results: Path) -> None:
    page = performance.generated(results)[DOCS / "performance.md"]
    # 5 MB at 10 GB/s take 0.5 ms of the product's 2; 2 ms of rows stay: 250 tokens/s become 400.
    assert "| decode-1 | 250 | 25% | 12% | 400 | gate and up (38% of the step)" in page


def test_every_drawing_that_the_page_shows_is_made_and_stays_in_its_frame(
    performance: ModuleType, results: Path
) -> None:
    files = performance.generated(results)
    shown = {DOCS / link for link in re.findall(r"!\[[^]]*\]\(([^)]+)\)", files[DOCS / "performance.md"])}
    drawings = {path: text for path, text in files.items() if path.suffix == ".svg"}
    assert shown == set(drawings) and len(drawings) == 2
    for text in drawings.values():
        root = ElementTree.fromstring(text)
        width, height = float(root.attrib["width"]), float(root.attrib["height"])
        for element in root.iter():
            for name, limit in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                assert 0 <= float(element.attrib.get(name, 0)) <= limit


def test_a_page_without_results_still_says_what_bounds_a_step(performance: ModuleType, tmp_path: Path) -> None:
    files = performance.generated(tmp_path)
    assert set(files) == {DOCS / "performance.md"}
    assert "two ceilings" in files[DOCS / "performance.md"]


def test_rows_of_an_engine_for_many_stand_together_the_newest_of_each(performance: ModuleType, results: Path) -> None:
    row = {
        "measure": "gap-16k",
        "unit": "ms",
        "peer": 100.0,
        "peer_name": "the bound",
        "ratio": 0.9,
        "spread": 0,
        "n": 2,
    }
    made = {"name": "gaps", "machine": "a machine", "config": {"model": "m"}}
    for day, ours in ((1, 111.0), (2, 222.0)):
        one = made | {"commit": f"c{day}", "date": f"2026-11-0{day}T00:00:00+00:00", "rows": [row | {"ours": ours}]}
        (results / "some-machine" / f"gaps-{9 - day}.json").write_text(json.dumps(one))
    shown = performance.rows_for_many(results)
    assert [(row["measure"], row["ours"], source["commit"]) for row, source in shown] == [("gap-16k", 222.0, "c2")]
    page = performance.generated(results)[DOCS / "performance.md"]
    assert page.count("`gap-16k`") == 1 and "| 222 |" in page
