"""What each policy looks at, as a number that can be told: why a candidate stands where it does. Decides nothing."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from headrace.core.usage import NANOS
from headrace.gateway.routing.option import Option
from headrace.gateway.routing.policies import expected_nanos, expected_s
from headrace.gateway.routing.scene import Scene
from headrace.gateway.settings import Policy

Measure = Callable[[Scene, Option], float | None]

MEASURES: Final[Mapping[Policy, Measure]] = MappingProxyType(
    {
        Policy.WEIGHTED: Scene.share,
        Policy.LEAST_LOADED: lambda scene, option: float(option.state.backend.in_flight),
        Policy.LOWEST_LATENCY: lambda scene, option: expected_s(scene, option, scene.output_tokens((option,))),
        Policy.LOWEST_COST: lambda scene, option: expected_nanos(scene, option) / NANOS,
        Policy.CACHE_AFFINITY: Scene.warm_share,
        Policy.COMPLEXITY: lambda scene, option: float(option.tier),
        Policy.ORDERED: lambda scene, option: float(option.place),
    }
)
"""What each policy looks at: a share; requests on the way; seconds; the price list's unit; a share of the input that is
warm; a tier; a place in the file."""


def scores_of(scene: Scene, option: Option) -> tuple[tuple[str, float | None], ...]:
    """What each policy of a route measures of a candidate now, None where nothing is known."""
    return tuple([(policy, MEASURES[policy](scene, option)) for policy in scene.route.policies])
