"""What routes reach that run no model: small protocols, implemented below and joined in `cli`."""

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Residence:
    """A served model and what it holds.

    `state`: absent, waiting (for memory), loading, ready or leaving. `bytes_held`: weights and pages together, 0 while
    absent. `idle_s`: since its last request ended, None while one runs or none has. `unloads_in_s`: when it leaves if
    nobody asks for it, None if it stays.
    """

    name: str
    state: str
    bytes_held: int = 0
    num_requests: int = 0
    idle_s: float | None = None
    unloads_in_s: float | None = None


class Residents(Protocol):
    """Served models, of which some are in memory."""

    @property
    def memory_bytes(self) -> int | None:
        """What they may hold together, None without a bound."""
        ...

    async def load_model(self, name: str) -> Residence:
        """Hold a model in memory, if it is not there. Raises NotFound, ModelFileError, Overloaded, Unavailable."""
        ...

    async def unload_model(self, name: str, *, waits: bool = True) -> Residence:
        """Take it out of memory, after its running requests have ended.

        Raises NotFound, InvalidRequest if it could not be loaded again, and without `waits` Conflict if it is in use.
        """
        ...

    def residences(self) -> tuple[Residence, ...]:
        """Every served model and what it holds."""
        ...
