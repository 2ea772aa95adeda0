"""What routes reach that run no model: small protocols, implemented below and joined in `cli`."""

from typing import Protocol

from headrace.core.backend import ModelCard


class Adapters(Protocol):
    """Adapters of served models. Names are `model:adapter`, or `adapter` where one model is served."""

    async def load_adapter(self, name: str) -> ModelCard:
        """Hold an adapter in memory, if it is not there; its card. Raises NotFound, ModelFileError, Unavailable."""
        ...

    async def unload_adapter(self, name: str) -> None:
        """Take it out of memory; requests that use it end as they would. Raises NotFound if it is not there."""
        ...
