"""How many pages a model gets and how many bytes they are: one function for whoever makes a lane and whoever plans.

The budget for keys and values is shared out evenly among the models that are served, loaded or not, so that a model's
share does not depend on who came first. Pure: values in, a value out.
"""

from dataclasses import dataclass

from headrace.engine.config import EngineConfig, pages_for
from headrace.kernels.plan import PAGE_TOKENS, CacheShape, KvKind


@dataclass(frozen=True, slots=True)
class Footing:
    """What the size of a lane's pool follows from.

    `is_pooled`: it needs no more than the longest input, or a step's sequences, take. `part`: the part of its model's
    memory that it may have.
    """

    cache: CacheShape
    kv_kind: KvKind
    context_length: int
    is_pooled: bool = False
    part: float = 1.0


@dataclass(frozen=True, slots=True)
class Provision:
    """A model's page pool: how many pages, and bytes of all of them."""

    num_pages: int
    num_bytes: int


def provide(config: EngineConfig, num_sharing: int, footing: Footing) -> Provision:
    """The pool of a model that shares the budget with others, `num_sharing` together. Of a resolved config.

    Raises ValueError if not even one page fits.
    """
    if config.kv_memory_bytes is None:
        raise ValueError("kv_memory_bytes: None; call engine.config.resolve before.")
    share = int(config.kv_memory_bytes // max(1, num_sharing) * footing.part)
    page_bytes = footing.cache.page_bytes(footing.kv_kind)
    num_pages = pages_for(share, page_bytes, config.max_sequences, footing.context_length)
    if footing.is_pooled:
        # And the rest of the last page of each sequence.
        step_tokens = max(config.max_batch_tokens, footing.context_length)
        num_pages = min(num_pages, -(-step_tokens // PAGE_TOKENS) + config.max_sequences)
    return Provision(num_pages, num_pages * page_bytes)
