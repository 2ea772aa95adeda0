"""Rotary positions: which frequencies a file asks for, and the table of cosines and sines that kernels read.

Four scalings are known (`Scaling`); each is a function of the plain inverse frequencies, so that the table is
computed once at load and kernels know nothing of scaling. GGUF files carry llama3 scaling as a tensor of divisors.
Formulas: linear (Chen et al. 2023), yarn (Peng et al. 2023), llama3 (Llama 3.1 model card's `apply_scaling`).

LongRoPE (Ding et al. 2024, arXiv 2402.13753) states two lists of divisors, for contexts up to the original one and for
longer ones. Keys that are kept have been rotated already, so that one of the lists has to hold for all of a program's
life: the short one where the program is made for no more positions than the original context, as llama.cpp and vLLM
decide it. transformers decides at every step anew.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError
from headrace.models.fields import Fields

_CHUNK_POSITIONS = 1024  # keeps float64 temporaries small


class Scaling(StrEnum):
    """How frequencies are changed to reach beyond the trained context."""

    NONE = "none"
    LINEAR = "linear"
    LLAMA3 = "llama3"
    YARN = "yarn"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Everything the table depends on. `divisors` (GGUF's `rope_freqs`) divide the frequencies one by one.

    `amplitude` multiplies cosines and sines (yarn's attention factor). `num_positions`: it is never asked for more
    (0: no limit). The rest belongs to one scaling each.
    """

    theta: float
    rotary_dim: int
    scaling: Scaling = Scaling.NONE
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    amplitude: float = 1.0
    divisors: tuple[float, ...] = ()
    num_positions: int = 0


def table(rope: Rope, num_positions: int) -> NDArray[np.float32]:
    """[num_positions, rotary_dim]: cosines of all pairs, then sines; computed in float64."""
    values = np.empty((num_positions, rope.rotary_dim), dtype=np.float32)
    half, per_position = rope.rotary_dim // 2, frequencies(rope)
    for first in range(0, num_positions, _CHUNK_POSITIONS):
        last = min(first + _CHUNK_POSITIONS, num_positions)
        angles = np.outer(np.arange(first, last, dtype=np.float64), per_position)
        values[first:last, :half] = np.cos(angles) * rope.amplitude
        values[first:last, half:] = np.sin(angles) * rope.amplitude
    return values


def frequencies(rope: Rope) -> NDArray[np.float64]:
    """Radians per position for each of the rotary_dim / 2 pairs."""
    exponents = np.arange(0, rope.rotary_dim, 2, dtype=np.float64) / rope.rotary_dim
    plain: NDArray[np.float64] = np.power(rope.theta, -exponents)
    scaled = _SCALINGS[rope.scaling](rope, plain)
    return scaled / np.array(rope.divisors or 1.0, dtype=np.float64)


def _none(rope: Rope, plain: NDArray[np.float64]) -> NDArray[np.float64]:
    return plain


def _linear(rope: Rope, plain: NDArray[np.float64]) -> NDArray[np.float64]:
    return plain / rope.factor


def _llama3(rope: Rope, plain: NDArray[np.float64]) -> NDArray[np.float64]:
    turns = rope.original_context * plain / (2 * math.pi)  # full turns within the original context
    span = rope.high_freq_factor - rope.low_freq_factor
    kept = np.clip((turns - rope.low_freq_factor) / span, 0.0, 1.0)
    return (kept + (1.0 - kept) / rope.factor) * plain


def _yarn(rope: Rope, plain: NDArray[np.float64]) -> NDArray[np.float64]:
    def pair_with_turns(turns: float) -> float:
        # The (fractional) pair that makes this many full turns within the original context.
        return rope.rotary_dim * math.log(rope.original_context / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = pair_with_turns(rope.beta_fast), pair_with_turns(rope.beta_slow)
    if rope.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.rotary_dim - 1)
    width = last - first if last != first else 0.001  # a step instead of a division by zero
    interpolated = np.clip((np.arange(rope.rotary_dim // 2) - first) / width, 0.0, 1.0)
    shares: NDArray[np.float64] = (1.0 - interpolated) + interpolated / rope.factor
    return plain * shares


_SCALINGS = {Scaling.NONE: _none, Scaling.LINEAR: _linear, Scaling.LLAMA3: _llama3, Scaling.YARN: _yarn}


def yarn_amplitude(factor: float, weight: float = 1.0) -> float:
    """Yarn's attention factor: 0.1 ln(factor) + 1, with a weight that some configs state."""
    return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0


def read_gguf(fields: Fields, head_dim: int, divisors: NDArray[np.float32] | None) -> Rope:
    """Rope of a GGUF file; `fields` carries the architecture's prefix, `divisors` is the tensor `rope_freqs.weight`."""
    rotary_dim = _rotary_dim(fields, "rope.dimension_count", fields.integer("rope.dimension_count", head_dim), head_dim)
    if divisors is not None and (divisors.shape != (rotary_dim // 2,) or not (divisors > 0).all()):
        raise ModelFileError(
            f"rope_freqs.weight: {rotary_dim // 2} positive values are needed, the tensor has shape {divisors.shape}."
        )
    kind = fields.get("rope.scaling.type") or "none"
    factor = fields.number("rope.scaling.factor", fields.number("rope.scale_linear", 1.0))
    if kind == "none" and fields.get("rope.scale_linear") is not None:
        kind = "linear"  # the key of old files
    common = Rope(
        theta=fields.number("rope.freq_base", 10000.0),
        rotary_dim=rotary_dim,
        divisors=() if divisors is None else tuple(float(value) for value in divisors),
    )
    if kind == "none":
        return common
    if kind == "linear":
        return replace(common, scaling=Scaling.LINEAR, factor=factor)
    if kind != "yarn":
        raise fields.fault("rope.scaling.type", "unknown rope scaling; known are none, linear and yarn.")
    fields.refuse("rope.scaling.yarn_ext_factor", 1.0)
    fields.refuse("rope.scaling.yarn_log_multiplier", 0.0)
    return replace(
        common,
        scaling=Scaling.YARN,
        factor=factor,
        original_context=fields.integer("rope.scaling.original_context_length", fields.integer("context_length")),
        beta_fast=fields.number("rope.scaling.yarn_beta_fast", 32.0),
        beta_slow=fields.number("rope.scaling.yarn_beta_slow", 1.0),
        amplitude=yarn_amplitude(factor)
        * fields.number("rope.scaling.yarn_attn_factor", fields.number("rope.scaling.attn_factor", 1.0)),
    )


def read_config(fields: Fields, head_dim: int) -> Rope:
    """Rope of a `config.json`, in the old form (`rope_theta`, `rope_scaling`) or the new (`rope_parameters`)."""
    stated = _stated_parameters(fields)
    parameters = Fields(stated)
    kind = stated.get("rope_type") or stated.get("type") or "default"
    theta = parameters.number("rope_theta", fields.number("rope_theta", 10000.0))
    share = parameters.number("partial_rotary_factor", fields.number("partial_rotary_factor", 1.0))
    common = Rope(theta=theta, rotary_dim=_rotary_dim(fields, "partial_rotary_factor", int(head_dim * share), head_dim))
    if kind == "default":
        return common
    if kind not in ("linear", "llama3", "yarn"):
        raise ModelFileError(
            f"rope_type = {kind!r}: unknown rope scaling; known are default, linear, llama3 and yarn.",
            param="rope_type",
        )
    scaled = replace(common, scaling=Scaling(kind), factor=parameters.number("factor"))
    if kind == "linear":
        return scaled
    original = fields.integer(
        "original_max_position_embeddings",
        parameters.integer("original_max_position_embeddings", fields.integer("max_position_embeddings")),
    )
    if kind == "llama3":
        low, high = parameters.number("low_freq_factor"), parameters.number("high_freq_factor")
        if high <= low:
            raise parameters.fault("high_freq_factor", f"must be above low_freq_factor ({low}).")
        return replace(scaled, original_context=original, low_freq_factor=low, high_freq_factor=high)
    return replace(
        scaled,
        original_context=original,
        beta_fast=parameters.number("beta_fast", 32.0),
        beta_slow=parameters.number("beta_slow", 1.0),
        truncate=parameters.flag("truncate", True),
        amplitude=_config_amplitude(parameters, scaled.factor),
    )


@dataclass(frozen=True, slots=True)
class LongRope:
    """LongRoPE's pair: `short` reaches as far as the original context, `long` further."""

    short: Rope
    long: Rope


def read_long_gguf(fields: Fields, head_dim: int, short: NDArray[np.float32], long: NDArray[np.float32]) -> LongRope:
    """LongRoPE of a GGUF file, out of the tensors `rope_factors_short.weight` and `rope_factors_long.weight`."""
    fields.refuse("rope.scaling.type", "none", "longrope")
    fields.refuse("rope.scaling.factor", 0.0, 1.0)
    unscaled = Fields({**fields.values, f"{fields.prefix}rope.scaling.type": None}, fields.prefix)
    plain = read_gguf(unscaled, head_dim, None)
    original = fields.integer("rope.scaling.original_context_length", fields.integer("context_length"))
    scaled = replace(plain, amplitude=fields.number("rope.scaling.attn_factor", 1.0))
    for name, factors in (("short", short), ("long", long)):
        if factors.shape != (plain.rotary_dim // 2,) or not (factors > 0).all():
            raise ModelFileError(
                f"rope_factors_{name}.weight: {plain.rotary_dim // 2} positive values are needed, "
                f"the tensor has shape {factors.shape}."
            )
    return _long_rope(scaled, original, short.tolist(), long.tolist())


def read_long_config(fields: Fields, head_dim: int) -> LongRope | None:
    """LongRoPE of a `config.json`; None where it asks for another rope."""
    stated = _stated_parameters(fields)
    kind = stated.get("rope_type") or stated.get("type")
    # Files of early Phi-3 say su, and yarn beside factors that yarn does not have.
    if kind not in ("longrope", "su") and not (kind == "yarn" and "long_factor" in stated):
        return None
    parameters = Fields(stated)
    for key in ("short_mscale", "long_mscale"):
        parameters.refuse(key)
    trained = fields.integer("max_position_embeddings")
    original = fields.integer(
        "original_max_position_embeddings", parameters.integer("original_max_position_embeddings", trained)
    )
    factor = parameters.number("factor", trained / original)
    amplitude = math.sqrt(1.0 + math.log(factor) / math.log(original)) if factor > 1.0 else 1.0
    plain = read_config(Fields({**fields.values, "rope_parameters": {**stated, "rope_type": "default"}}), head_dim)
    scaled = replace(plain, amplitude=parameters.number("attention_factor", amplitude))
    short, long = (_divisors(parameters, key, plain.rotary_dim // 2) for key in ("short_factor", "long_factor"))
    return _long_rope(scaled, original, short, long)


def _divisors(parameters: Fields, key: str, count: int) -> list[float]:
    values = parameters.get(key)
    if not isinstance(values, list) or len(values) != count:
        raise parameters.fault(key, f"a list of {count} numbers is needed.")
    each = Fields({f"{key}[{i}]": value for i, value in enumerate(values)})
    return [each.number(name) for name in each.values]


def _long_rope(plain: Rope, original: int, short: list[float], long: list[float]) -> LongRope:
    return LongRope(replace(plain, divisors=tuple(short), num_positions=original), replace(plain, divisors=tuple(long)))


def _config_amplitude(parameters: Fields, factor: float) -> float:
    if parameters.get("attention_factor") is not None:
        return parameters.number("attention_factor")
    if parameters.get("mscale") and parameters.get("mscale_all_dim"):
        return yarn_amplitude(factor, parameters.number("mscale")) / yarn_amplitude(
            factor, parameters.number("mscale_all_dim")
        )
    return yarn_amplitude(factor)


def _stated_parameters(fields: Fields) -> Mapping[str, Any]:
    for key in ("rope_parameters", "rope_scaling"):
        stated = fields.get(key)
        if stated is None:
            continue
        if not isinstance(stated, dict) or any(isinstance(value, dict) for value in stated.values()):
            raise fields.fault(key, "one flat object for all layers is needed here.")
        return stated
    return {}


def _rotary_dim(fields: Fields, key: str, rotary_dim: int, head_dim: int) -> int:
    if not 0 < rotary_dim <= head_dim or rotary_dim % 2:
        raise fields.fault(key, f"{rotary_dim} rotated features of {head_dim}; an even number up to that is needed.")
    return rotary_dim
