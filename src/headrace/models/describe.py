"""What a model's files say of it without loading it: size, family, number of parameters, quantisation, template.

Reads headers only. What a file does not say is empty or None; a broken one raises ModelFileError. Knows no names that
models are served under.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from headrace.core.errors import ModelFileError
from headrace.core.model_library import ModelDetails
from headrace.models.gguf import GgufFile
from headrace.models.load import open_checkpoint, read_template
from headrace.models.safetensors import SafetensorsFolder

# Values of these lists are a vocabulary, not a description.
MAX_LISTED: Final = 64


def describe(path: Path) -> ModelDetails:
    """The details of the model at a path. Raises ModelFileError."""
    checkpoint = open_checkpoint(path)
    if isinstance(checkpoint, GgufFile):
        return _of_gguf(path, checkpoint)
    if isinstance(checkpoint, SafetensorsFolder):
        return _of_folder(path, checkpoint)
    raise ModelFileError(f"{path}: is of a kind whose files say nothing of themselves.")


def _of_gguf(path: Path, file: GgufFile) -> ModelDetails:
    tensors = file.tensors
    weights: Counter[str] = Counter()
    for name, info in tensors.items():
        weights[file.type_name(name)] += math.prod(info.shape)
    metadata = dict(_plain(file.metadata))
    family = str(metadata.get("general.architecture", ""))
    return ModelDetails(
        **_sizes([file.path]),
        format="gguf",
        family=family,
        num_parameters=weights.total(),
        quantization=weights.most_common(1)[0][0] if weights else "",
        context_length=_whole(metadata.get(f"{family}.context_length")),
        embedding_length=_whole(metadata.get(f"{family}.embedding_length")),
        template=read_template(file, path),
        licence=str(metadata.get("general.license", "")),
        metadata=metadata | {"general.parameter_count": weights.total()},
    )


def _of_folder(path: Path, folder: SafetensorsFolder) -> ModelDetails:
    metadata = dict(_plain(folder.metadata))
    family = str(metadata.get("model_type", ""))
    count = sum(math.prod(folder.shape(name)) for name in folder.names)
    return ModelDetails(
        **_sizes(list(folder.files)),
        format="safetensors",
        family=family,
        num_parameters=count,
        quantization=str(metadata.get("torch_dtype") or metadata.get("dtype") or "").upper(),
        context_length=_whole(metadata.get("max_position_embeddings")),
        embedding_length=_whole(metadata.get("hidden_size")),
        template=read_template(folder, path),
        metadata=metadata | {"general.architecture": family, "general.parameter_count": count},
    )


def _sizes(files: list[Path]) -> dict[str, Any]:
    try:
        found = [file.stat() for file in files]
    except OSError as error:
        raise ModelFileError(f"{files[0]}: cannot be read ({error.strerror or error}).") from error
    return {"num_bytes": sum(one.st_size for one in found), "modified_s": max(one.st_mtime for one in found)}


def _plain(metadata: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """What is short enough to be shown; long lists are the tokenizer's and are not read here."""
    for key in metadata:
        if key.startswith("tokenizer.ggml.") and key.rpartition(".")[2] in {"tokens", "merges", "scores", "token_type"}:
            continue
        value = metadata[key]
        listed = value if isinstance(value, list) else [value]
        if len(listed) <= MAX_LISTED and all(map(_is_plain, listed)):
            yield key, value


def _is_plain(value: Any) -> bool:
    return isinstance(value, bool | int | str | None) or (isinstance(value, float) and math.isfinite(value))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
