"""How a model's hidden states become one vector, or one score: what the files beside the weights say of it.

Reads the modules of a sentence-transformers folder, GGUF's pooling type, and a cross-encoder's activation; where a
model says nothing, encoders average their tokens and decoders take the last one, both to length one. Adding up rows
is the affair of whoever computes them. Knows no tokens, no kernels and no requests.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError
from headrace.models.checkpoint import Checkpoint
from headrace.models.fields import Fields
from headrace.models.safetensors import read_json, read_json_list

MODULES_FILE = "modules.json"
LIMIT_FILE = "sentence_bert_config.json"
PROMPTS_FILE = "config_sentence_transformers.json"
_SMALLEST_LENGTH = 1e-12  # below it a vector is left as it is: all zeros have no direction


class PoolingKind(StrEnum):
    """Which rows the vector is made of."""

    MEAN = "mean"
    FIRST = "first"
    LAST = "last"


class ScoreActivation(StrEnum):
    """What turns a classifier's output into the score."""

    SIGMOID = "sigmoid"
    IDENTITY = "identity"

    def apply(self, value: float) -> float:
        """The score of one output."""
        if self is ScoreActivation.IDENTITY:
            return value
        # Of two ways to write it, the one whose exponential cannot overflow.
        return 1.0 / (1.0 + math.exp(-value)) if value >= 0 else math.exp(value) / (1.0 + math.exp(value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooling:
    """From the hidden states of an input's tokens to its vector.

    `max_tokens`: longer inputs are to be cut (None: the model's context). `prefix` stands before every text.
    """

    kind: PoolingKind
    normalizes: bool = True
    max_tokens: int | None = None
    prefix: str = ""

    def finish(self, vector: NDArray[np.float32], dimensions: int | None = None) -> NDArray[np.float32]:
        """The vector that users get of what `kind` made of the rows [D].

        dimensions: only so many features from the start, brought to length one again where the model does that
        (Matryoshka representations, arXiv 2205.13147).
        """
        vector = vector[:dimensions]
        if self.normalizes:
            length = float(np.sqrt(np.square(vector, dtype=np.float64).sum()))
            vector = vector / np.float32(max(length, _SMALLEST_LENGTH))
        return vector


def read_pooling(checkpoint: Checkpoint, folder: Path, *, is_whole: bool) -> Pooling:
    """What the model's files say; `folder` holds them. `is_whole`: of an encoder.

    Raises ModelFileError naming the file, field and value that is malformed or not supported.
    """
    default = PoolingKind.MEAN if is_whole else PoolingKind.LAST
    if checkpoint.format == "gguf":
        return Pooling(kind=_gguf_kind(checkpoint.metadata, default))
    if not (folder / MODULES_FILE).is_file():
        return Pooling(kind=default)
    kind, normalizes = default, False
    for name, path in _modules(folder):
        if name == "Pooling":
            kind = _folder_kind(folder / path)
        elif name == "Normalize":
            normalizes = True
    return Pooling(kind=kind, normalizes=normalizes, max_tokens=_max_tokens(folder), prefix=_prefix(folder))


def read_activation(checkpoint: Checkpoint, num_labels: int) -> ScoreActivation:
    """What a cross-encoder's scores pass through: the sigmoid, unless the file says otherwise or it has many labels."""
    nested = checkpoint.metadata.get("sentence_transformers")
    stated = checkpoint.metadata.get("sbert_ce_default_activation_function")
    if isinstance(nested, dict):
        stated = nested.get("activation_fn", stated)
    if stated is None:
        return ScoreActivation.SIGMOID if num_labels == 1 else ScoreActivation.IDENTITY
    name = str(stated).rpartition(".")[2]
    if name not in ("Identity", "Sigmoid"):
        raise ModelFileError(
            f"activation_fn = {stated!r}: not supported by this version, which knows Identity and Sigmoid.",
            param="activation_fn",
        )
    return ScoreActivation(name.lower())


def _gguf_kind(metadata: Mapping[str, Any], default: PoolingKind) -> PoolingKind:
    key = f"{metadata.get('general.architecture')}.pooling_type"
    # 0 says "none" and 4 "rank", which a classifier does within its plan.
    kinds = {None: default, 0: default, 1: PoolingKind.MEAN, 2: PoolingKind.FIRST, 3: PoolingKind.LAST, 4: default}
    value = metadata.get(key)
    if not (value is None or isinstance(value, int)) or value not in kinds:
        raise ModelFileError(f"{key} = {value!r}: only 0 to 4 are known.", param=key)
    return kinds[value]


def _modules(folder: Path) -> list[tuple[str, str]]:
    """Name and folder of every module, in order; the first is the transformer itself."""
    file = folder / MODULES_FILE
    modules = []
    for entry in read_json_list(file):
        kind, path = (entry.get("type"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str):
            raise ModelFileError(
                f"{file}: {str(entry)[:200]} is not a module with type and path; fetch the file again."
            )
        if Path(path).name != path:
            raise ModelFileError(f"{file}: path {path!r} is not the name of a folder beside it; refused.")
        modules.append((kind.rpartition(".")[2], path))
    names = [name for name, _ in modules]
    if names not in (["Transformer"], ["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise ModelFileError(
            f"{file}: modules {', '.join(names)}: not supported by this version, which knows Transformer, then "
            "Pooling, then Normalize; choose a model without other modules.",
            param="modules",
        )
    return modules


def _folder_kind(folder: Path) -> PoolingKind:
    file = folder / "config.json"
    config = read_json(file)
    stated = config.get("pooling_mode")
    if stated is None:
        flags = "pooling_mode_"
        on = [key.removeprefix(flags) for key, value in config.items() if key.startswith(flags) and value is True]
        stated = ", ".join(on)
    kinds = {
        **dict.fromkeys(("mean", "mean_tokens"), PoolingKind.MEAN),
        **dict.fromkeys(("cls", "cls_token"), PoolingKind.FIRST),
        **dict.fromkeys(("lasttoken",), PoolingKind.LAST),
    }
    if not isinstance(stated, str) or stated not in kinds:
        raise ModelFileError(
            f"{file}: pooling mode {stated!r}: not supported by this version, which knows one of mean, cls, lasttoken.",
            param="pooling_mode",
        )
    return kinds[stated]


def _max_tokens(folder: Path) -> int | None:
    file = folder / LIMIT_FILE
    if not file.is_file():
        return None
    fields = Fields(read_json(file))
    if fields.flag("do_lower_case", default=False):
        fields.refuse("do_lower_case", False)
    return fields.integer("max_seq_length") if fields.get("max_seq_length") is not None else None


def _prefix(folder: Path) -> str:
    """The prompt that stands before every text, where the model has a default one."""
    file = folder / PROMPTS_FILE
    if not file.is_file():
        return ""
    config = read_json(file)
    name, prompts = config.get("default_prompt_name"), config.get("prompts")
    if name is None:
        return ""
    prefix = prompts.get(name) if isinstance(prompts, dict) else None
    if not isinstance(prefix, str):
        raise ModelFileError(f"{file}: default_prompt_name = {name!r} is not among the prompts.", param="prompts")
    return prefix
