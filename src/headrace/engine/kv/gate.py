"""Decides how a model's keys and values are stored: in 8 bits if that costs next to nothing on a text, else in fp16.

The measure is the mean negative log-likelihood (NLL, nats per token) of `gate.txt`, a text of varied content, once with
each kind, on the kernels in use; what decides is the mean difference per token, which is far less noisy than either
mean. Figures are kept as one small file a model beside its packed weights, so that only the first start measures.
Knows no requests and no schedule: a model is a program, a plan and a tokenizer here.
"""

import contextlib
import logging
import math
import os
import secrets
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import InvalidRequest
from headrace.kernels.plan import GROUP, PAGE_TOKENS, KvKind, Plan

if TYPE_CHECKING:
    from headrace.models.load import LoadedModel

VERSION = 2
"""Raise it when the text, the measure or the arithmetic of a kind changes: figures of another version do not count."""

MOST_TOKENS = 640
"""Tokens of the text that are read at most, so that a large model's first start stays bounded."""

FEWEST_TOKENS = 64
"""A context shorter than this is too short to judge by."""

MAX_LOSS = 0.003
"""What 8 bits may add to the NLL, relative to fp16's. All approximations together may cost 0.5 %, and 8-bit activations
need their part of it. The mean over the text has a standard error of about 0.15 %, and one of these is allowed on top,
so that noise does not decide about a model that loses a tenth of this; one with outliers in its keys, which is what 8
bits break, loses per cents and does not pass."""

_LOGIT_BYTES = 16 << 20  # of one chunk's logits, whatever the vocabulary
_MOST_RECORD_BYTES = 4096

_log = logging.getLogger("headrace.engine")


class Figures(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured: NLL with each kind, and the mean over tokens of their difference with its standard error."""

    version: int
    digest: str
    variant: str
    num_tokens: int
    half_nll: float
    int8_nll: float
    difference: float
    error: float

    @property
    def loss(self) -> float:
        """What 8 bits cost, relative to fp16."""
        return self.difference / self.half_nll if self.half_nll > 0 else math.inf


@dataclass(frozen=True, slots=True)
class Decision:
    """How keys and values are stored and why; `figures` if it was measured."""

    kind: KvKind
    reason: str
    figures: Figures | None = None

    @property
    def kv_type(self) -> str:
        """The kind as operators write it."""
        return "int8" if self.kind is KvKind.INT8 else "fp16"


def choose_kind(model: "LoadedModel", asked: KvKind | None, threads: Any) -> Decision:
    """The kind that was asked for, or (None) what the gate says; figures are kept in the model's `cache_dir`.

    Without such a folder every start measures. Raises InvalidRequest if the model cannot have what was asked for.
    """
    decision = decide_unmeasured(model.plan, asked)
    if decision is None:
        folder, digest, length = model.cache_dir, model.digest, model.plan.max_positions
        decision = decide(_read(folder, digest, length) or _measure_and_keep(model, threads))
    return decision


def recorded_decision(folder: Path, digest: str, plan: Plan) -> Decision | None:
    """What the gate said at an earlier start on these kernels; None if it was not asked."""
    figures = _read(folder, digest, plan.max_positions)
    return None if figures is None else decide(figures)


def decide_unmeasured(plan: Plan, asked: KvKind | None) -> Decision | None:
    """What follows from the wish and the model's shape alone; None if it takes a measurement. Raises InvalidRequest."""
    if plan.is_whole:
        return Decision(KvKind.HALF, "an encoder keeps no keys and values")
    if asked is KvKind.HALF:
        return Decision(asked, "as configured")
    if not plan.cache.supports(KvKind.INT8):
        hindrance = f"heads of {plan.cache.head_dim} features are no whole groups of {GROUP}, which int8 needs"
        if asked is None:
            return Decision(KvKind.HALF, hindrance)
        raise InvalidRequest(f"kv_type: int8 is not possible with this model: {hindrance}; use fp16.", param="kv_type")
    if asked is not None:
        return Decision(asked, "as configured")
    if plan.max_positions < FEWEST_TOKENS:
        return Decision(KvKind.HALF, f"a context of {plan.max_positions} tokens is too short to measure int8 on")
    if kernel_variant() == "reference":
        return Decision(KvKind.HALF, "the reference kernels would need minutes to measure int8")
    return None


def decide(figures: Figures) -> Decision:
    """8 bits if their loss is a number and exceeds `MAX_LOSS` by no more than its standard error."""
    shown = (
        f"NLL {figures.int8_nll:.4f} with int8, {figures.half_nll:.4f} with fp16: "
        f"{figures.difference:+.4f} +- {figures.error:.4f} nats a token "
        f"({figures.loss:+.2%}, at most {MAX_LOSS:.1%} and a standard error)"
    )
    is_harmless = figures.half_nll > 0 and figures.difference <= MAX_LOSS * figures.half_nll + figures.error
    kind = KvKind.INT8 if is_harmless else KvKind.HALF
    return Decision(kind, shown, figures)


def token_nll(
    model: "LoadedModel", threads: Any, tokens: NDArray[np.int32], kind: KvKind = KvKind.HALF
) -> NDArray[np.float64]:
    """NLL of every token but the first, in nats, with keys and values of this kind."""
    pages = -(-len(tokens) // PAGE_TOKENS)
    pool = np.zeros(model.plan.cache.pool_shape(kind, pages), kind.dtype)
    table = np.arange(pages, dtype=np.int32)[None, :]
    vocab_size = model.plan.vocab_size
    chunk = min(max(_LOGIT_BYTES // (4 * vocab_size) // GROUP, 1) * GROUP, 256, len(tokens))
    logits = np.empty((chunk, vocab_size), np.float32)
    values = np.empty(len(tokens) - 1)
    for start in range(0, len(tokens) - 1, chunk):
        piece = tokens[start : start + chunk]
        rows = logits[: len(piece)]
        model.program.step(
            threads,
            pool,
            piece,
            np.array([0, len(piece)], np.int32),
            np.array([start], np.int32),
            table,
            np.arange(len(piece), dtype=np.int32),
            output=rows,
        )
        following = tokens[start + 1 : start + 1 + len(piece)]
        for place, (row, token) in enumerate(zip(rows, following, strict=False), start):
            peak = row.max()
            values[place] = peak - float(row[token]) + math.log(np.exp(row - peak).sum(dtype=np.float64))
    return values


def measure(model: "LoadedModel", threads: Any, variant: str) -> Figures:
    """Read the text once with each kind."""
    text = resources.files(__package__).joinpath("gate.txt").read_text("utf-8")
    ids = model.tokenizer.encode(text, bos=True)
    tokens = np.array(ids[: _num_tokens(model.plan.max_positions)], np.int32)
    half = token_nll(model, threads, tokens, KvKind.HALF)
    int8 = token_nll(model, threads, tokens, KvKind.INT8)
    difference = int8 - half
    return Figures(
        version=VERSION,
        digest=model.digest,
        variant=variant,
        num_tokens=_num_tokens(model.plan.max_positions),
        half_nll=float(half.mean()),
        int8_nll=float(int8.mean()),
        difference=float(difference.mean()),
        error=float(difference.std(ddof=1) / math.sqrt(len(difference))),
    )


def _num_tokens(context_length: int) -> int:
    return min(MOST_TOKENS, context_length)


def _measure_and_keep(model: "LoadedModel", threads: Any) -> Figures:
    folder = model.cache_dir
    figures = measure(model, threads, kernel_variant())
    # What is no number cannot be written down; such a model has other troubles than a slow start.
    if folder is not None and math.isfinite(figures.difference):
        try:
            _write(_path(folder, model.digest, figures.variant), figures)
        except OSError as error:
            _log.warning("The figures of the int8 gate cannot be kept in %s (%s); every start measures.", folder, error)
    return figures


def kernel_variant() -> str:
    """The kernels in use."""
    from headrace.kernels import native  # noqa: PLC0415 - tests with a double of the program need no compiled module

    return native.variant()


def _path(folder: Path, digest: str, variant: str) -> Path:
    return folder / f"{digest.removeprefix('sha256:')[:20]}.{variant}.kv.json"


def _read(folder: Path | None, digest: str, context_length: int) -> Figures | None:
    """Figures that hold for this model, these kernels and this version; None, and a warning if the file is damaged."""
    if folder is None:
        return None
    path = _path(folder, digest, kernel_variant())
    try:
        with path.open("rb") as file:
            figures = msgspec.json.decode(file.read(_MOST_RECORD_BYTES), type=Figures)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.warning("int8 gate: %s is damaged (%s); measuring again.", path, error)
        return None
    key = (figures.version, figures.digest, figures.variant, figures.num_tokens)
    return figures if key == (VERSION, digest, kernel_variant(), _num_tokens(context_length)) else None


def _write(path: Path, figures: Figures) -> None:
    """Beside the final name first, so that nobody reads half a file."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(6)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(msgspec.json.encode(figures))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
