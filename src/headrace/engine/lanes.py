"""Which lanes a served model has: one for what it generates or scores by generating, one for what it pools.

Both run over the same weights; each has pages of its own, because what one computes for the other's plan is of no use
to it. Makes values for `engine.py`; knows no requests.
"""

from typing import TYPE_CHECKING

from headrace.core.request import Task
from headrace.engine.draft.speculator import Speculator
from headrace.engine.lane import EngineModel
from headrace.engine.picture import POOLED
from headrace.engine.provision import Footing
from headrace.engine.retention import DiskLink
from headrace.engine.runner import StepProgram
from headrace.engine.served import Served
from headrace.kernels.plan import KvKind

if TYPE_CHECKING:
    from headrace.models.load import LoadedModel

POOLED_PART = 1 / 8
"""Of the memory for keys and values of a model that generates: what inputs that it embeds may take."""


def pooled_lane(model: str) -> str:
    """The name of the lane in which a model's work is pooled."""
    return model + POOLED


def footings(model: "LoadedModel", kv_kind: KvKind) -> tuple[Footing, ...]:
    """What the sizes of the pools of a model's lanes follow from."""
    generates = Task.GENERATE in model.tasks
    cache, length = model.plan.cache, model.context_length
    found = [Footing(cache, kv_kind, length)] if generates else []
    if Task.EMBED in model.tasks or not generates:
        part = POOLED_PART if generates else 1.0
        found.append(Footing(cache, KvKind.HALF, length, is_pooled=True, part=part))
    return tuple(found)


def generating_lane(
    served: Served,
    *,
    program: StepProgram,
    kv_kind: KvKind,
    speculator: Speculator | None = None,
    disk: DiskLink | None = None,
) -> EngineModel:
    """The lane of a model that generates; `program` is the model's, with room for adapters if there are any."""
    return EngineModel(
        name=served.model.name,
        program=program,
        cache=served.model.plan.cache,
        context_length=served.model.context_length,
        kv_kind=kv_kind,
        metrics=served.metrics,
        speculator=speculator,
        disk=disk,
    )


def pooling_lane(served: Served) -> EngineModel:
    """The lane of a model whose hidden states, or scores, are asked for; keys and values in fp16."""
    program = served.pooled_program
    assert program is not None and served.pooled_plan is not None
    return EngineModel(
        name=pooled_lane(served.model.name),
        program=program,
        cache=served.pooled_plan.cache,
        context_length=served.model.context_length,
        metrics=served.pooled_metrics,
        pooled_width=served.vector_width,
        is_whole=served.pooled_plan.is_whole,
        part=POOLED_PART if served.generates else 1.0,
    )
