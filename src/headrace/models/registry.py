"""Which architecture a model file asks for: two tables, one per format. Unknown names are refused, never guessed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import Plan
from headrace.models import (
    bert,
    gemma2,
    gemma3,
    granite,
    llama,
    mixtral,
    moe,
    olmo2,
    olmoe,
    phi3,
    qwen2,
    qwen2_moe,
    qwen3,
    qwen3_moe,
    smollm3,
)
from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import computed_vectors

C = TypeVar("C")
"""An architecture's own config."""


@dataclass(frozen=True, slots=True)
class Architecture(Generic[C]):
    """What a model file's forward pass needs: read the config, record the plan, compute what no tensor holds.

    `labels`: the names of what a classifier's output says, in order; empty where the output is of another kind.
    """

    name: str
    read_config: Callable[[Checkpoint, int | None], C]
    record: Callable[[C], Plan]
    computed_vectors: Callable[[C], dict[str, NDArray[np.float32]]]
    labels: Callable[[C], tuple[str, ...]] = lambda config: ()  # of a model that classifies


LLAMA = Architecture("llama", llama.read_config, llama.record, computed_vectors)
MISTRAL = Architecture("mistral", llama.read_mistral_config, llama.record, computed_vectors)
QWEN2 = Architecture("qwen2", qwen2.read_config, llama.record, computed_vectors)
QWEN3 = Architecture("qwen3", qwen3.read_config, llama.record, computed_vectors)
GEMMA2 = Architecture("gemma2", gemma2.read_config, gemma3.record, computed_vectors)
MIXTRAL = Architecture("mixtral", mixtral.read_config, moe.record, computed_vectors)
QWEN2_MOE = Architecture("qwen2_moe", qwen2_moe.read_config, moe.record, computed_vectors)
QWEN3_MOE = Architecture("qwen3_moe", qwen3_moe.read_config, moe.record, computed_vectors)
OLMOE = Architecture("olmoe", olmoe.read_config, moe.record, computed_vectors)
GEMMA3 = Architecture("gemma3", gemma3.read_config, gemma3.record, computed_vectors)
BERT = Architecture("bert", bert.read_config, bert.record, bert.computed_vectors, bert.labels)

PHI3 = Architecture("phi3", phi3.read_config, llama.record, computed_vectors)
GRANITE = Architecture("granite", granite.read_config, llama.record, computed_vectors)
OLMO2 = Architecture("olmo2", olmo2.read_config, olmo2.record, computed_vectors)
SMOLLM3 = Architecture("smollm3", smollm3.read_config, llama.record, computed_vectors)

GGUF: Mapping[str, Architecture[Any]] = {
    each.name: each for each in (LLAMA, QWEN2, QWEN3, GEMMA2, GEMMA3, PHI3, GRANITE, OLMO2, SMOLLM3, BERT, OLMOE)
} | {"qwen2moe": QWEN2_MOE, "qwen3moe": QWEN3_MOE}
"""By `general.architecture`. GGUF files of Mistral and Mixtral call themselves llama; Mixtral's have experts."""

CONFIG: Mapping[str, tuple[str, Architecture[Any]]] = {
    # model_type: (class that `architectures` must name, if it names any; architecture)
    "llama": ("LlamaForCausalLM", LLAMA),
    "mistral": ("MistralForCausalLM", MISTRAL),
    "qwen2": ("Qwen2ForCausalLM", QWEN2),
    "qwen3": ("Qwen3ForCausalLM", QWEN3),
    "gemma2": ("Gemma2ForCausalLM", GEMMA2),
    "phi3": ("Phi3ForCausalLM", PHI3),
    "granite": ("GraniteForCausalLM", GRANITE),
    "olmo2": ("Olmo2ForCausalLM", OLMO2),
    "smollm3": ("SmolLM3ForCausalLM", SMOLLM3),
    "gemma3_text": ("Gemma3ForCausalLM", GEMMA3),
    "bert": ("BertModel", BERT),
    "roberta": ("RobertaModel", BERT),
    "xlm-roberta": ("XLMRobertaModel", BERT),
    "mixtral": ("MixtralForCausalLM", MIXTRAL),
    "qwen2_moe": ("Qwen2MoeForCausalLM", QWEN2_MOE),
    "qwen3_moe": ("Qwen3MoeForCausalLM", QWEN3_MOE),
    "olmoe": ("OlmoeForCausalLM", OLMOE),
}

MORE_CLASSES: Mapping[str, tuple[str, ...]] = {
    **bert.CLASSES,
    "gemma3_text": ("Gemma3ForCausalLM", "Gemma3TextModel"),
}
"""Further classes that `architectures` may name, by model_type; the architecture reads what they differ in.

Where nothing stands here: those of a decoder with its head and without, such as Qwen3ForCausalLM and Qwen3Model.
"""


def architecture_for(checkpoint: Checkpoint) -> Architecture[Any]:
    """The architecture that the file names.

    Raises:
        ModelFileError: the file names none, or one that is not in the table; the message lists the known ones.
    """
    if checkpoint.format == "gguf":
        key = "general.architecture"
        architecture: Architecture[Any] = GGUF[_known(key, checkpoint.metadata.get(key), GGUF)]
        has_experts = checkpoint.metadata.get("llama.expert_count", 0) != 0
        return MIXTRAL if architecture is LLAMA and has_experts else architecture
    model_type = _known("model_type", checkpoint.metadata.get("model_type"), CONFIG)
    class_name, architecture = CONFIG[model_type]
    classes = MORE_CLASSES.get(model_type, (class_name, class_name.replace("ForCausalLM", "Model")))
    stated = checkpoint.metadata.get("architectures") or [class_name]
    if stated not in [[name] for name in classes]:
        raise ModelFileError(
            f"architectures = {stated!r}: only {', '.join(classes)} is known for this model_type.",
            param="architectures",
        )
    return architecture


def _known(key: str, value: object, table: Mapping[str, object]) -> str:
    if not isinstance(value, str) or value not in table:
        raise ModelFileError(f"{key} = {value!r} is not known; known architectures: {', '.join(table)}.", param=key)
    return value
