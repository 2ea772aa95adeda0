"""What is known of the files of served models, and how more models come onto the machine: values and a protocol."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDetails:
    """What the files of a model say of it.

    `format` is gguf or safetensors, `quantization` the type of most of its weights, `metadata` what its header or its
    config says (long lists left out). `modified_s` is Unix time, `num_bytes` of all its files.
    """

    num_bytes: int
    modified_s: float
    format: str
    family: str
    num_parameters: int
    quantization: str
    context_length: int | None = None
    embedding_length: int | None = None
    template: str = ""
    licence: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PullStep:
    """Something that happened while a model is fetched: what, and how many bytes of how many (None: nobody knows)."""

    what: str
    num_done: int = 0
    num_bytes: int | None = None


class Library(Protocol):
    """The models of a machine."""

    async def describe(self, model: str) -> ModelDetails:
        """What the files of a served model say. Raises NotFound, ModelFileError."""
        ...

    def pull(self, name: str) -> AsyncGenerator[PullStep, None]:
        """Fetch a model of the catalog onto the machine; it is there when the steps end.

        Closing the steps early stops telling and not fetching. Raises InvalidRequest for a name that is not in the
        catalog, Unavailable (network, disk: what has come is kept), ModelFileError.
        """
        ...
