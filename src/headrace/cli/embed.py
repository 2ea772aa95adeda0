"""`headrace embed`: texts in, vectors out, as lines of JSON or as one NumPy file."""

import asyncio
import json as jsonlib
import os
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from headrace.cli.assembly import open_model
from headrace.cli.config import compose
from headrace.core.errors import InvalidRequest
from headrace.core.request import Input, Request, Task
from headrace.engine.texts import InputsRunner

# What embeds where no model is named: the one that serves is mostly there to talk.
DEFAULT_EMBEDDER = "all-minilm-l6-v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed:
    """What was typed. A text `-` stands for the lines of standard input."""

    texts: Sequence[str]
    dimensions: int | None
    truncate: bool
    npy: Path | None


def run_embed(ask: Embed, flags: Mapping[str, Any], config: Path | None) -> None:
    """Load the model, embed every text, and leave."""
    flags = {**flags, "model": flags["model"] or DEFAULT_EMBEDDER}
    settings = compose(flags, os.environ, config).settings
    texts = read_texts(ask.texts, sys.stdin)
    # What can be refused is refused before a model is loaded.
    Request(id="cli", model="model", task=Task.EMBED, inputs=(Input("text"),), dimensions=ask.dimensions).check()
    if ask.npy is not None and not ask.npy.absolute().parent.is_dir():
        raise InvalidRequest(f"npy: there is no folder {ask.npy.absolute().parent}; make it first.", param="npy")
    with open_model(settings) as backend:
        runner = InputsRunner(backend, backend.models()[0].id, lambda: f"cli-{uuid.uuid4().hex}")
        vectors = asyncio.run(runner.embed(texts, dimensions=ask.dimensions, truncate=ask.truncate))
    if ask.npy is None:
        for line in lines(texts, vectors):
            typer.echo(line)
    else:
        write_npy(ask.npy, vectors)


def read_texts(given: Sequence[str], stdin: Any) -> list[str]:
    """The texts that were typed, and in the place of `-` the lines of standard input, empty ones left out."""
    texts: list[str] = []
    for text in given:
        texts += [line for line in stdin.read().splitlines() if line.strip()] if text == "-" else [text]
    for index, text in enumerate(texts):
        if not text:
            raise InvalidRequest(f"texts[{index}]: is empty; give at least one character.", param="texts")
    if not texts:
        raise InvalidRequest("texts: standard input holds none; give at least one line.", param="texts")
    return texts


def lines(texts: Sequence[str], vectors: NDArray[np.float32]) -> list[str]:
    """One JSON document a text. Numbers are the shortest that read back to the same float32."""
    return [
        jsonlib.dumps({"text": text, "embedding": [float(str(number)) for number in vector]}, ensure_ascii=False)
        for text, vector in zip(texts, vectors, strict=True)
    ]


def write_npy(path: Path, vectors: NDArray[np.float32]) -> None:
    """Write float32 [texts, dimensions] where it was asked for. Raises InvalidRequest if that cannot be."""
    try:
        with path.open("wb") as file:
            np.save(file, vectors)
    except OSError as error:
        raise InvalidRequest(f"npy: {path} cannot be written ({error.strerror or error}).", param="npy") from error
